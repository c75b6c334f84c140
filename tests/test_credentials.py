"""The one-time credentials file: taken once, by its owner alone, and never quoted."""

import json
import os
import traceback
from pathlib import Path

import pytest

from hybridflow.credentials import MAX_BYTES, read_credentials, remove_credentials
from hybridflow.errors import NoSlotError, SiteError

KEY = {"QRMI_IBM_QCS_IAM_APIKEY": "s3cr3t"}
VENDOR = "ibm-quantum-compute-service"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "credentials.json"
    write(file, {"fez": KEY})
    return file


def write(file: Path, content: object) -> None:
    file.touch(mode=0o600)
    file.write_text(json.dumps(content))


def take(file: Path, resource: str = "fez", kind: str = VENDOR, **more: str) -> dict[str, str]:
    environ = {"HYBRIDFLOW_CREDENTIALS": str(file), **more}
    found = read_credentials(environ, resource, kind)
    remove_credentials(environ, resource)
    return found


def test_taken_once_and_removed(file: Path) -> None:
    assert take(file) == KEY
    assert not file.exists()


def test_who_could_not_acquire_may_read_again(file: Path) -> None:
    environ = {"HYBRIDFLOW_CREDENTIALS": str(file)}
    assert read_credentials(environ, "fez", VENDOR) == read_credentials(environ, "fez", VENDOR)


def test_a_file_without_a_secret_in_it_does_not_stay(file: Path) -> None:
    write(file, {"fez": KEY, "aer_a": {}})
    assert take(file) == KEY
    assert not file.exists()


def test_of_several_resources_each_is_taken_once(file: Path) -> None:
    token = {"QRMI_JOB_ACQUISITION_TOKEN": "t"}
    write(file, {"fez": KEY, "torino": KEY | token})
    assert take(file) == KEY
    assert json.loads(file.read_text()) == {"torino": KEY | token}
    assert take(file, "torino") == KEY | token
    assert not file.exists()


def test_a_second_door_is_told_why_there_is_nothing(file: Path) -> None:
    take(file)
    with pytest.raises(NoSlotError, match=r"another `hybridflow slot run` of this job.*inside one"):
        take(file, fez_QRMI_JOB_ACQUISITION_TOKEN="t")


def test_a_type_of_ours_needs_none(file: Path) -> None:
    file.unlink()
    assert take(file, "aer_a", "aer") == {}


def test_a_file_without_an_entry_stays_for_others(file: Path) -> None:
    assert take(file, "aer_a", "aer") == {}
    assert take(file) == KEY


def test_the_reference_plugin_puts_them_into_the_environment() -> None:
    assert read_credentials({"fez_QRMI_IBM_QCS_IAM_APIKEY": "s3cr3t"}, "fez", VENDOR) == KEY


def test_none_at_all() -> None:
    with pytest.raises(NoSlotError, match="HYBRIDFLOW_CREDENTIALS is not"):
        read_credentials({}, "fez", VENDOR)


def test_names_that_dash_drops() -> None:
    with pytest.raises(NoSlotError, match="#!/bin/bash"):
        read_credentials({}, "ibm-fez.1", VENDOR)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"fez": "s3cr3t"}', '{"fez": {"s3cr3t": 1}}', '{"fez": {"a": "s3cr3t"}'],
)
def test_what_is_not_the_plugin_s_is_neither_quoted_nor_removed(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(SiteError, match="no credentials as the plugin") as caught:
        take(file)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))
    assert file.read_text() == content


def test_others_must_not_be_able_to_read_it(file: Path) -> None:
    file.chmod(0o640)
    with pytest.raises(SiteError, match="mode 0640"):
        take(file)


def test_a_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    with pytest.raises(SiteError, match="a link"):
        take(link)
    assert file.exists()


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for place in (tmp_path / "pipe", tmp_path):
        with pytest.raises(SiteError, match=r"no regular file|cannot be opened"):
            take(place)


def test_what_cannot_be_removed_is_not_used(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(SiteError, match="cannot be removed: Permission denied"):
        take(file)


def test_someone_else_s(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(SiteError, match="belongs to user"):
        take(file)


def test_a_bound_on_its_size(file: Path) -> None:
    os.truncate(file, MAX_BYTES + 1)
    with pytest.raises(SiteError, match="1,048,577 bytes"):
        take(file)

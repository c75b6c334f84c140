"""The one-time credentials file: taken once, by its owner alone, and never quoted."""

import json
import os
import traceback
from pathlib import Path

import pytest

from hybridflow.credentials import MAX_BYTES, Credentials
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
    credentials = held(file, resource, kind, **more)
    found = credentials.read()
    credentials.take()
    return found


def held(file: Path, resource: str = "fez", kind: str = VENDOR, **more: str) -> Credentials:
    return Credentials({"HYBRIDFLOW_CREDENTIALS": str(file), **more}, resource, kind)


def test_taken_once_and_removed(file: Path) -> None:
    assert take(file) == KEY
    assert not file.exists()


def test_who_could_not_acquire_may_read_again(file: Path) -> None:
    assert held(file).read() == held(file).read() == KEY


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
    with pytest.raises(
        NoSlotError, match=r"another `hybridflow slot run` of this step.*srun --overlap"
    ):
        take(file, fez_QRMI_JOB_ACQUISITION_TOKEN="t")


def test_a_type_of_ours_needs_none(file: Path) -> None:
    file.unlink()
    assert take(file, "aer_a", "aer") == {}


def test_a_file_without_an_entry_stays_for_others(file: Path) -> None:
    assert take(file, "aer_a", "aer") == {}
    assert take(file) == KEY


def test_the_reference_plugin_puts_them_into_the_environment() -> None:
    assert Credentials({"fez_QRMI_IBM_QCS_IAM_APIKEY": "s3cr3t"}, "fez", VENDOR).read() == KEY


def test_none_at_all() -> None:
    with pytest.raises(NoSlotError, match="HYBRIDFLOW_CREDENTIALS is not"):
        Credentials({}, "fez", VENDOR).read()


def test_names_that_dash_drops() -> None:
    with pytest.raises(NoSlotError, match="#!/bin/bash"):
        Credentials({}, "ibm-fez.1", VENDOR).read()


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


def test_put_back_they_are_there_for_the_next_one(file: Path) -> None:
    """Also where others have taken theirs meanwhile, or put it back before."""
    write(file, {"fez": KEY, "torino": KEY | {"QRMI_IBM_QCS_SESSION_MODE": "batch"}})
    one, other = held(file), held(file, "torino")
    parts = one.read(), other.read()
    one.take()
    other.take()
    assert not file.exists()
    for credentials in (one, other, one):
        credentials.put_back()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (held(file).read(), held(file, "torino").read()) == parts
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_of_two_who_have_read_one_has_them(file: Path) -> None:
    first, second = held(file), held(file)
    assert first.read() == second.read()
    first.take()
    with pytest.raises(NoSlotError, match="another `hybridflow slot run`"):
        second.take()
    second.put_back()
    assert not file.exists()


def test_after_the_step_there_is_no_place_to_put_them_back(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    write(folder / "0.json", {"fez": KEY})
    credentials = held(folder / "0.json")
    credentials.read()
    credentials.take()
    folder.rmdir()
    credentials.put_back()
    assert not folder.exists()


def test_a_full_disk_loses_no_other_s(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = held(file)
    credentials.read()
    credentials.take()
    write(file, {"torino": KEY})

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SiteError, match="cannot be written: No space left"):
        credentials.put_back()
    assert held(file, "torino").read() == KEY

"""Slots: found where they are, refused with a cure where they are not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridflow import slot as slots
from hybridflow.errors import NoSlotError, SiteError
from hybridflow.grants import conflicts, grants
from hybridflow.records import Resource
from hybridflow.site import Classical, Site
from hybridflow.slot import Origin, Slot, connect, current_slot, find_slot, write_slots

SITE = Site(
    name="test",
    path=None,
    default="aer",
    resources={
        name: Resource(name=name, backend=backend)
        for name, backend in [("aer", "aer"), ("other", "fake"), ("with-dash.1", "fake")]
    },
    classical=Classical(),
)
JOB = {"SLURM_JOB_ID": "42"}


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slot:
    slot = Slot(resource="other", backend="fake", origin=Origin.SITE, folder=str(tmp_path))
    write_slots([slot], tmp_path)
    monkeypatch.setenv("HYBRIDFLOW_BROKER", str(tmp_path))
    return slot


# --- where there is no Slurm ---------------------------------------------------------------------


def test_outside_slurm_it_is_the_site_s() -> None:
    assert find_slot(SITE, environ={}) == Slot(resource="aer", backend="aer", origin=Origin.SITE)
    assert find_slot(SITE, "other", {}).backend == "fake"


def test_unknown_resource_is_named_with_those_there_are() -> None:
    with pytest.raises(SiteError, match="no resource 'qpu'; it has: aer, other"):
        find_slot(SITE, "qpu", {})


# --- inside a Slurm job --------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["QRMI_JOB_QPU_RESOURCES", "SLURM_JOB_QPU_RESOURCES"])
def test_slurm_grants_what_the_plugin_acquired(variable: str) -> None:
    found = find_slot(SITE, environ={**JOB, variable: "other"})
    assert found == Slot(resource="other", backend="fake", origin=Origin.SLURM)


def test_the_new_spelling_wins_even_when_it_is_empty() -> None:
    environ = {**JOB, "QRMI_JOB_QPU_RESOURCES": "", "SLURM_JOB_QPU_RESOURCES": "other"}
    with pytest.raises(NoSlotError, match="acquired no QPU"):
        find_slot(SITE, environ=environ)


@pytest.mark.parametrize(
    ("delimiter", "names"),
    [(None, "other,with-dash.1"), (",", " other , with-dash.1,"), (":", "other: with-dash.1 ")],
)
def test_lists_are_read_as_the_plugin_writes_them(delimiter: str | None, names: str) -> None:
    environ = {**JOB, "QRMI_JOB_QPU_RESOURCES": names}
    if delimiter is not None:
        environ["QRMI_LIST_DELIMITER"] = delimiter
    assert find_slot(SITE, "with-dash.1", environ).resource == "with-dash.1"
    assert find_slot(SITE, "other", environ).resource == "other"


def test_of_several_the_site_s_default_is_taken() -> None:
    environ = {**JOB, "QRMI_JOB_QPU_RESOURCES": "other,aer"}
    assert find_slot(SITE, environ=environ).resource == "aer"


def test_of_several_without_the_default_one_must_be_named() -> None:
    environ = {**JOB, "QRMI_JOB_QPU_RESOURCES": "other,with-dash.1"}
    with pytest.raises(NoSlotError, match="--resource"):
        find_slot(SITE, environ=environ)


@pytest.mark.parametrize("names", [None, "", " ", ","])
def test_nothing_acquired_names_the_cure(names: str | None) -> None:
    environ = JOB if names is None else {**JOB, "QRMI_JOB_QPU_RESOURCES": names}
    with pytest.raises(NoSlotError, match=r"job 42 .*sbatch --gres=qpu:1 --qpu=other") as caught:
        find_slot(SITE, "other", environ)
    assert not caught.value.transient


def test_credentials_alone_are_no_slot() -> None:
    """The plugin writes them for resources that it failed to acquire, too."""
    environ = {**JOB, "QRMI_JOB_QPU_RESOURCES": "aer", "other_QRMI_IBM_QCS_IAM_APIKEY": "key"}
    with pytest.raises(NoSlotError, match="acquired 'aer', not 'other'") as caught:
        find_slot(SITE, "other", environ)
    assert "key" not in str(caught.value).replace("--qpu", "")


def test_what_slurm_grants_the_site_must_define() -> None:
    environ = {**JOB, "QRMI_JOB_QPU_RESOURCES": "foreign"}
    with pytest.raises(SiteError, match=r"\[qpu\.foreign\].*HYBRIDFLOW_SITE"):
        find_slot(SITE, environ=environ)


def test_what_the_plugin_says_of_a_slot() -> None:
    environ = {
        **JOB,
        "QRMI_JOB_QPU_RESOURCES": "aer, other",
        "QRMI_JOB_QPU_TYPES": "aer, oqtopus-like",
        "aer_QRMI_JOB_QPU_SLOTS": "3",
        "aer_QRMI_JOB_TIMEOUT_SECONDS": "3600",
        "aer_QRMI_JOB_ACQUISITION_TOKEN": "t0ken",
    }
    found = find_slot(SITE, "aer", environ)
    assert (found.type, found.slots, found.token) == ("aer", 3, True)
    assert "t0ken" not in repr(found)
    assert find_slot(SITE, "other", environ).slots == 1
    assert grants(environ)[0].timeout_seconds == 3600


def test_types_have_a_legacy_spelling_too() -> None:
    environ = {"SLURM_JOB_QPU_RESOURCES": "a:b", "SLURM_JOB_QPU_TYPES": "x : y"}
    found = grants({**environ, "QRMI_LIST_DELIMITER": ":"})
    assert [(grant.name, grant.type) for grant in found] == [("a", "x"), ("b", "y")]


def test_slots_of_pasqal_local_have_no_name_in_front() -> None:
    environ = {"QRMI_JOB_QPU_RESOURCES": "fresnel,aer", "QRMI_JOB_QPU_TYPES": "pasqal-local,aer"}
    found = grants({**environ, "QRMI_JOB_QPU_SLOTS": "4"})
    assert [grant.slots for grant in found] == [4, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"QRMI_JOB_QPU_TYPES": "aer,fake"},
        {"aer_QRMI_JOB_QPU_SLOTS": "many"},
        {"aer_QRMI_JOB_QPU_SLOTS": "0"},
        {"aer_QRMI_JOB_TIMEOUT_SECONDS": "-1"},
    ],
)
def test_what_the_plugin_cannot_have_said(wrong: dict[str, str]) -> None:
    (variable,) = wrong
    with pytest.raises(SiteError, match=variable):
        find_slot(SITE, environ={**JOB, "QRMI_JOB_QPU_RESOURCES": "aer", **wrong})


def test_a_simulator_never_stands_in_for_a_device() -> None:
    environ = {**JOB, "QRMI_JOB_QPU_RESOURCES": "aer", "QRMI_JOB_QPU_TYPES": "iqm-server"}
    with pytest.raises(SiteError, match=r"type 'iqm-server'.*backend 'aer'.*\[qpu\.aer\]"):
        find_slot(SITE, environ=environ)


@pytest.mark.parametrize(
    ("backend", "kind", "wrong"),
    [
        ("qrmi", "iqm-server", False),
        ("qrmi", "aer", True),
        ("ibm_runtime", "pasqal-cloud", True),
        ("ibm_runtime", "qiskit-runtime-service", False),
        ("emulator", "aer", False),
        ("third_party", "iqm-server", False),
        ("aer", "type-of-the-future", False),
        ("qrmi", "", False),
    ],
)
def test_which_backend_may_drive_which_type(backend: str, kind: str, wrong: bool) -> None:
    assert conflicts(backend, kind) is wrong


@pytest.mark.parametrize(
    "variable",
    [
        "SLURM_SPANK__SLURM_SPANK_OPTION_spank_qrmi_qpu",
        "SLURM_SPANK__SLURM_SPANK_OPTION_hybridflow_qpu",
    ],
)
def test_asked_for_but_not_acquired(variable: str) -> None:
    environ = {**JOB, variable: "aer,other"}
    with pytest.raises(NoSlotError, match="no QPU, though --qpu=aer,other was asked for"):
        find_slot(SITE, environ=environ)
    with pytest.raises(NoSlotError, match=r"'other', though it was asked for.*output says why"):
        find_slot(SITE, "other", {**environ, "QRMI_JOB_QPU_RESOURCES": "aer"})


# --- inside a slot -------------------------------------------------------------------------------


def test_outside_there_is_no_current_slot() -> None:
    assert current_slot() is None


def test_inside_the_slot_is_the_current_one(inside: Slot) -> None:
    assert current_slot() == inside
    assert find_slot(SITE) == inside
    assert find_slot(SITE, "other") == inside


def test_inside_a_slot_another_resource_is_refused(inside: Slot) -> None:
    with pytest.raises(NoSlotError, match="inside the slot of 'other'"):
        find_slot(SITE, "aer")
    with pytest.raises(NoSlotError, match="outside it"):
        connect("aer")


def test_a_slot_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYBRIDFLOW_BROKER", str(tmp_path / "gone"))
    for ask in (current_slot, lambda: find_slot(SITE), connect):
        with pytest.raises(NoSlotError, match="no slot's folder"):
            ask()


def test_index_is_private(inside: Slot, tmp_path: Path) -> None:
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


# --- connecting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variable", ["SLURM_JOB_ID", "PARSL_WORKER_POOL_ID", "PARSL_WORKER_RANK", "HYBRIDFLOW_ROLE"]
)
def test_without_a_slot_no_silent_simulation(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(NoSlotError, match="hybridflow slot run"):
        connect()


@pytest.fixture
def _fake_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    file = tmp_path / "site.toml"
    file.write_text('default = "one"\n[qpu.one]\nbackend = "fake"\n[qpu.two]\nbackend = "fake"\n')
    monkeypatch.setenv("HYBRIDFLOW_SITE", str(file))
    slots.close_all()
    yield
    slots.close_all()


@pytest.mark.usefixtures("_fake_site")
def test_a_plain_program_has_one_broker_a_resource() -> None:
    assert connect() is connect("one")
    assert connect("two") is not connect("one")
    assert connect("two").describe().resource == "two"


@pytest.mark.usefixtures("_fake_site")
def test_closed_brokers_are_made_again() -> None:
    first = connect()
    slots.close_all()
    assert connect() is not first
    assert connect().describe().resource == "one"


@pytest.mark.usefixtures("_fake_site")
def test_a_forked_child_has_brokers_of_its_own() -> None:
    program = """
import os, sys
from hybridflow.slot import connect
assert connect().describe().resource == "one"
child = os.fork()
assert connect().describe().resource == "one"
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # Newer Pythons warn of a fork beside threads, which is what is tested here.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


@pytest.mark.usefixtures("_fake_site")
def test_unknown_resource_of_a_plain_program() -> None:
    with pytest.raises(SiteError, match="no resource 'three'"):
        connect("three")

"""Backends in interpreters of their own, with another Qiskit, in the same script as ours."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pytest
from click.testing import CliRunner
from qiskit import QuantumCircuit

from hybridflow import wire
from hybridflow.backends import environments, open_backend, target_snapshot
from hybridflow.backends.environments import create, own_requirement
from hybridflow.backends.hello import PROTOCOL, Hello
from hybridflow.backends.interpreter import check, variables
from hybridflow.backends.process import BackendProcess
from hybridflow.cli import main
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    InputError,
    RequestError,
    ResourceError,
    SiteError,
)
from hybridflow.records import Resource
from hybridflow.site import load_site
from hybridflow.testing import check_backend

OLD_QISKIT = "2.1.2"  # reads QPY up to 15, and 2.6 writes 18

NO_INDEX = re.compile("No matching distribution|NewConnectionError|Timeout|name resolution")

SITE = """
[qpu.new]
backend = "aer"

[qpu.old]
backend = "qiskit"
factory = "qiskit.providers.fake_provider:GenericBackendV2"
arguments = { num_qubits = 3, seed = 1 }
interpreter = "envs/old"
"""


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with a resource in an environment that `hybridflow env create` has made."""
    folder = tmp_path_factory.mktemp("site")
    command = ["env", "create", "old", f"qiskit=={OLD_QISKIT}", "--folder", str(folder / "envs")]
    made = CliRunner().invoke(main, command, catch_exceptions=False)
    if made.exit_code and os.environ.get("CI") != "true" and NO_INDEX.search(made.output):
        pytest.skip("no package index can be reached")
    assert made.exit_code == 0, made.output
    assert f"Qiskit      {OLD_QISKIT}, reads QPY up to version 15" in made.output
    site = folder / "site.toml"
    site.write_text(SITE)
    return site


@pytest.fixture(name="old")
def _old(site: Path) -> Iterator[BackendProcess]:
    backend = open_backend(load_site(site).resource("old"), {})
    assert isinstance(backend, BackendProcess)
    yield backend
    backend.release()


pytestmark = pytest.mark.timeout(400)  # the environment is made in the first test that needs it


def test_an_older_qiskit_in_its_own_environment_passes(site: Path, old: BackendProcess) -> None:
    resource = load_site(site).resource("old")
    check_backend(lambda: open_backend(resource, {}), fidelity=0.9)
    assert old.capabilities.qpy == 15
    assert target_snapshot(resource).num_qubits == 3


def test_its_death_is_a_lost_backend(old: BackendProcess) -> None:
    old.acquire()
    assert old.pid is not None
    assert "envs/old/bin/python" in psutil.Process(old.pid).cmdline()[0]
    os.kill(old.pid, signal.SIGKILL)
    with pytest.raises(BackendLostError, match="exit status -9"):
        old.target()
    old.acquire()
    assert old.target().num_qubits == 3


TWO = """
    import qiskit
    from qiskit import QuantumCircuit
    import hybridflow as hf

    @hf.quantum_task
    def sample(resource, circuit):
        return hf.Sampler(resource=resource, transpile=True).run([circuit], shots=400).result()

    flip = QuantumCircuit(2)
    flip.x(1)
    for angle in range(3):
        flip.rz(angle, 0)
    flip.measure_all()
    for resource in ("new", "old"):
        result = sample(resource, flip)
        counts = result[0].data.meas.get_counts()
        print(resource, max(counts, key=counts.get), result.metadata["hybridflow"]["resource"])
    pub = (flip.remove_final_measurements(inplace=False), ["ZI", "IZ"])
    for resource in ("new", "old"):
        job = hf.Estimator(resource=resource, transpile=True).run([pub], precision=0.05)
        print(resource, job.result()[0].data.evs.round())
    print(sorted(hf.target("old").operation_names)[:2])
"""


def test_two_interpreters_in_one_script(site: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(TWO)],
        env={**os.environ, "HYBRIDFLOW_SITE": str(site)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "new 10 new",
        "old 10 old",
        "new [-1.  1.]",
        "old [-1.  1.]",
        "['cx', 'delay']",
    ]


def test_environments_are_listed_and_removed(site: Path, tmp_path: Path) -> None:
    def hybridflow(*command: str, folder: Path = site.parent / "envs") -> Any:
        return CliRunner().invoke(main, ["env", *command, "--folder", str(folder)])

    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "pyvenv.cfg").touch()
    (tmp_path / "gone").symlink_to(site.parent / "envs" / "old")
    listed = hybridflow("list").output
    assert f"qiskit=={OLD_QISKIT}  {OLD_QISKIT}" in listed
    assert "ready" in listed
    assert "unfinished" in hybridflow("list", folder=tmp_path).output
    assert hybridflow("create", "old", "qiskit").exit_code == 2  # there is one
    assert hybridflow("remove", "half", folder=tmp_path).exit_code == 0
    assert not (tmp_path / "half").exists()
    assert "there are: gone" in hybridflow("remove", "half", folder=tmp_path).stderr


# What does not fit


def python(folder: Path, code: str) -> Path:
    """Return an interpreter that runs some code before what it is told."""
    file = folder / "python"
    source = f"""
        #!{sys.executable} -P
        import runpy, sys
        {code}
        sys.argv[:3] = []
        runpy.run_module(sys.argv[0], run_name="__main__")
    """
    file.write_text(textwrap.dedent(source).lstrip())
    file.chmod(0o755)
    return file


def elsewhere(interpreter: Path, backend: str = "fake") -> Resource:
    return Resource(name="there", backend=backend, interpreter=str(interpreter))


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("import hybridflow.backends.hello as h; h.PROTOCOL = 99", SiteError, "protocol.*: 99"),
        ("from qiskit import qpy; qpy.QPY_VERSION = 12", SiteError, "up to version 12, .* in 13"),
        ("sys.path = []", SiteError, "has no hybridflow that could run a backend"),
        ("'host' in sys.argv[3] and sys.exit(5)", AcquireError, "exit status 5"),
        ("", SiteError, r"no backend 'nonsense'; installed are.* \(that says .*python"),
    ],
)
def test_an_interpreter_that_does_not_fit_is_refused(
    tmp_path: Path, code: str, error: type[Exception], message: str
) -> None:
    backend = open_backend(elsewhere(python(tmp_path, code), "fake" if code else "nonsense"), {})
    with pytest.raises(error, match=message):
        backend.acquire()
    backend.release()


def test_circuits_are_written_as_their_reader_reads_them() -> None:
    circuit = QuantumCircuit(1)
    assert [wire.circuit_to_qpy(circuit, readable)[6] for readable in (None, 13, 15, 99)] == [
        wire.qpy_version(None),
        13,
        15,
        wire.qpy_version(None),
    ]
    with pytest.raises(RequestError, match=r"up to version 12, and Qiskit .* writes 13 to 18"):
        wire.circuit_to_qpy(circuit, 12)


def test_what_an_interpreter_says_is_checked() -> None:
    said = Hello(protocol=PROTOCOL, hybridflow="1", python="3", qiskit="2.1", qpy=15)
    assert check(said, "python") is said
    with pytest.raises(SiteError, match="another protocol"):
        check(None, "python")


def test_our_packages_are_not_put_into_another_interpreter() -> None:
    kept = variables({"PYTHONPATH": "x", "VIRTUAL_ENV": "y", "HOME": "/h", "q_QRMI_KEY": "k"})
    assert kept == {"HOME": "/h"}


# The site file


def test_an_interpreter_is_found_beside_the_site_file_or_with_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    site = tmp_path / "site.toml"
    site.write_text(SITE)
    beside = tmp_path / "envs" / "old"
    resource = load_site(site).resource("old")
    assert resource.interpreter == str(beside)
    with pytest.raises(SiteError, match=r"qpu\.old\.interpreter.* no Python at .*env create"):
        target_snapshot(resource)
    users = tmp_path / "data" / "hybridflow" / "envs" / "old"
    users.mkdir(parents=True)
    assert load_site(site).resource("old").interpreter == str(users)
    beside.mkdir(parents=True)
    assert load_site(site).resource("old").interpreter == str(beside)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('backend = "aer"\ninterpreter = ""', "interpreter"),
        ('backend = "aer"\ninterpreter = 3', "qpu.a.interpreter"),
        ('backend = "aer"\ninterpreter = "x"\nshots = 1', "unknown key `qpu.a.shots`"),
        ('backend = "qiskit"\nfactory = "nowhere"', "qpu.a.*import path"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, table: str, message: str) -> None:
    site = tmp_path / "site.toml"
    site.write_text(f"[qpu.a]\n{table}\n")
    with pytest.raises(SiteError, match=message):
        load_site(site)


def test_a_backend_that_only_the_other_interpreter_has_is_checked_there(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text('[qpu.a]\nbackend = "theirs"\ninterpreter = "x"\nanything = [1, 2]\n')
    assert load_site(site).resource("a").options == {"anything": [1, 2]}
    resource = msgspec.structs.replace(elsewhere(python(tmp_path, "")), options={"colour": "red"})
    backend = open_backend(resource, {})
    with pytest.raises(SiteError, match="colour"):
        _ = backend.capabilities
    backend.release()


# Making environments


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: list[str], place: Path, lock: int) -> None:
        place.mkdir(exist_ok=True)
        if "pip" in command:
            raise ResourceError("the disk is full")

    monkeypatch.setattr(environments, "_run", fails)
    with pytest.raises(ResourceError, match="disk is full"):
        create("new", ["package"], lambda name: nullcontext(), folder=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ResourceError, match="another process"):
            create("new", ["package"], lambda name: nullcontext(), folder=tmp_path)


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a b", "-x"])
def test_names_that_are_no_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name has letters"):
        create(name, ["package"], lambda step: nullcontext(), folder=tmp_path)
    with pytest.raises(InputError, match="no package"):
        create("name", ["--target=/"], lambda step: nullcontext(), folder=tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="no virtual environment"):
        create("mine", ["package"], lambda step: nullcontext(), folder=tmp_path)


@pytest.mark.parametrize(
    ("direct", "wanted"),
    [
        (None, ["hybridflow==1.2"]),
        (
            {"url": "file:///my%20code", "dir_info": {"editable": True}},
            ["--editable", "/my code"],
        ),
        ({"url": "file:///wheel.whl", "archive_info": {}}, ["hybridflow @ file:///wheel.whl"]),
        (
            {"url": "https://h/r", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            ["hybridflow @ git+https://h/r@abc"],
        ),
    ],
)
def test_hybridflow_is_installed_as_it_is_here(
    direct: Any, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = None if direct is None else msgspec.json.encode(direct).decode()
    installed = SimpleNamespace(version="1.2", read_text=lambda name: text)
    found: Callable[[str], Any] = lambda name: installed  # noqa: E731 - one word
    monkeypatch.setattr(environments, "distribution", found)
    assert own_requirement() == wanted

"""The door: a command in a slot, its broker beside it, and nothing of them left afterwards."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from family import Family, children, eventually, family, python, readable

from hybridflow import door, supervisor
from hybridflow.errors import SiteError
from hybridflow.lease import Lease

SECRET = "s3cr3t-of-the-site"
FOREVER = "\ntime.sleep(600)"

PROBE = """
import os, time
from hybridflow.testing.fake_qpu import FakeQPU

class Probe(FakeQPU):
    def __init__(self, name, options, credentials):
        super().__init__(name, options, credentials)
        self._credentials = credentials

    def acquire(self):
        key = self._credentials.get("QRMI_IBM_QCS_IAM_APIKEY", "")
        with open(os.environ["PROBE_SEEN"], "a") as file:
            print(os.getpid(), key, file=file)
        if os.environ.get("PROBE_SLOW"):
            time.sleep(600)
        if os.environ.get("PROBE_DIES"):
            os.write(2, f"last words: the key is {key}\\n".encode())
            os._exit(3)
        super().acquire()
"""


class Place:
    """Folders, a site with the resource `one`, and the environment to start the door in."""

    def __init__(self, root: Path, slots: Path) -> None:
        self.seen = root / "seen"
        self.slots = slots
        self.site = root / "site.toml"
        self.write_site()
        # A backend as a third party would bring it.
        (root / "probe_qpu.py").write_text(PROBE)
        metadata = root / "probe_qpu-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-qpu\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[hybridflow.backends]\nprobe=probe_qpu:Probe\n")
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
        self.environment = {
            **os.environ,
            "HYBRIDFLOW_SITE": str(self.site),
            "PYTHONPATH": path,
            "PROBE_SEEN": str(self.seen),
            "TMPDIR": str(slots),
        }
        self.environment.pop("XDG_RUNTIME_DIR", None)

    def write_site(self, *lines: str) -> None:
        self.site.write_text("\n".join(["[qpu.one]", 'backend = "probe"', *lines]))

    def brokers(self) -> list[int]:
        """Return the processes of all brokers that asked for the resource, the last one last."""
        if not self.seen.exists():
            return []
        return [int(line.split()[0]) for line in self.seen.read_text().splitlines()]

    def assert_empty(self) -> None:
        eventually(lambda: not list(self.slots.iterdir()))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    # Not in pytest's own folder, whose path is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="hf-door-", dir="/tmp") as slots:
        place = Place(tmp_path, Path(slots))
        yield place
        place.assert_empty()


def through(*command: str, options: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, "-m", "hybridflow", "slot", "run", *options, "--", *command]


def run(place: Place, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        through(*command),
        env={**place.environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextlib.contextmanager
def entered(
    place: Place, body: str, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Family]:
    """Start the door with a Python command that says `command`, and wait for that."""
    command = through(*python(body), options=options)
    variables = place.environment if environment is None else environment
    with family(command, variables, stderr=subprocess.PIPE) as one:
        one.wait_for("command")
        one.watch("door", one.process.pid)
        one.watch("broker", place.brokers()[-1])
        reapers = [pid for pid in children(one.process.pid) if pid != one.members["broker"]]
        one.watch("reaper", reapers[0])
        yield one


def said(one: Family) -> str:
    """Return what the door has written, to its end."""
    assert one.process.stderr is not None
    with one.process.stderr as stderr:
        return stderr.read().decode()


# --- what the command sees -----------------------------------------------------------------------


def test_command_runs_in_a_slot(place: Place) -> None:
    done = run(place, "sh", "-c", "ls $HYBRIDFLOW_BROKER; stat -c %a $HYBRIDFLOW_BROKER; exit 7")
    assert done.returncode == 7
    names = done.stdout.split()
    assert "one.sock" in names
    assert names[-1] == "700"
    assert done.stderr == ""


def test_command_knows_its_slot_and_its_site(place: Place) -> None:
    done = run(place, sys.executable, "-m", "hybridflow", "slot", "show")
    assert "resource  one (backend probe)" in done.stdout
    assert str(place.site) in done.stdout
    assert "inside    yes" in done.stdout


def test_environment_is_clean(place: Place) -> None:
    job = {
        "SLURM_JOB_ID": "42",
        "QRMI_JOB_QPU_RESOURCES": "one",
        "SLURM_NTASKS": "4",
        "PMI_SIZE": "4",
        "OMPI_COMM_WORLD_SIZE": "4",
        "MPI_LOCALNRANKS": "4",
        "one_QRMI_IBM_QCS_IAM_APIKEY": SECRET,
        "one_QRMI_JOB_ACQUISITION_TOKEN": SECRET,
        "other_QRMI_IBM_QCS_IAM_APIKEY": SECRET,
    }
    seen = run(place, "env", **job).stdout
    for word in ("SLURM_NTASKS", "PMI_", "OMPI_", "MPI_LOCAL", "_QRMI_", SECRET):
        assert word not in seen
    assert "SLURM_JOB_ID=42" in seen
    assert "HYBRIDFLOW_ROLE=quantum" in seen


def test_key_reaches_the_broker_and_nothing_else(place: Place) -> None:
    environment = {**place.environment, "one_QRMI_IBM_QCS_IAM_APIKEY": SECRET}
    with entered(
        place, f'daemon("daemon")\nsay("command"){FOREVER}', environment=environment
    ) as one:
        one.wait_for("daemon")
        assert place.seen.read_text().split()[1] == SECRET
        started = [*one.members.values()]
        started.remove(one.process.pid)
        assert len(started) >= 4
        for pid in started:
            for name in ("environ", "cmdline"):
                # Root may read the broker's, which is not dumpable; its user may not.
                with contextlib.suppress(PermissionError):
                    assert SECRET.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        for file in place.slots.rglob("*"):
            if file.is_file():
                assert SECRET.encode() not in file.read_bytes()
        one.process.terminate()
        assert SECRET not in said(one)


def test_credentials_of_a_file_reach_the_broker_alone(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps({"one": {"QRMI_IBM_QCS_IAM_APIKEY": SECRET}}))
    job = {
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_END_TIME": str(int(time.time()) + 600),
        "QRMI_JOB_QPU_RESOURCES": "one",
        "QRMI_JOB_QPU_TYPES": "iqm-server",
        "HYBRIDFLOW_CREDENTIALS": str(file),
    }
    show = [sys.executable, "-m", "hybridflow", "slot", "show", "--json"]
    look = f"test -e {file} && echo file; env; {' '.join(map(quoted, show))}"
    done = run(place, "sh", "-c", look, **job)
    assert (done.returncode, done.stderr) == (0, "")
    assert SECRET in place.seen.read_text()
    assert SECRET not in done.stdout
    assert "HYBRIDFLOW_CREDENTIALS" not in done.stdout
    shown = json.loads(done.stdout.splitlines()[-1])
    assert (shown["type"], shown["deadline"]) == ("iqm-server", int(job["SLURM_JOB_END_TIME"]))
    assert "file" not in done.stdout.split()
    assert file.exists()


def test_of_two_doors_in_one_step_the_second_has_the_credentials_after_the_first(
    place: Place, tmp_path: Path
) -> None:
    """Such as a block of an engine that is started again."""
    file = tmp_path / "credentials.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps({"one": {"QRMI_IBM_QCS_IAM_APIKEY": SECRET}}))
    job = {
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_END_TIME": str(int(time.time()) + 600),
        "QRMI_JOB_QPU_RESOURCES": "one",
        "QRMI_JOB_QPU_TYPES": "iqm-server",
        "HYBRIDFLOW_CREDENTIALS": str(file),
    }
    besides = ["env", "-u", "HYBRIDFLOW_BROKER", f"HYBRIDFLOW_CREDENTIALS={file}"]
    during = run(place, *besides, *through("true"), **job)
    assert during.returncode == 2
    assert "another `hybridflow slot run` of this step has them" in during.stderr
    after = run(place, "true", **job)
    assert (after.returncode, after.stderr) == (0, "")


def test_what_cannot_end_before_the_job_does_is_the_engine_s_to_try_again(place: Place) -> None:
    place.write_site("seconds_per_job = 60")
    script = place.site.with_name("script.py")
    script.write_text(
        f"{BELL}\ntry:\n    counts()\nexcept hf.errors.DeadlineError as error:\n"
        "    print(error.transient, error)"
    )
    end = str(int(time.time()) + 40)
    job = {"SLURM_JOB_ID": "42", "SLURM_JOB_END_TIME": end, "QRMI_JOB_QPU_RESOURCES": "one"}
    done = run(place, sys.executable, str(script), **job)
    assert done.stdout.startswith("True the slot of 'one' ends in "), done.stderr


def test_a_job_whose_end_nobody_knows_runs_all_the_same(place: Place, tmp_path: Path) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho it is away >&2; exit 1\n")
    squeue.chmod(0o700)
    path = f"{tmp_path}:{place.environment['PATH']}"
    job = {"SLURM_JOB_ID": "42", "QRMI_JOB_QPU_RESOURCES": "one", "PATH": path}
    done = run(place, "sh", "-c", "exit 7", **job)
    assert done.returncode == 7
    assert "when this job ends is not known" in done.stderr
    assert "it is away" in done.stderr


@pytest.mark.parametrize(("program", "status"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_what_cannot_be_started_costs_no_slot(place: Place, program: str, status: int) -> None:
    done = run(place, program)
    assert done.returncode == status
    assert program in done.stderr
    assert not place.seen.exists()


# --- no slot -------------------------------------------------------------------------------------


def test_refused_resource_starts_no_command(place: Place, tmp_path: Path) -> None:
    place.write_site("refuse_acquires = 1")
    done = run(place, "touch", str(tmp_path / "started"))
    assert done.returncode == 75  # it says that it may be had later
    assert done.stderr.startswith("error: ")
    assert "one" in done.stderr
    assert not (tmp_path / "started").exists()


def test_no_slot_in_a_slurm_job_that_acquired_none(place: Place) -> None:
    done = run(place, "true", SLURM_JOB_ID="42")
    assert done.returncode == 2
    assert "--gres=qpu:1 --qpu=one" in done.stderr


def test_acquiring_can_be_interrupted(place: Place) -> None:
    environment = {**place.environment, "PROBE_SLOW": "1"}
    with family(through("true"), environment) as one:
        eventually(lambda: bool(place.brokers()))
        one.watch("broker", place.brokers()[0])
        one.process.terminate()
        assert one.process.wait(timeout=30) == 128 + signal.SIGTERM
        one.wait_gone()


def test_a_broker_that_dies_while_it_starts_shows_its_last_words(place: Place) -> None:
    done = run(place, "true", PROBE_DIES="1", one_QRMI_IBM_QCS_IAM_APIKEY=SECRET)
    assert done.returncode == 75
    assert "last words: the key is ***" in done.stderr
    assert "exit status 3" in done.stderr


# --- signals -------------------------------------------------------------------------------------


def test_signals_and_status_pass_through(place: Place) -> None:
    body = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
say("command")
assert signal.sigwait({signal.SIGUSR1}) == signal.SIGUSR1
say("first")
assert signal.sigwait({signal.SIGTERM}) == signal.SIGTERM
sys.exit(42)"""
    with entered(place, body) as one:
        one.process.send_signal(signal.SIGUSR1)
        one.wait_for("first")
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(timeout=30) == 42
        one.wait_gone()
        assert said(one) == ""


def test_ctrl_c_ends_the_command_while_the_broker_drains(place: Place) -> None:
    body = """
try:
    say("command")
    time.sleep(600)
except KeyboardInterrupt:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    say("interrupted")
    signal.sigwait({signal.SIGUSR1})
    sys.exit(9)
"""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    child, terminal = pty.fork()
    if child == 0:
        # A session and a foreground group of its own, as a shell would give it.
        command = through(*python(body))
        os.execve(command[0], command, {**place.environment, "TELL": str(writer)})
    os.close(writer)
    with family(["true"], place.environment) as one:
        one.process.wait()
        os.close(one._reader)
        one._reader = reader
        one.watch("door", child)
        one.wait_for("command")
        one.watch("broker", place.brokers()[-1])
        os.write(terminal, b"\x03")
        one.wait_for("interrupted")
        assert not readable(one._handles["door"], 0)
        assert not readable(one._handles["broker"], 0.2)
        os.kill(child, signal.SIGUSR1)
        assert readable(one._handles["door"])
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        one.wait_gone()
    os.close(terminal)


# --- nothing is left -----------------------------------------------------------------------------


def test_what_the_command_leaves_behind_is_ended(place: Place) -> None:
    body = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
daemon("daemon")
daemon("deaf", deaf=True)
say("command")
signal.sigwait({signal.SIGUSR1})
sys.exit(5)"""
    with entered(place, body, "--grace", "0.3") as one:
        one.wait_for("daemon", "deaf")
        one.process.send_signal(signal.SIGUSR1)
        assert one.process.wait(timeout=30) == 5
        one.wait_gone()


@pytest.mark.parametrize("victim", ["door", "reaper", "command", "group"])
def test_no_orphan_whoever_is_killed(place: Place, victim: str) -> None:
    body = f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
daemon("daemon")
daemon("deaf", deaf=True)
say("command"){FOREVER}"""
    with entered(place, body, "--grace", "0.3") as one:
        one.wait_for("daemon", "deaf")
        if victim == "group":
            os.killpg(one.process.pid, signal.SIGKILL)
        else:
            one.kill(victim)
        one.wait_gone()
        by_kill = victim in ("door", "group")
        expected = -signal.SIGKILL if by_kill else 128 + signal.SIGKILL
        assert one.process.wait(timeout=30) == expected
    place.assert_empty()


def test_lost_lease_ends_the_slot(place: Place, tmp_path: Path) -> None:
    with Lease.hold(tmp_path / "lease") as lease:
        body = f'daemon("daemon")\nsay("command"){FOREVER}'
        with entered(place, body, "--lease", str(lease.path)) as one:
            one.wait_for("daemon")
            lease.close()
            assert one.process.wait(timeout=30) == 128 + signal.SIGTERM
            one.wait_gone()
            assert "released" in said(one)


# --- the broker ----------------------------------------------------------------------------------


def test_a_killed_broker_is_started_again(place: Place) -> None:
    body = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
say("command")
signal.sigwait({signal.SIGUSR1})
sys.exit(6)"""
    with entered(place, body) as one:
        one.kill("broker")
        eventually(lambda: len(place.brokers()) == 2)
        one.watch("second", place.brokers()[1])
        one.process.send_signal(signal.SIGUSR1)
        assert one.process.wait(timeout=30) == 6
        one.wait_gone()
        assert "died (status -9)" in said(one)


def test_a_broker_that_stays_dead_ends_the_command(place: Place) -> None:
    with entered(place, f'say("command"){FOREVER}') as one:
        for death in range(1, supervisor.RESTARTS + 2):
            eventually(lambda death=death: len(place.brokers()) == death)  # type: ignore[misc]
            with contextlib.suppress(ProcessLookupError):
                os.kill(place.brokers()[-1], signal.SIGKILL)
        assert one.process.wait(timeout=30) == door.BROKER_LOST
        one.wait_gone()
        assert "stays dead" in said(one)


# --- all together --------------------------------------------------------------------------------

BELL = """
import hybridflow as hf
from qiskit import QuantumCircuit

bell = QuantumCircuit(2)
bell.h(0)
bell.cx(0, 1)
bell.measure_all()

def counts():
    return hf.Sampler().run([bell], shots=100).result()[0].data.meas.get_counts()
"""


def test_a_plain_script_samples_on_the_site_s_aer(place: Place) -> None:
    pytest.importorskip("qiskit_aer")
    place.site.write_text('[qpu.simulator]\nbackend = "aer"\n')
    script = place.site.with_name("script.py")
    script.write_text(f"{BELL}\nprint(hf.current_slot().resource, sorted(counts()))")
    done = run(place, sys.executable, str(script))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "simulator ['00', '11']\n"


def test_a_script_does_not_notice_that_its_broker_was_killed(place: Place) -> None:
    script = place.site.with_name("script.py")
    script.write_text(
        f"{BELL}\nimport os, sys\ncounts()\nprint('sampled', flush=True)\nsys.stdin.readline()\n"
        "print(sum(counts().values()))"
    )
    with subprocess.Popen(
        through(sys.executable, str(script)),
        env=place.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "sampled\n"
        os.kill(place.brokers()[-1], signal.SIGKILL)
        output, errors = process.communicate("\n", timeout=60)
    assert (process.returncode, output) == (0, "100\n")
    assert "was restarted (1 of" in errors


# --- slots in slots ------------------------------------------------------------------------------


def test_inside_a_slot_the_command_runs_in_that_one(place: Place) -> None:
    inner = through("sh", "-c", "echo inner $HYBRIDFLOW_BROKER; exit 8")
    done = run(place, "sh", "-c", f"echo outer $HYBRIDFLOW_BROKER; {' '.join(map(quoted, inner))}")
    assert done.returncode == 8
    outer, inner_line = done.stdout.splitlines()
    assert outer.split()[1] == inner_line.split()[1]
    assert len(place.brokers()) == 1


def quoted(word: str) -> str:
    return f"'{word}'"


def test_inside_a_slot_another_resource_is_refused(place: Place) -> None:
    with place.site.open("a") as file:
        file.write('\n[qpu.two]\nbackend = "fake"\n')
    done = run(place, *through("true", options=("--resource", "two")))
    assert done.returncode == 2
    assert "inside the slot of 'one'" in done.stderr


# --- the folder ----------------------------------------------------------------------------------


@pytest.fixture
def bases(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    found = {name: short_path / name for name in ("runtime", "temporary")}
    for folder in found.values():
        folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(found["runtime"]))
    monkeypatch.setattr(tempfile, "tempdir", str(found["temporary"]))
    return found


def test_folder_is_private_and_in_the_runtime_folder(bases: dict[str, Path]) -> None:
    folder = door._make_folder("one")
    assert folder.parent == bases["runtime"]
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("fault", ["open to others", "missing", "relative", "in a job", "unset"])
def test_unusable_runtime_folder(
    bases: dict[str, Path], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    match fault:
        case "open to others":
            bases["runtime"].chmod(0o755)
        case "missing":
            bases["runtime"].rmdir()
        case "relative":
            monkeypatch.chdir(bases["runtime"].parent)
            monkeypatch.setenv("XDG_RUNTIME_DIR", "runtime")
        case "in a job":
            monkeypatch.setenv("SLURM_JOB_ID", "42")
        case "unset":
            monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert door._make_folder("one").parent == bases["temporary"]


def test_long_paths_give_way_to_short_ones(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, base in bases.items():
        long = base / ("x" * 100)
        long.mkdir(mode=0o700)
        if name == "runtime":
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
        else:
            monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = door._make_folder("one")
    try:
        assert folder.parent == Path("/tmp")
    finally:
        folder.rmdir()
    with pytest.raises(SiteError, match="107 bytes"):
        door._make_folder("n" * 100)

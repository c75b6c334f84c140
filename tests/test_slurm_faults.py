"""What can happen to a job that holds a QPU, on a real cluster with an emulated device."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask_cluster_tasks as tasks
import psutil
import pytest
from distributed import Client
from family import eventually
from waiting import SECONDS, until

from hybridflow.errors import JobFailedError
from hybridflow.events import VendorJobEnded, VendorJobStarted, read_events
from hybridflow.records import JobState
from hybridflow.slurm import Component, Job, JobInfo, SlurmState, cancel, submit, wait, wait_for_end
from hybridflow.slurm.cluster import SlurmCluster
from hybridflow.testing import QpuEmulator, qpu_emulator, slurm_cluster
from hybridflow_dask import HybridCluster

# `device` is a licence, so that its jobs can be kept off the node that is broken here.
QPUS = [
    {"name": "aer_a", "type": "aer"},
    {"name": "one", "type": "aer"},
    {"name": "device", "type": "emulator", "allocation": "license"},
]
cluster = slurm_cluster(
    scope="module",
    nodes=3,
    qpus={"aer_a": 1, "one": 1},
    licenses={"device": 3},
    plugin=True,
    definitions={"resources": QPUS},
    settings={
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "CANCEL",
    },
)
SITE = """
[qpu.device]
backend = "emulator"
url = "{url}"
resource = "{resource}"
"""
# A door that looks at the job's end more often than once a minute, and waits less long at its own.
DOOR = """\
import functools, sys
from hybridflow import door, site
door.DRAIN_SECONDS = 6.0
door.DeadlineWatch = functools.partial(door.DeadlineWatch, interval_seconds=0.5)
sys.exit(door.run_in_slot(sys.argv[1:], site=site.load_site()))
"""
SAMPLE = """\
import hybridflow as hf
from qiskit import QuantumCircuit
circuit = QuantumCircuit(1)
circuit.measure_all()
hf.Sampler().run([circuit], shots=5).result()
"""


@dataclass
class Place:
    """A folder for jobs, on a cluster that this process's own commands talk to."""

    cluster: SlurmCluster
    folder: Path

    def run(self, *words: str) -> str:
        return self.cluster.run(list(words)).stdout.strip()

    def hybridflow(self, *words: str, **options: Any) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "hybridflow", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.folder, **pipes, **options)

    def state(self, job: str) -> str:
        return self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")

    def hold(self, component: Component, script: str = "sleep 300") -> str:
        """Submit a job and wait until it runs."""
        job = shell(script, component)
        eventually(lambda: self.state(job) == "RUNNING")
        return job


@pytest.fixture
def place(
    cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Place]:
    for name, value in cluster.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield Place(cluster, tmp_path)
    for name in ("fault", "hybridflow"):
        cluster.run(["scancel", "--user", str(os.getuid()), f"--name={name}"])


def shell(script: str, *components: Component) -> str:
    command = ("sh", "-c", script)
    return submit(Job(name="fault", command=command, components=components, output="/dev/null"))


QPU = Component(partition="qpu", qpu=("aer_a",), extra=("--no-requeue",))


# --- vendor jobs that run when their job ends ----------------------------------------------------


@dataclass
class Sampling:
    """A job that samples in a slot of the device, and its vendor job, which would run for ever."""

    job: str
    vendor_job: str
    run: Path
    emulator: QpuEmulator

    @property
    def state(self) -> JobState:
        """The vendor job's state, at the vendor's side."""
        return next(line.state for line in self.emulator.log() if line.job == self.vendor_job)


@pytest.fixture(scope="module")
def ended(
    cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Sampling]]:
    """Three jobs that are ended while their vendor jobs run, by what their names say.

    That takes a while, since Slurm looks at time limits every half a minute. So they are here for
    the first test of this module, and looked at by the last ones.
    """
    nodes = {"cancelled": "c1", "overdue": "c1", "preempted": "c2"}
    with qpu_emulator(*nodes) as emulator, pytest.MonkeyPatch.context() as patch:
        emulator.faults(stuck_jobs=len(nodes))
        patch.setenv("SLURM_CONF", cluster.environ["SLURM_CONF"])
        runs = {name: tmp_path_factory.mktemp(name) for name in nodes}
        jobs = {name: sampling(run, emulator.url, name, nodes[name]) for name, run in runs.items()}
        found = {
            name: Sampling(job, vendor_job(emulator, name, runs[name]), runs[name], emulator)
            for name, job in jobs.items()
        }
        cancel(jobs["cancelled"])
        cluster.run(["scontrol", "update", f"jobid={jobs['overdue']}", "EndTime=now+1"])
        cluster.run(["scontrol", "update", "partitionname=main", "PriorityTier=10"])
        higher = Component(partition="main", extra=("--exclusive", "--nodelist=c2"))
        submit(Job(name="higher", command=("true",), components=(higher,), output="/dev/null"))
        yield found
        cancel(*jobs.values())


def sampling(folder: Path, url: str, resource: str, node: str) -> str:
    """Submit a job that samples in a slot."""
    texts = {"site.toml": SITE.format(url=url, resource=resource), "door.py": DOOR}
    for name, text in {**texts, "sample.py": SAMPLE}.items():
        (folder / name).write_text(text)
    variables = {"HYBRIDFLOW_SITE": str(folder / "site.toml"), "HYBRIDFLOW_RUN": str(folder)}
    options = (f"--nodelist={node}", "--no-requeue")
    slot = Component(partition="classical", qpu=("device",), walltime="10", extra=options)
    command = (sys.executable, str(folder / "door.py"), sys.executable, str(folder / "sample.py"))
    output = str(folder / "out")
    return submit(
        Job(name=resource, command=command, components=(slot,), variables=variables, output=output)
    )


def vendor_job(emulator: QpuEmulator, resource: str, folder: Path) -> str:
    """Wait until the device has begun with a resource's one vendor job."""

    def begun() -> list[str]:
        return [job.job for job in emulator.log() if job.resource == resource and job.started]

    try:
        eventually(begun, 90)
    except AssertionError:
        output = folder / "out"
        pytest.fail(f"no vendor job: {output.read_text() if output.exists() else 'no job'}")
    (job,) = begun()
    return job


# --- slurmctld, the waiting command, a node ------------------------------------------------------


@pytest.mark.usefixtures("ended")
def test_a_restart_of_slurmctld_and_the_death_of_who_waits_cost_a_run_nothing(place: Place) -> None:
    """The job goes on; another `submit` attaches to it, and waits over the restart."""
    (place.folder / "site.toml").write_text('[qpu.aer_a]\nbackend = "aer"\n[slurm]\n')
    script = "until test -e go; do sleep 0.1; done; exit 7"
    words = ["--site", "site.toml", "--nodes", "0", "--wait", "--", "sh", "-c", script]
    with place.hybridflow("submit", *words) as waiting:
        assert waiting.stdout is not None
        job = waiting.stdout.readline().split()[1]
        eventually(lambda: place.state(job) == "RUNNING")
        waiting.kill()
    with place.hybridflow("submit", "--attach", job) as attached:
        assert attached.stdout is not None
        assert "running on q1" in attached.stdout.readline()
        place.cluster.restart_controller()
        (place.folder / "go").touch()
        said, _ = attached.communicate(timeout=60)
    assert attached.returncode == 7, said
    assert f"job {job}  failed on q1" in said
    place.run("scontrol", "reconfigure")  # or `srun` waits until Slurm has heard of the nodes again


def test_a_node_that_dies_with_a_slot_is_named_and_the_slot_is_free_again(place: Place) -> None:
    job = place.hold(QPU)
    place.cluster.kill_node("q1")
    place.run("scontrol", "update", "nodename=q1", "state=down", "reason=test")
    with pytest.raises(JobFailedError, match=f"Slurm job {job} lost a node: submit it") as caught:
        wait(job)
    assert caught.value.transient
    place.cluster.start_node("q1")
    wait(shell("test $QRMI_JOB_QPU_RESOURCES = aer_a", QPU))


def test_a_slurmd_that_hangs_loses_no_job_and_no_slot(place: Place) -> None:
    """Its job ends meanwhile; when it goes on, the end is known and the slot is free again."""
    job = place.hold(QPU, f"until test -e {place.folder}/go; do sleep 0.1; done; exit 5")
    (daemon,) = (
        process
        for process in psutil.process_iter(["cmdline", "name"])
        if process.info["name"] == "slurmd"
        and process.info["cmdline"][-2:] == ["-N", "q1"]
        and process.environ()["SLURM_CONF"] == place.cluster.environ["SLURM_CONF"]
    )
    daemon.suspend()
    try:
        (place.folder / "go").touch()
        eventually(lambda: place.state(job) != "RUNNING")
        waiting = shell("true", QPU)
    finally:
        daemon.resume()
    assert wait_for_end(job).exit_status == 5
    wait(waiting)


# --- the queue -----------------------------------------------------------------------------------


def test_a_full_partition_is_waited_for(place: Place) -> None:
    occupant = place.hold(Component(partition="qpu", extra=("--exclusive",)))
    seen: list[JobInfo] = []

    def show(info: JobInfo) -> None:
        seen.append(info)
        if info.reason == "Resources":
            cancel(occupant)

    wait(shell("true", QPU), on_change=show)
    assert {info.state for info in seen if info.reason == "Resources"} == {SlurmState.PENDING}
    assert wait_for_end(occupant).state is SlurmState.CANCELLED


@pytest.mark.timeout(300)
def test_fifty_jobs_have_one_slot_one_after_the_other_in_slurms_order(place: Place) -> None:
    """Each says when it begins and ends; none begins before the one before it has ended."""
    log = place.folder / "log"
    script = f"echo begin $SLURM_JOB_ID >> {log}; echo end $SLURM_JOB_ID >> {log}"
    slot = Component(partition="qpu", qpu=("one",))
    jobs = [shell(script, slot) for _ in range(50)]
    eventually(lambda: log.exists() and len(log.read_text().splitlines()) == 100, 240)
    expected = [f"{word} {job}" for job in jobs for word in ("begin", "end")]
    assert log.read_text().splitlines() == expected


# --- components ----------------------------------------------------------------------------------


def test_three_components_have_their_own_slots_and_ends(place: Place, tmp_path: Path) -> None:
    """Two slots on either side of a classical node: what each of them says is its component's."""
    (place.folder / "site.toml").write_text(
        '[qpu.aer_a]\nbackend = "aer"\n[qpu.device]\nbackend = "aer"'
    )
    python, site = sys.executable, tmp_path / "site.toml"
    show = f"{python} -m hybridflow slot show --json --site {site}"
    run = f"{python} -m hybridflow slot run --site {site} -- {show}"
    submitted = submit(
        Job(
            name="fault",
            command=("srun", "--het-group=0,1,2", "--label", "sh", "-c", f"{run} 2>&1"),
            components=(
                Component(partition="classical", walltime="5", qpu=("device",)),
                Component(partition="classical", walltime="7"),
                Component(partition="qpu", walltime="9", qpu=("aer_a",)),
            ),
            output="out",
        )
    )
    assert wait_for_end(submitted).exit_status == 2, "the one without a slot"
    said = dict(line.split(": ", 1) for line in sorted((tmp_path / "out").read_text().splitlines()))
    slots = {task: json.loads(line) for task, line in said.items() if line.startswith("{")}
    assert {task: slot["resource"] for task, slot in slots.items()} == {"0": "device", "2": "aer_a"}
    apart = slots["2"]["deadline"] - slots["0"]["deadline"]
    assert apart == 4 * 60
    assert "has acquired no QPU" in said["1"]


# --- how those of the beginning have ended -------------------------------------------------------


def test_the_vendor_job_of_a_cancelled_job_is_stopped(
    place: Place, ended: dict[str, Sampling]
) -> None:
    cancelled = ended["cancelled"]
    eventually(lambda: cancelled.state is JobState.CANCELLED)
    assert wait_for_end(cancelled.job).state is SlurmState.CANCELLED


def test_that_of_a_preempted_job_is_left_for_the_next_one(
    place: Place, ended: dict[str, Sampling]
) -> None:
    preempted = ended["preempted"]
    with pytest.raises(JobFailedError, match="preempted by a job of higher priority") as caught:
        wait(preempted.job)
    assert caught.value.transient
    assert preempted.state is JobState.RUNNING


def test_that_of_a_job_at_its_time_limit_is_left_and_known(
    place: Place, ended: dict[str, Sampling]
) -> None:
    overdue = ended["overdue"]
    with pytest.raises(JobFailedError, match="reached its time limit") as caught:
        wait(overdue.job)
    assert not caught.value.transient
    events = read_events(overdue.run)
    (started,) = [event for event in events if isinstance(event, VendorJobStarted)]
    assert started.vendor_job_id == overdue.vendor_job
    assert not [event for event in events if isinstance(event, VendorJobEnded)]
    assert overdue.state is JobState.RUNNING


# --- a workflow whose block is taken -------------------------------------------------------------
# The last, since whoever takes a node ends all that is on it, those of the beginning too.

BLOCKS = """
[qpu.aer_a]
backend = "fake"
[classical]
workers = 1
[slurm.classical]
partition = "classical"
nodes = 1
[slurm.blocks]
kind = "elastic"
"""


def test_dask_goes_on_when_a_block_is_preempted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ran in it runs again in the next one."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    (place.folder / "site.toml").write_text(BLOCKS)
    calls, go = place.folder / "calls", place.folder / "go"
    with HybridCluster("site.toml") as dask, Client(dask) as client:
        task = client.submit(tasks.waits_too, calls, go, pure=False)
        until(calls.exists)
        (first,) = dask.jobs.values()
        node = place.run("squeue", "--noheader", f"--jobs={first.id}", "--format=%N")
        place.run("scontrol", "update", "partitionname=main", "PriorityTier=10")
        higher = Component(partition="main", extra=("--exclusive", f"--nodelist={node}"))
        submit(Job(name="higher", command=("true",), components=(higher,), output="/dev/null"))
        until(lambda: calls.read_text() == "xx")
        go.touch()
        assert task.result(SECONDS) == 2
        assert place.state(first.id) == "PREEMPTED"

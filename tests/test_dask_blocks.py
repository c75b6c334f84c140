"""Dask from outside Slurm: blocks of workers on a real cluster, elastic and co-scheduled."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask_cluster_tasks as tasks
import pytest
import slurm_nodes
from distributed import Client
from waiting import SECONDS, until

from hybridflow.errors import InputError, JobFailedError, JobRefusedError
from hybridflow.site import load_site
from hybridflow.slurm import Job, SlurmState, all_jobs, cancel, queries, submit
from hybridflow.slurm.cluster import SlurmCluster
from hybridflow_dask import HybridCluster

pytestmark = pytest.mark.timeout(240)

NODES = Path(__file__).parent / "slurm_nodes.py"
# ENDS_IN: what a newer Slurm says by itself; no time limit is shorter than a minute.
SITE = """
[qpu.aer_a]
backend = "aer"
tasks_per_slot = 2

[classical]
workers = 1

[slurm]
walltime = "5"
setup = ['[ -z "$ENDS_IN" ] || export SLURM_JOB_END_TIME=$(($(date +%s) + ENDS_IN))']

[slurm.quantum]
partition = "qpu"

[slurm.classical]
partition = "classical"
nodes = 2

[slurm.blocks]
kind = "elastic"
idle = 0.5
"""


@pytest.fixture(autouse=True)
def _clean_environment() -> None:
    """In place of that for all tests, since the cluster asks Slurm between tests, too."""


@pytest.fixture(scope="module")
def folder(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the driver's, which the nodes see, with a site file; Slurm for its commands."""
    folder = tmp_path_factory.mktemp("blocks")
    (folder / "site.toml").write_text(SITE)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("HYBRIDFLOW_", "SLURM_"))]:
            patch.delenv(name)
        for name, value in slurm.environ.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setattr(queries, "LAST_SECONDS", queries.FIRST_SECONDS)
        patch.chdir(folder)
        yield folder
    slurm.run(["scancel", "--user", str(os.getuid())])


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[HybridCluster]:
    with HybridCluster("site.toml") as cluster:
        yield cluster
    until(lambda: all(job.state.final for job in all_jobs()))
    assert list(folder.glob("hybridflow-dask-*")) == []


@pytest.fixture
def client(cluster: HybridCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


def variant(*changes: tuple[str, str]) -> Path:
    """Write a site file that differs from the first one."""
    text = SITE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    Path("variant.toml").write_text(text)
    return Path("variant.toml")


# --- elastic -------------------------------------------------------------------------------------


def test_blocks_come_when_there_are_tasks_for_them(cluster: HybridCluster, client: Client) -> None:
    assert repr(cluster).endswith("quantum=0/0, classical=0/0)")
    places = [client.submit(slurm_nodes.place, pure=False) for _ in range(8)]
    quantum = client.submit(slurm_nodes.shots)
    until(lambda: len(cluster.jobs) == 2)
    assert set(client.gather(places)) == {"c1", "c2"}
    assert "running on c[1-2]" in repr(cluster)
    assert quantum.result(SECONDS) == {"node": "q1", "shots": 5}
    names = {worker.name for worker in cluster.scheduler.workers.values()}
    assert {"classical-0:c1", "classical-0:c2"} <= names


def test_an_idle_qpu_is_given_back_while_classical_tasks_go_on(
    cluster: HybridCluster, client: Client, folder: Path
) -> None:
    """Another job gets the slot meanwhile, and when it has ended, the cluster has it again."""
    assert cluster.site.slurm is not None
    calls, go = folder / "calls", folder / "go"
    computing = client.submit(tasks.waits_too, calls, go, pure=False)
    until(lambda: "quantum-aer_a-0" not in cluster.jobs)
    slot = cluster.site.slurm.for_quantum("aer_a")
    other = submit(Job(name="other", command=("sleep", "600"), components=(slot,)))
    until(lambda: state_of(other) is SlurmState.RUNNING)
    sampled = client.submit(slurm_nodes.shots, pure=False)
    until(lambda: re.search(r"quantum=0/1 \(job \d+ pending: Resources\)", repr(cluster)))
    cancel(other)
    assert sampled.result(SECONDS) == {"node": "q1", "shots": 5}
    assert not computing.done()
    go.touch()
    assert computing.result(SECONDS) == 1


def state_of(number: str) -> SlurmState | None:
    return next((job.state for job in all_jobs() if job.id == number), None)


def test_at_the_end_of_its_block_no_task_is_lost(
    cluster: HybridCluster, client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not end in time runs again in the next one; scaling by hand works, too."""
    cluster.scale(classical=0, quantum=0)
    until(lambda: not cluster.jobs)
    monkeypatch.setenv("ENDS_IN", "6")
    cluster.adapt(classical=(0, 1), quantum=(0, 1))
    go = folder / "goes on"
    running = [
        client.submit(tasks.waits, folder / "quantum", go, pure=False),
        client.submit(tasks.waits_too, folder / "classical", go, pure=False),
    ]
    until(lambda: len(cluster.jobs) == 2)
    first = numbers(cluster)
    monkeypatch.delenv("ENDS_IN")
    until(lambda: len(numbers(cluster) - first) == 2)
    go.touch()
    assert all(tries in (1, 2) for tries in client.gather(running))
    ended = [job.state for job in all_jobs() if job.id in first]
    assert ended == [SlurmState.COMPLETED] * 2  # before Slurm had to end them
    assert cluster.errors == {}


def numbers(cluster: HybridCluster) -> set[str]:
    return {job.id for job in cluster.jobs.values()}


# --- co-scheduled --------------------------------------------------------------------------------


def test_one_job_has_workers_of_both_kinds_and_ends_with_its_driver(
    folder: Path, tmp_path: Path
) -> None:
    """Through the pools; the driver is killed in the middle of a quantum task."""
    site = variant(('"elastic"', '"coscheduled"')).absolute()
    found = tmp_path / "places.json"
    driver = subprocess.Popen(
        [sys.executable, str(NODES), "dask", str(found)],
        env={**os.environ, "HYBRIDFLOW_SITE": str(site)},
        cwd=tmp_path,
    )
    try:
        until(lambda: found.exists() or driver.poll() is not None)
        places = {"quantum": {"node": "q1", "shots": 5}, "classical": ["c1", "c2"]}
        assert json.loads(found.read_text()) == places
        jobs = [job for job in all_jobs() if job.name.endswith("-coscheduled-0")]
        assert [job.group for job in jobs] == [jobs[0].id] * 2
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    ids = {job.id for job in jobs}
    until(lambda: all(job.state.final for job in all_jobs() if job.id in ids))
    until(lambda: not list(tmp_path.glob("hybridflow-dask-*")))


def test_a_coscheduled_job_says_that_it_holds_its_slot(folder: Path) -> None:
    site = variant(('"elastic"', '"coscheduled"'))
    with pytest.raises(InputError, match="has the slot of one resource"):
        HybridCluster(site, workers=0)
    with HybridCluster(site) as cluster:
        assert re.search(r"coscheduled=0/1.*, holds its slot to the end", repr(cluster))
        with pytest.raises(InputError, match="come and go together"):
            cluster.scale(classical=2)
        with pytest.raises(InputError, match="come and go together"):
            cluster.adapt(quantum=(0, 1))


# --- what goes wrong -----------------------------------------------------------------------------


def test_blocks_that_cannot_come_are_explained(folder: Path) -> None:
    """One that Slurm refuses, and one that would wait for ever."""
    fails = submit(Job(name="fails", command=("false",)))
    until(lambda: state_of(fails) is SlurmState.FAILED)
    after = f'partition = "classical"\nextra = ["--dependency=afterok:{fails}"]'
    site = variant(('partition = "qpu"', 'partition = "nope"'), ('partition = "classical"', after))
    with HybridCluster(site) as cluster, Client(cluster) as client:
        quantum = client.submit(slurm_nodes.shots)
        classical = client.submit(slurm_nodes.place)
        with pytest.raises(JobRefusedError, match=r"no QPU slot: .*invalid partition"):
            quantum.result(SECONDS)
        with pytest.raises(JobFailedError, match=r"no workers: .*DependencyNeverSatisfied"):
            classical.result(SECONDS)
        assert "given up: JobRefusedError" in repr(cluster)


def test_a_folder_that_the_nodes_do_not_see_is_named(folder: Path) -> None:
    logs = folder / "logs"
    with HybridCluster(variant(), log_dir=logs) as cluster, Client(cluster) as client:
        logs.rmdir()  # as if it were there on this machine only
        with pytest.raises(JobFailedError, match="a file system that this machine and the nodes"):
            client.submit(slurm_nodes.place).result(SECONDS)


def test_every_resource_has_as_many_blocks_as_the_site_says(folder: Path) -> None:
    site = variant(("idle = 0.5", "idle = 0.5\nquantum = [0, 2]"))
    with HybridCluster(load_site(site)) as cluster:
        with pytest.raises(InputError, match="at most 2"):
            cluster.scale(quantum=3)
        cluster.scale(quantum=2)
        until(lambda: set(cluster.jobs) == {"quantum-aer_a-0", "quantum-aer_a-1"})

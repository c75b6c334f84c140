"""Blocks of workers: their jobs on a real cluster, and that none outlives its workflow."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until

from hybridflow.errors import JobFailedError, JobRefusedError, SiteError
from hybridflow.site import Site, load_site
from hybridflow.slurm import (
    BlockJobs,
    Component,
    Job,
    JobInfo,
    SlurmState,
    all_jobs,
    blocks_here,
    cancel,
    classical_block,
    coscheduled_block,
    driver_address,
    quantum_block,
    script,
)
from hybridflow.slurm.cluster import SlurmCluster

SITE = """
[qpu.aer_a]
backend = "aer"

[slurm]
walltime = "5"

[slurm.quantum]
partition = "qpu"

[slurm.classical]
partition = "classical"
nodes = 2

[slurm.slots.aer_a]
qpu = false
gres = "qpu:aer_a:1"

[slurm.blocks]
kind = "elastic"
"""
SLEEP = ("sleep", "600")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    return load_site(file)


@pytest.fixture
def jobs(on_cluster: SlurmCluster, tmp_path: Path) -> Iterator[BlockJobs]:
    blocks = BlockJobs(tmp_path / "blocks")
    yield blocks
    blocks.close()
    assert not list((tmp_path / "blocks").glob("*.lease"))


def state(jobs: BlockJobs, number: str) -> SlurmState:
    return jobs.look()[number].state


def test_outside_a_job_blocks_are_asked_for_and_inside_none(site: Site) -> None:
    assert site.slurm is not None
    assert blocks_here(site) == site.slurm.blocks
    assert blocks_here(site, {"SLURM_JOB_ID": "3"}) is None
    assert blocks_here(load_site()) is None


def test_an_elastic_block_is_a_job_of_one_component(site: Site) -> None:
    names = {"name": "n", "output": "o"}
    quantum = script(quantum_block(["door"], site, "aer_a", **names))
    assert {"#SBATCH --partition=qpu", "#SBATCH --gres=qpu:aer_a:1"} < set(quantum.splitlines())
    assert quantum.endswith("exec door\n")
    classical = script(classical_block(["pool", "-x"], site, **names))
    assert {"#SBATCH --partition=classical", "#SBATCH --nodes=2"} < set(classical.splitlines())
    assert classical.endswith("hybridflow.slurm.launcher -- pool -x\n")
    assert "hetjob" not in quantum + classical


def test_without_slurm_in_the_site_file_there_are_no_blocks() -> None:
    with pytest.raises(SiteError, match=r"add a table \[slurm\]"):
        classical_block(["pool"], load_site(), name="n", output="o")


def test_nodes_find_the_driver(on_cluster: SlurmCluster, site: Site) -> None:
    """All nodes of the local cluster are on this machine."""
    assert driver_address(site) == "127.0.0.1"


def test_coscheduled_commands_run_on_their_nodes_and_end_together(
    jobs: BlockJobs, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classical command runs on each classical node; the end of the quantum one ends it."""
    failing = "until test $(wc -l < places) = 2; do sleep 0.1; done; exit 7"
    places = "echo $SLURMD_NODENAME $CLASSICAL_QRMI_KEY >> places; exec sleep 600"
    job = coscheduled_block(
        *(["sh", "-c", f"touch places; {failing}"], ["sh", "-c", places]),
        *(site, "aer_a"),
        name=jobs.name("pair"),
        output="pair.out",
    )
    monkeypatch.setenv("CLASSICAL_QRMI_KEY", "secret")  # stays on the slot's node
    number = jobs.submit(job)
    until(lambda: state(jobs, number).final)
    assert sorted((tmp_path / "places").read_text().split()) == ["c1", "c2"]
    problem = jobs.problem(number)
    assert isinstance(problem, JobFailedError)
    assert "exit status 7" in str(problem)


def test_what_is_refused_or_can_never_start_is_named(jobs: BlockJobs) -> None:
    lost = Component(partition="nowhere")
    with pytest.raises(JobRefusedError, match="invalid partition"):
        jobs.submit(Job(name=jobs.name("a"), command=SLEEP, components=(lost,)))
    large = Component(partition="qpu", nodes=5)
    number = jobs.submit(Job(name=jobs.name("b"), command=SLEEP, components=(large,)))
    until(lambda: state(jobs, number).final)
    assert "waited for what cannot come (Partition" in str(jobs.problem(number))


def test_a_job_that_is_given_back_is_no_problem(jobs: BlockJobs) -> None:
    number = jobs.submit(Job(name=jobs.name("a"), command=SLEEP))
    other = jobs.submit(Job(name=jobs.name("b"), command=SLEEP))
    until(lambda: state(jobs, number) is state(jobs, other) is SlurmState.RUNNING)
    jobs.cancel(number)
    cancel(other)
    until(lambda: state(jobs, number).final and state(jobs, other).final)
    assert jobs.problem(number) is None
    assert "was cancelled" in str(jobs.problem(other))


DRIVER = """
import sys, time
from hybridflow.slurm import BlockJobs, Component, Job
jobs = BlockJobs("driver")
waiting = Component(extra=("--begin=now+1hour",))
for component in (Component(), waiting):
    jobs.submit(Job(name=jobs.name("a"), command=("sleep", "600"), components=(component,)))
print(jobs.family, flush=True)
time.sleep(600)
"""


def test_a_killed_driver_leaves_no_job(on_cluster: SlurmCluster, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        family = driver.stdout.readline().decode().strip()
        assert len(left_of(family)) == 2
        driver.kill()
    until(lambda: not left_of(family))
    until(lambda: not list((tmp_path / "driver").glob("*.lease")))


def left_of(family: str) -> list[JobInfo]:
    return [job for job in all_jobs() if job.name.startswith(family) and not job.state.final]

"""Parsl from a login node: its blocks are jobs of a real Slurm, elastic or co-scheduled."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import block_tasks as tasks
import psutil
import pytest
from parsl import DataFlowKernel, python_app
from parsl.config import Config
from waiting import SECONDS, processes_of, until

from hybridflow.errors import (
    DeadlineError,
    InputError,
    JobFailedError,
    JobRefusedError,
)
from hybridflow.pools import open_pools
from hybridflow.site import load_site
from hybridflow.slurm import JobInfo, SlurmState, all_jobs, queries
from hybridflow.slurm.cluster import SlurmCluster
from hybridflow_parsl import ClassicalExecutor, block_providers, hybrid_config

TESTS = Path(__file__).parent
SLOT = "qpu:aer_a"
SITE = """
[qpu.aer_a]
backend = "fake"
tasks_per_slot = 1

[classical]
workers = 1

[slurm]
walltime = "5"

[slurm.quantum]
partition = "qpu"

[slurm.classical]
partition = "classical"
nodes = 1

[slurm.slots.aer_a]
qpu = false
gres = "qpu:aer_a:1"

[slurm.blocks]
kind = "elastic"
idle = 0.5
"""


@pytest.fixture
def site(
    on_cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A site file; jobs find the tests' modules, and none is left of any test."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setattr(queries, "LAST_SECONDS", queries.FIRST_SECONDS)
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    yield file
    until(lambda: not unfinished())


def change(site: Path, *pairs: tuple[str, str]) -> None:
    text = site.read_text()
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after)
    site.write_text(text)


def unfinished() -> list[JobInfo]:
    return [job for job in all_jobs() if not job.state.final]


def holders() -> set[str]:
    """Return the numbers of the jobs that hold the slot."""
    running = [job for job in all_jobs() if job.state is SlurmState.RUNNING]
    return {job.group for job in running if job.gres.get(SLOT)}


# --- elastic -------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_the_slot_is_free_for_others_while_a_workflow_computes(site: Path, tmp_path: Path) -> None:
    """Two workflows alternate on one slot, one of which has a classical task at work all along."""
    change(site, ("nodes = 1", "nodes = 2"))
    end = tmp_path / "end"
    holding = []
    with (
        open_pools(site, engine="parsl", run_dir="a") as first,
        open_pools(site, engine="parsl", run_dir="b") as second,
    ):
        computing = first.classical.submit(tasks.compute, tmp_path / "computing", end)
        for turn, pools in enumerate((first, second, first)):
            began, done = tmp_path / f"began-{turn}", tmp_path / f"done-{turn}"
            measuring = pools.quantum.submit(tasks.measure, began, done)
            until(began.exists)
            holding.append(holders())
            done.touch()
            assert measuring.result(SECONDS) == "q1"
        until(lambda: not holders())
        assert not computing.done()
        end.touch()
        assert computing.result(SECONDS) in {"c1", "c2"}
    # One holder at a time, and the third block is not the first one.
    assert [len(jobs) for jobs in holding] == [1, 1, 1]
    assert len(set().union(*holding)) == 3


@pytest.mark.timeout(300)
def test_a_block_that_takes_no_more_tasks_ends_those_it_has(site: Path, tmp_path: Path) -> None:
    """What it has not begun is the next block's: no task is lost, and none runs twice."""
    providers = block_providers(load_site(site), folder=tmp_path)
    assert providers is not None
    executor = ClassicalExecutor(site=site, provider=providers[1], drain_period=6)
    config = Config(
        executors=[executor],
        run_dir=str(tmp_path / "runs"),
        strategy_period=0.2,
        initialize_logging=False,
        usage_tracking=0,
    )
    end = tmp_path / "end"
    with DataFlowKernel(config) as kernel:
        app = python_app(tasks.where, executors=["classical"], data_flow_kernel=kernel)
        running = app(tmp_path / "began", end)
        waiting = app(tmp_path / "later", end)
        until(lambda: any(m["draining"] and m["tasks"] for m in executor.connected_managers()))
        assert not (tmp_path / "later").exists()
        end.touch()
        assert running.result(SECONDS) != waiting.result(SECONDS)


# --- co-scheduled --------------------------------------------------------------------------------


DRIVER = """
from pathlib import Path
import block_tasks as tasks
from hybridflow.pools import open_pools

one, two, go, draft = map(Path, ("one", "two", "go", "draft"))
with open_pools(engine="parsl") as pools:
    meeting = [pools.classical.submit(tasks.meet, *pair) for pair in ((one, two), (two, one))]
    go.touch()
    nodes = [pools.quantum.submit(tasks.measure, Path("began"), go).result()]
    nodes += sorted(place.result() for place in meeting)
    draft.write_text(" ".join(nodes))
    draft.rename("nodes")
    pools.quantum.submit(tasks.measure, Path("held"), Path("never")).result()
"""


@pytest.mark.timeout(300)
def test_one_job_for_both_and_a_killed_driver_leaves_nothing(site: Path, tmp_path: Path) -> None:
    change(site, ('"elastic"\nidle = 0.5', '"coscheduled"'), ("nodes = 1", "nodes = 2"))
    nodes, said = tmp_path / "nodes", tmp_path / "said"
    with (
        said.open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            env=os.environ | {"HYBRIDFLOW_SITE": str(site)},
            stderr=log,
        ) as driver,
    ):
        try:
            until(lambda: nodes.exists() or driver.poll() is not None)
            assert nodes.exists(), said.read_text()
            assert nodes.read_text() == "q1 c1 c2"
            (job,) = {job.group for job in unfinished()}
            assert holders() == {job}
            assert f"Slurm job {job} holds its slot of 'aer_a' to the end" in said.read_text()
            running = processes_of(site)
        finally:
            driver.kill()
    until(lambda: not unfinished())
    _, alive = psutil.wait_procs(running, timeout=SECONDS)
    assert not alive


# --- what goes wrong -----------------------------------------------------------------------------


def test_a_job_that_slurm_refuses_fails_the_tasks_of_both(site: Path, tmp_path: Path) -> None:
    change(site, ('"qpu"', '"nowhere"'), ("elastic", "coscheduled"))
    with open_pools(site, engine="parsl") as pools:
        measuring = pools.quantum.submit(tasks.measure, tmp_path, tmp_path)
        computing = pools.classical.submit(tasks.compute, tmp_path, tmp_path)
        for future in (measuring, computing):
            with pytest.raises(JobRefusedError, match="invalid partition"):
                future.result(SECONDS)


def test_a_block_that_can_never_start_fails_its_tasks(site: Path, tmp_path: Path) -> None:
    change(site, ("nodes = 1", "nodes = 9"))
    with open_pools(site, engine="parsl") as pools:
        computing = pools.classical.submit(tasks.compute, tmp_path, tmp_path)
        with pytest.raises(JobFailedError, match="waited for what cannot come"):
            computing.result(SECONDS)


def test_one_of_two_coscheduled_providers_is_not_enough(site: Path) -> None:
    change(site, ("elastic", "coscheduled"))
    providers = block_providers(load_site(site), folder="runs")
    assert providers is not None
    with pytest.raises(InputError, match="give both providers, or none"):
        hybrid_config(site, qpu_provider=providers[0])


def test_near_the_end_of_the_job_around_it_no_task_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a driver's own job there is no other block to do it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) - 5))
    with open_pools(engine="parsl") as pools:
        computing = pools.classical.submit(tasks.compute, tmp_path, tmp_path)
        with pytest.raises(DeadlineError, match="no further tasks are begun"):
            computing.result(SECONDS)

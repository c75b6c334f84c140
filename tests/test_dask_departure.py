"""Workers leave before their Slurm job ends: nothing is lost, and nothing is begun that is cut."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, Event, Reschedule, Scheduler, Worker, get_worker
from distributed.core import Status
from distributed.utils_test import gen_cluster, inc

from hybridflow import environment
from hybridflow.environment import Role
from hybridflow.errors import DeadlineError, HybridflowError, JobFailedError, SlurmError
from hybridflow.site import load_site
from hybridflow.walltime import job_deadline
from hybridflow_dask import HybridCluster, HybridPlugin, departure
from hybridflow_dask.departure import DEADLINE, MARGIN, Departure, handing_back, margin_of
from hybridflow_dask.groups import Group
from hybridflow_dask.haven import Haven
from hybridflow_dask.members import Member
from hybridflow_dask.node import main, on_this_node
from hybridflow_dask.service import Service

SECONDS = 60
FAR = 3600.0


def ends_in(seconds: float, margin: str = "60s") -> dict[str, Any]:
    return {DEADLINE: time.time() + seconds, MARGIN: margin}


async def departing(worker: Worker) -> Departure:
    plugin = Departure()
    await worker.plugin_add(plugin, catch_errors=False)
    await until(lambda: plugin._deadline)
    return plugin


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def named(tries: str, name: str) -> str:
    with open(tries, "a") as stream:
        stream.write("x")
    Event(name).wait(SECONDS)
    return str(get_worker().name)


# --- a worker that leaves ------------------------------------------------------------------------


@gen_cluster(client=True, nthreads=[], timeout=SECONDS)
async def test_results_move_what_runs_ends_and_what_waits_goes_elsewhere(
    client: Client, scheduler: Scheduler
) -> None:
    async with Worker(scheduler.address, name="old", nthreads=1) as old:
        with dask.config.set(ends_in(FAR)):
            plugin = await departing(old)
        done = client.submit(inc, 1)
        await done
        running = client.submit(named, os.devnull, "go", pure=False, workers="old")
        await until(lambda: old.state.executing)
        waiting = [client.submit(named, os.devnull, "now", pure=False) for _ in range(3)]
        await until(lambda: len(scheduler.workers[old.address].processing) > 1)
        async with Worker(scheduler.address, name="new", nthreads=1):
            await Event("now").set()
            plugin.begin()
            # While the old one still runs its task.
            assert await client.gather(waiting) == ["new"] * 3
            assert old.status == Status.closing_gracefully
            await Event("go").set()
            assert await running == "old"
            await old.finished()
            assert [ws.name for ws in scheduler.workers.values()] == ["new"]
            assert await done == 2
            assert scheduler.tasks[done.key].suspicious == 0
            assert not any(m[2] == "released" for m in scheduler.story(done.key) if len(m) > 2)


@gen_cluster(client=True, nthreads=[], timeout=SECONDS)
async def test_who_was_given_tasks_and_has_ended_none_is_known(
    client: Client, scheduler: Scheduler
) -> None:
    service = Service()
    scheduler.add_plugin(service)
    await service.start(scheduler)
    task = client.submit(named, os.devnull, "go", pure=False)
    async with Worker(scheduler.address, name="classical-0:c1"):
        await until(lambda: service.in_vain("classical-0"))
        assert not service.in_vain("classical-1")
        await Event("go").set()
        await task
        assert not service.in_vain("classical-0")
        service.forget("classical-0")
        assert await client.submit(inc, 1) == 2
        assert not service.in_vain("classical-0")


class Ended(Member):
    """A block that came up, and whose job was over."""

    ran_out_of_time = True
    is_hopeless = False

    def error(self, who: str, role: Role) -> HybridflowError:
        raise AssertionError

    def describe_end(self) -> str:
        return "over"


def test_a_group_whose_blocks_are_too_short_for_its_tasks_gives_up() -> None:
    """Not for blocks that were idle, and not where one of them has ended a task."""
    group = Group(Role.CLASSICAL, "", {}, size=1)
    member = Ended("classical-0")
    member.came_up_at = time.monotonic()
    for in_vain in (True, True, False, True, True):
        assert group.ended(member, in_vain=in_vain) is not None
    assert group.ended(member, in_vain=True) is None
    assert isinstance(group.error, JobFailedError)
    assert "3 blocks in a row have come to the end of their time" in str(group.error)
    assert not group.error.transient
    group.resize(1)
    assert group.ended(member, in_vain=True) is not None


def test_what_does_not_end_in_time_runs_again(tmp_path: Path) -> None:
    tries = tmp_path / "tries"

    @gen_cluster(client=True, nthreads=[], timeout=SECONDS)
    async def body(client: Client, scheduler: Scheduler) -> None:
        async with Worker(scheduler.address, name="old", nthreads=1) as old:
            task = client.submit(named, str(tries), "go", pure=False)
            await until(tries.exists)
            with dask.config.set(ends_in(1.0)):
                await departing(old)
            await old.finished()
            await Event("go").set()
            async with Worker(scheduler.address, name="new", nthreads=1):
                assert await task == "new"
                assert scheduler.tasks[task.key].suspicious == 0

    body()
    assert tries.read_text() == "xx"


def test_what_the_last_worker_holds_goes_to_the_driver(tmp_path: Path) -> None:
    """Whose own worker gets no task."""

    @gen_cluster(client=True, nthreads=[("127.0.0.1", 1)], timeout=SECONDS)
    async def body(client: Client, scheduler: Scheduler, worker: Worker) -> None:
        haven = Haven(tmp_path)
        for plugin in (HybridPlugin(), haven):
            scheduler.add_plugin(plugin)
            await plugin.start(scheduler)
        future = client.submit(inc, 1)
        await future
        with dask.config.set(ends_in(FAR)):
            departing_worker = await departing(worker)
        departing_worker.begin()
        await worker.finished()
        assert await future == 2
        assert not any(m[2] == "released" for m in scheduler.story(future.key) if len(m) > 2)
        another = client.submit(inc, future)
        await until(lambda: another.key in scheduler.tasks)
        assert scheduler.tasks[another.key].state in ("queued", "no-worker")
        async with Worker(scheduler.address, nthreads=1):
            assert await another == 3
        await haven.end()

    body()


def test_without_a_driver_it_is_computed_again() -> None:
    @gen_cluster(client=True, nthreads=[("127.0.0.1", 1)], timeout=SECONDS)
    async def body(client: Client, scheduler: Scheduler, worker: Worker) -> None:
        future = client.submit(inc, 1)
        await future
        with dask.config.set(ends_in(1.0)):
            await departing(worker)
        await worker.finished()
        async with Worker(scheduler.address, nthreads=1):
            assert await future == 2

    body()


# --- tasks for which there is too little time left -----------------------------------------------


@pytest.mark.parametrize(("lived", "again"), [(0.0, False), (0.5, True)])
def test_a_task_that_comes_too_late_is_done_elsewhere(lived: float, again: bool) -> None:
    """Unless a whole slot would be too short for it."""

    @gen_cluster(nthreads=[("127.0.0.1", 1)], timeout=SECONDS)
    async def body(scheduler: Scheduler, worker: Worker) -> None:
        with dask.config.set(ends_in(FAR)):
            plugin = await departing(worker)
        plugin._up_at -= FAR * lived / (1 - lived)
        message = {"op": "task-erred", "actual_exception": DeadlineError("too late")}
        found = await asyncio.to_thread(handing_back(worker, lambda: message))
        assert isinstance(found["actual_exception"], Reschedule) is again
        if again:
            await worker.finished()
        else:
            assert worker.status == Status.running

    body()


@gen_cluster(nthreads=[("127.0.0.1", 1)], timeout=SECONDS)
async def test_other_errors_and_results_stay_what_they_are(
    scheduler: Scheduler, worker: Worker
) -> None:
    for message in ({"op": "task-finished", "result": 1}, {"actual_exception": ValueError()}):
        assert handing_back(worker, lambda given=message: given)() is message
    late = {"actual_exception": DeadlineError("too late")}
    assert isinstance(handing_back(worker, lambda: late)()["actual_exception"], DeadlineError)


# --- how long, and until when --------------------------------------------------------------------


def test_the_margin_is_a_minute_and_never_more_than_a_quarter() -> None:
    assert margin_of(3600) == 60
    assert margin_of(60) == 15
    assert margin_of(-5) == 0
    with dask.config.set({MARGIN: "10 minutes"}):
        assert margin_of(7200) == 600


def test_without_a_known_end_workers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert departure._deadline() is None

    def silent(environ: object) -> float:
        raise SlurmError("squeue did not answer")

    monkeypatch.setattr(departure, "job_deadline", silent)
    assert departure._deadline() is None


def test_the_workers_of_a_node_are_named_after_it_and_asked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "c1", "SLURM_CPUS_ON_NODE": "4"}
    expected = ["worker", "--nanny", "--nworkers", "4", "--name", "classical-0:c1"]
    assert on_this_node(["worker"], "classical-0", 0, variables) == expected
    assert "2" in on_this_node(["worker"], "classical-0", 2, variables)
    started: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *given: started.append(given))
    for name, value in (variables | {environment.JOB_END: "1234567890"}).items():
        monkeypatch.setenv(name, value)
    main(["--member", "classical-0", "--threads", "3", "--", "worker"])
    program, words, environ = started[0]
    assert (program, words) == ("worker", expected)
    assert environ["OMP_NUM_THREADS"] == "3"
    assert job_deadline(environ) == float(environ["DASK_HYBRIDFLOW__DEADLINE"]) == 1234567890


# --- the same inside the driver's own job --------------------------------------------------------


def test_a_cluster_in_a_job_that_ends_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its workers leave in time, and its tasks fail in time for the program to end well."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(environment.JOB_END, str(int(time.time()) + 4))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with HybridCluster(load_site(), workers=1) as cluster, Client(cluster) as client:
        cluster.scale(quantum=0)
        future = client.submit(time.sleep, 600)
        with pytest.raises(DeadlineError, match=r"the Slurm job 7 ends at \d\d:\d\d:\d\d"):
            future.result(SECONDS)
        assert isinstance(cluster.errors["classical"], DeadlineError)

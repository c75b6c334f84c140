"""The scheduler plugin: who runs where, what waits, what is refused, and what Dask keeps."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial, wraps
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, Event, Future, Nanny, Scheduler, Worker, get_worker, wait
from distributed.utils_test import gen_cluster

import hybridflow as hf
from hybridflow import environment
from hybridflow.errors import InputError, NoSlotError, TaskError
from hybridflow_dask import HybridPlugin, admission, quantum

SECONDS = 30

Test = Callable[[Client, Scheduler], Awaitable[None]]


def worker(name: str, threads: int = 1, **resources: float) -> dict[str, Any]:
    labels = {label.replace("_", "-"): amount for label, amount in resources.items()}
    return {"name": name, "nthreads": threads, "resources": labels}


CLASSICAL = worker("classical")
QUANTUM = worker("quantum", 2, QPU=2, QPU_aer=2)
IN_SLOT = QUANTUM | {"env": {environment.BROKER: "/run/slot"}}  # for a process of its own


def cluster(
    *workers: dict[str, Any],
    kind: type[Worker] | type[Nanny] = Worker,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Callable[[Test], Callable[[], None]]:
    """Run a test on a cluster whose scheduler checks itself at every step."""

    def decorate(test: Test) -> Callable[[], None]:
        async def body(client: Client, scheduler: Scheduler) -> None:
            await client.register_plugin(HybridPlugin(**{"require_slot": False} | options))
            async with AsyncExitStack() as stack:
                for about in workers:
                    await stack.enter_async_context(kind(scheduler.address, **about))
                await test(client, scheduler)
                if plugin := scheduler.plugins.pop("hybridflow", None):
                    await plugin.close()

        run = gen_cluster(client=True, nthreads=[], config=config, timeout=SECONDS)(body)

        @wraps(test)
        def wrapped() -> None:
            run()

        del wrapped.__wrapped__  # pytest would take its arguments for fixtures
        return wrapped

    return decorate


def plugin_of(scheduler: Scheduler) -> HybridPlugin:
    plugin = scheduler.plugins["hybridflow"]
    assert isinstance(plugin, HybridPlugin)
    return plugin


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def state(scheduler: Scheduler, name: str) -> list[Any]:
    return [ts for ts in scheduler.tasks.values() if ts.state == name]


# --- what the tasks do: all of them say where they ran --------------------------------------------


def place(*_: Any) -> str:
    return str(get_worker().name)


@hf.quantum_task
def sample(*_: Any) -> str:
    return place()


@hf.quantum_task
def sample_when(event: str, *_: Any) -> str:
    Event(event).wait(SECONDS)
    return place()


def place_when(event: str, *_: Any) -> str:
    Event(event).wait(SECONDS)
    return place()


def both(*places: str) -> list[str]:
    return [*places, place()]


@hf.quantum_task
def sample_after(*places: str) -> list[str]:
    return [*places, place()]


class Device:
    @hf.quantum_task
    def sample(self, *_: Any) -> str:
        return place()

    @hf.quantum_task
    def __call__(self, *_: Any) -> str:
        return place()


@hf.quantum_task
def note_and_wait(folder: Path, number: int) -> int:
    """Say who runs, then run until the test says go."""
    (folder / f"{number}-{os.getpid()}").touch()
    deadline = time.monotonic() + SECONDS
    while not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return number


# --- routing --------------------------------------------------------------------------------------


@cluster(CLASSICAL, QUANTUM)
async def test_the_mark_decides(client: Client, scheduler: Scheduler) -> None:
    marked = [sample, partial(sample, 1), partial(partial(sample, 1), 2), Device().sample, Device()]
    for function in marked:
        assert await client.submit(function, 0) == "quantum"
    assert set(await client.gather(client.map(sample, range(40)))) == {"quantum"}
    assert set(await client.gather(client.map(place, range(40)))) == {"classical"}
    assert await client.submit(place, 1) == "classical"


@cluster(CLASSICAL, QUANTUM)
async def test_data_does_not_draw_tasks(client: Client, scheduler: Scheduler) -> None:
    """Dask likes to run a task where its inputs are."""
    chain = dask.delayed(both)(
        dask.delayed(sample_after)(dask.delayed(place)()), dask.delayed(sample)()
    )
    assert await client.compute(chain) == [["classical", "quantum"], "quantum", "classical"]


@cluster(CLASSICAL, QUANTUM, worker("other", 1, QPU=1, QPU_moon=1))
async def test_an_annotation_decides(client: Client, scheduler: Scheduler) -> None:
    with quantum("moon"):
        assert await client.submit(place, 1) == "other"
        assert await client.submit(sample, 1) == "other"
        annotated = dask.delayed(place)()
    assert await client.compute(annotated) == "other"
    with quantum("aer"):
        assert set(await client.gather(client.map(place, range(9)))) == {"quantum"}
    assert await client.submit(place, 2, resources={"QPU": 1}) in ("quantum", "other")
    assert await client.submit(place, 2, resources={"QPU-moon": 1}) == "other"


@cluster(CLASSICAL, QUANTUM, worker("moon", 1, QPU=1, QPU_moon=1))
async def test_an_annotation_around_compute_is_for_the_marked(
    client: Client, scheduler: Scheduler
) -> None:
    for label, name in (("QPU-moon", "moon"), ("QPU-aer", "quantum")):
        chain = dask.delayed(both)(dask.delayed(sample_after)(dask.delayed(place)()))
        found = await client.compute(chain, resources={label: 1})
        assert found == [["classical", name], "classical"]


@cluster(CLASSICAL, QUANTUM)
async def test_no_classical_task_can_be_pinned_to_a_slot(
    client: Client, scheduler: Scheduler
) -> None:
    address = scheduler.aliases["quantum"]
    with pytest.raises(TaskError, match=r"restricted to quantum workers.*quantum_task"):
        await client.submit(place, 1, workers=[address])
    free = client.submit(place, 2, workers=[address], allow_other_workers=True)
    assert await free == "classical"
    assert await client.submit(sample, 3, workers=[address]) == "quantum"
    everywhere = [ws.address for ws in scheduler.workers.values()]
    assert await client.submit(place, 4, workers=everywhere) == "classical"


@cluster(CLASSICAL, QUANTUM)
async def test_other_restrictions_stay(client: Client, scheduler: Scheduler) -> None:
    everyone = list(scheduler.workers)
    futures = client.map(sample, range(3), workers=everyone, allow_other_workers=True)
    assert set(await client.gather(futures)) == {"quantum"}
    actor = await client.submit(Device, actor=True)
    assert scheduler.workers[actor._address].name == "classical"


@cluster(CLASSICAL)
async def test_a_late_plugin_takes_over(client: Client, scheduler: Scheduler) -> None:
    await scheduler.plugins.pop("hybridflow").close()
    waiting = client.submit(sample_after, client.submit(place_when, "go"))
    queued = client.map(partial(sample, "q"), range(30), key="root")
    stuck = client.submit(place, 1, resources={"QPU": 1})
    await until(lambda: len(scheduler.unrunnable) == 1 and scheduler.queued)
    await client.register_plugin(HybridPlugin(require_slot=False))
    async with Worker(scheduler.address, name="quantum", resources={"QPU": 1}):
        assert await stuck == "quantum"
        await Event("go").set()
        assert await waiting == ["classical", "quantum"]
        # What the classical worker had been given before cannot be taken back.
        places = await client.gather(queued)
        assert places.count("classical") <= 2


# --- what waits -----------------------------------------------------------------------------------


@cluster(CLASSICAL, QUANTUM, worker("other", 1, QPU=4))
async def test_tasks_in_flight_are_bounded(client: Client, scheduler: Scheduler) -> None:
    """As many as run at a time: threads and the declared amount, whichever is less."""
    futures = client.map(partial(sample_when, "go"), range(20))
    await until(lambda: len(state(scheduler, "processing")) == 3)
    await until(lambda: len(scheduler.unrunnable) == 17)
    loads = {ws.name: len(ws.processing) for ws in scheduler.workers.values()}
    assert loads == {"classical": 0, "quantum": 2, "other": 1}
    await Event("go").set()
    assert set(await client.gather(futures)) == {"quantum", "other"}


@cluster(CLASSICAL, worker("quantum", 4, QPU=4))
async def test_amounts_count(client: Client, scheduler: Scheduler) -> None:
    large = client.map(partial(sample_when, "go"), range(3), resources={"QPU": 2})
    await until(lambda: len(scheduler.unrunnable) == 1)
    assert len(state(scheduler, "processing")) == 2
    await Event("go").set()
    assert await client.gather(large) == ["quantum"] * 3


@cluster(CLASSICAL, worker("quantum", 1, QPU=1))
async def test_the_most_urgent_goes_first(client: Client, scheduler: Scheduler) -> None:
    first = client.submit(sample_when, "go")
    await until(lambda: state(scheduler, "processing"))
    futures = [client.submit(sample, n, priority=p) for n, p in enumerate((0, 5, -5, 10))]
    await until(lambda: len(scheduler.unrunnable) == 4)
    await Event("go").set()
    await wait([first, *futures])
    log = [entry[0] for entry in scheduler.transition_log if entry[2] == "processing"]
    assert [futures[n].key for n in (3, 1, 0, 2)] == log[1:]


@cluster(CLASSICAL, worker("a", 1, QPU=1, QPU_a=1), worker("b", 1, QPU=1, QPU_b=1))
async def test_one_resource_does_not_wait_for_another(client: Client, scheduler: Scheduler) -> None:
    with quantum("a"):
        blocked = client.map(partial(sample_when, "go"), range(3), priority=10)
    await until(lambda: len(scheduler.unrunnable) == 2)
    with quantum("b"):
        assert set(await client.gather(client.map(sample, range(5)))) == {"b"}
    await Event("go").set()
    assert set(await client.gather(blocked)) == {"a"}


@cluster(CLASSICAL, QUANTUM)
async def test_no_quantum_task_waits_for_classical_ones(
    client: Client, scheduler: Scheduler
) -> None:
    waiting = client.map(partial(place_when, "go"), range(200))
    single = [client.submit(place_when, "go", pure=False) for _ in range(20)]
    await until(lambda: state(scheduler, "processing"))
    assert await client.submit(sample, 1) == "quantum"
    await Event("go").set()
    assert set(await client.gather([*waiting, *single])) == {"classical"}


@cluster(CLASSICAL, QUANTUM)
async def test_tasks_that_wait_can_be_cancelled(client: Client, scheduler: Scheduler) -> None:
    futures = client.map(partial(sample_when, "go"), range(50))
    await until(lambda: len(scheduler.unrunnable) == 48)
    await client.cancel(futures[10:])
    await until(lambda: len(scheduler.unrunnable) == 8)
    await Event("go").set()
    assert await client.gather(futures[:10]) == ["quantum"] * 10
    assert len(plugin_of(scheduler)._backlog) == 0


@cluster(CLASSICAL, QUANTUM, config={"distributed.scheduler.no-workers-timeout": "300ms"})
async def test_dasks_timeout_is_not_for_tasks_that_wait_their_turn(
    client: Client, scheduler: Scheduler
) -> None:
    futures = client.map(partial(sample_when, "go"), range(6))
    await until(lambda: len(scheduler.unrunnable) == 4)
    begun = time.monotonic()
    await until(lambda: time.monotonic() > begun + 1)
    await Event("go").set()
    assert await client.gather(futures) == ["quantum"] * 6


# --- no worker, other workers, bad workers --------------------------------------------------------


@cluster(CLASSICAL, no_slot_seconds=0.3)
async def test_without_a_quantum_worker_tasks_fail(client: Client, scheduler: Scheduler) -> None:
    futures = [*client.map(sample, range(5)), client.submit(both, client.submit(sample, 7))]
    for future in futures:
        with pytest.raises(NoSlotError, match=r"no quantum worker.*hybridflow slot run"):
            await future
    async with Worker(scheduler.address, name="quantum", resources={"QPU": 1}):
        await client.retry([futures[0]])
        assert await futures[0] == "quantum"


@cluster(CLASSICAL, QUANTUM, no_slot_seconds=0.3)
async def test_nobody_offers_what_is_asked_for(client: Client, scheduler: Scheduler) -> None:
    declared = r"what the quantum workers have: QPU=2, QPU-aer=2"
    start = r'--resource moon -- dask worker ADDRESS --resources "QPU=1 QPU-moon=1"'
    with quantum("moon"), pytest.raises(NoSlotError, match=rf"QPU-moon=1; {declared}.*{start}"):
        await client.submit(sample)


@cluster(CLASSICAL, QUANTUM, no_slot_seconds=None)
async def test_more_than_a_slot_has_fails_at_once(client: Client, scheduler: Scheduler) -> None:
    for label in ("QPU", "QPU-aer"):
        with pytest.raises(InputError, match=rf"{label}=1000.* more than.*QPU=2, QPU-aer=2"):
            await client.submit(sample, resources={label: 1000}, workers=["quantum"])
    assert await client.submit(sample) == "quantum"


@cluster(
    CLASSICAL, QUANTUM, no_slot_seconds=None, outlook=lambda asked: asked == {"QPU": 4, "QPU-b": 4}
)
async def test_a_larger_slot_on_its_way_is_waited_for(client: Client, scheduler: Scheduler) -> None:
    future = client.submit(sample, resources={"QPU": 4, "QPU-b": 4})
    with pytest.raises(InputError):
        await client.submit(sample, resources={"QPU": 5})
    assert future.status == "pending"
    async with Worker(scheduler.address, name="b", resources={"QPU": 4, "QPU-b": 4}):
        assert await future == "b"


@cluster(CLASSICAL, QUANTUM, no_slot_seconds=None)
async def test_no_quantum_task_can_be_pinned_outside_slots(
    client: Client, scheduler: Scheduler
) -> None:
    with pytest.raises(InputError, match=r"restricted to classical workers.*drop `workers=`"):
        await client.submit(sample, workers=["classical"])
    both_of_them = list(scheduler.workers)
    assert await client.submit(sample, workers=both_of_them) == "quantum"


@cluster(CLASSICAL)
async def test_a_late_quantum_worker_gets_what_waits(client: Client, scheduler: Scheduler) -> None:
    futures = client.map(partial(sample_when, "go"), range(8))
    await until(lambda: len(scheduler.unrunnable) == 8)
    async with Worker(scheduler.address, name="one", nthreads=1, resources={"QPU": 1}):
        await until(lambda: len(scheduler.unrunnable) == 7)
        async with Worker(scheduler.address, name="two", nthreads=2, resources={"QPU": 2}):
            await until(lambda: len(scheduler.unrunnable) == 5)
            await Event("go").set()
            assert set(await client.gather(futures)) == {"one", "two"}


@cluster(QUANTUM, no_worker_seconds=0.3)
async def test_without_classical_workers_tasks_fail(client: Client, scheduler: Scheduler) -> None:
    alone = client.submit(place, 1)
    roots = client.map(place, range(50))  # which Dask queues
    for future in (alone, *roots):
        with pytest.raises(TaskError, match=r"quantum workers only.*classical worker"):
            await future
    assert await client.submit(sample, 1) == "quantum"


@cluster(worker("plain"), worker("large", CPU=4), QUANTUM, no_worker_seconds=0.3)
async def test_what_no_classical_worker_has_is_not_waited_for(
    client: Client, scheduler: Scheduler
) -> None:
    have = r"have: CPU=4 \(1 of them\); nothing \(1 of them\)"
    for asked, text in (
        ({"GPU": 1}, "GPU=1"),
        ({"CPU": 5}, "CPU=5"),
        ({"GPU": 1, "CPU": 1}, "GPU=1, CPU=1"),
    ):
        with pytest.raises(TaskError, match=rf"classical task.*asks for .*{text};.*{have}"):
            await client.submit(place, resources=asked, pure=False)
    with pytest.raises(TaskError, match=r"asks for one of the workers tcp://127\.0\.0\.1:1;"):
        await client.submit(place, workers=["tcp://127.0.0.1:1"], pure=False)
    assert await client.submit(place, resources={"CPU": 4}) == "large"
    assert not plugin_of(scheduler)._stranded


@cluster(CLASSICAL, no_worker_seconds=0.3, no_slot_seconds=0.3)
async def test_what_fails_together_fails_once(client: Client, scheduler: Scheduler) -> None:
    """The first takes with it what needs both, and then nobody asks for the second."""
    for restrict, error in (({"GPU": 1}, TaskError), ({"QPU": 1}, NoSlotError)):
        with dask.annotate(resources=restrict):
            parts = [dask.delayed(place)(n) for n in range(3)]
        with pytest.raises(error):
            await client.compute(dask.delayed(both)(*parts))
    assert not plugin_of(scheduler)._stranded
    assert len(plugin_of(scheduler)._backlog) == 0
    assert await client.submit(place) == "classical"


@cluster(CLASSICAL)
async def test_a_late_worker_that_fits_gets_what_waits(
    client: Client, scheduler: Scheduler
) -> None:
    futures = [
        client.submit(place, 1, resources={"GPU": 1}),
        client.submit(place, 2, workers=["gpu"]),
    ]
    await until(lambda: len(plugin_of(scheduler)._stranded) == 2)
    async with Worker(scheduler.address, name="gpu", host="127.0.0.2", resources={"GPU": 1}):
        assert await client.gather(futures) == ["gpu", "gpu"]
        assert not plugin_of(scheduler)._stranded


@cluster(QUANTUM)
async def test_late_classical_workers_get_what_waits(client: Client, scheduler: Scheduler) -> None:
    futures = [client.submit(place, 1), *client.map(partial(place, 2), range(50))]
    await until(lambda: len(scheduler.queued) == 51)
    async with Worker(scheduler.address, name="classical"):
        assert set(await client.gather(futures)) == {"classical"}


@cluster(CLASSICAL, worker("one", 1, QPU=1, QPU_aer=1), no_slot_seconds=0.3)
async def test_two_workers_that_claim_one_resource(client: Client, scheduler: Scheduler) -> None:
    """The second gets nothing, and takes over when the first has gone."""
    plugin = plugin_of(scheduler)
    second = await Worker(scheduler.address, name="two", resources={"QPU": 1, "QPU-aer": 1})
    try:
        await until(lambda: any(plugin._admission.reasons.values()))
        assert set(await client.gather(client.map(sample, range(20)))) == {"one"}
        with pytest.raises(NoSlotError, match=r"two \(it claims the resource 'aer'.*used by one"):
            await client.submit(sample, workers=[second.address])
        ((_, event),) = await client.get_events("hybridflow")
        assert event["worker"] == second.address
        await client.retire_workers(names=["one"])
        assert await client.submit(sample, 1) == "two"
    finally:
        await second.close()


@cluster(
    CLASSICAL, worker("one", 1, QPU=1, QPU_a=1), worker("two", 1, QPU=1, QPU_a=1), slots={"a": 2}
)
async def test_a_resource_with_two_slots(client: Client, scheduler: Scheduler) -> None:
    futures = client.map(partial(sample_when, "go"), range(2))
    await until(lambda: len(state(scheduler, "processing")) == 2)
    await Event("go").set()
    assert set(await client.gather(futures)) == {"one", "two"}


@cluster(CLASSICAL, QUANTUM, require_slot=True, no_slot_seconds=0.3)
async def test_a_worker_outside_a_slot(client: Client, scheduler: Scheduler) -> None:
    with pytest.raises(NoSlotError, match=r"quantum \(it is in no QPU slot.*hybridflow slot run"):
        await client.submit(sample)


def test_versions_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other worker is asked, too, and gets the work."""
    asked = admission._description

    async def description(scheduler: Scheduler, address: str) -> dict[str, str]:
        found = await asked(scheduler, address)
        old = scheduler.workers[address].name == "old"
        return found | {"qiskit": "0.1"} if old else found

    monkeypatch.setattr(admission, "_description", description)

    @cluster(
        CLASSICAL, worker("old", 1, QPU=1), worker("new", 1, QPU=1, QPU_b=1), no_slot_seconds=0.3
    )
    async def check(client: Client, scheduler: Scheduler) -> None:
        assert set(await client.gather(client.map(sample, range(9)))) == {"new"}
        with pytest.raises(NoSlotError, match=r"old \(it has qiskit 0\.1, and the scheduler has"):
            await client.submit(sample, workers=[scheduler.aliases["old"]])

    check()


def test_a_worker_that_cannot_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def describe() -> dict[str, str]:
        raise ModuleNotFoundError("No module named 'hybridflow_dask'")

    monkeypatch.setattr(admission, "_describe", describe)

    @cluster(CLASSICAL, QUANTUM, no_slot_seconds=0.3)
    async def check(client: Client, scheduler: Scheduler) -> None:
        with pytest.raises(NoSlotError, match=r"could not be asked.*No module named"):
            await client.submit(sample)

    check()


@cluster(CLASSICAL, QUANTUM)
async def test_quantum_workers_that_are_needed_stay(client: Client, scheduler: Scheduler) -> None:
    quantum_worker = scheduler.aliases["quantum"]
    assert quantum_worker in scheduler.workers_to_close(n=2)
    future = client.submit(sample_when, "go")
    await until(lambda: state(scheduler, "processing"))
    assert scheduler.workers_to_close(n=2) == [scheduler.aliases["classical"]]
    await Event("go").set()
    await future


def test_a_killed_worker_costs_what_ran(tmp_path: Path) -> None:
    """Of 50 tasks, two have run when their worker is killed: all end well, two begin again."""

    @cluster(CLASSICAL, IN_SLOT, kind=Nanny)
    async def check(client: Client, scheduler: Scheduler) -> None:
        futures = client.map(partial(note_and_wait, tmp_path), range(50))
        await until(lambda: len(list(tmp_path.iterdir())) == 2)
        suspects = state(scheduler, "processing")
        pid = scheduler.workers[scheduler.aliases["quantum"]].pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: len(list(tmp_path.iterdir())) == 4)
        assert [ts.suspicious for ts in suspects] == [1, 1]
        assert sum(ts.suspicious for ts in scheduler.tasks.values()) == 2
        (tmp_path / "go").touch()
        assert await client.gather(futures) == list(range(50))

    check()
    (tmp_path / "go").unlink()
    assert len(list(tmp_path.iterdir())) == 52


# --- bad annotations ------------------------------------------------------------------------------


@cluster(CLASSICAL, QUANTUM, slots={"aer": 1})
async def test_bad_annotations(client: Client, scheduler: Scheduler) -> None:
    with quantum("nowhere"), pytest.raises(InputError, match=r"no resource 'nowhere'.*: aer"):
        await client.submit(sample)
    wrong: Iterable[Any] = ("1", None, True, 0, -1, float("nan"), float("inf"), [1])
    for amount in wrong:
        for label in ("QPU", "GPU"):
            with pytest.raises(InputError, match=rf"asks for .* of '{label}'"):
                await client.submit(place, resources={label: amount}, pure=False)
    last = dask.delayed(both)(dask.delayed(place)())
    with dask.annotate(resources={"QPU": "1"}):
        last = dask.delayed(both)(last)
    with pytest.raises(InputError, match="number above 0"):
        await client.compute(dask.delayed(both)(last))
    assert await client.submit(sample) == "quantum"
    assert await client.submit(place) == "classical"


@pytest.mark.parametrize("asked", [["QPU"], "QPU", {"QPU"}, 1, {"QPU": "one"}, {"GPU": None}])
def test_resources_that_mean_nothing_are_refused_where_they_are_said(asked: Any) -> None:
    @cluster(CLASSICAL, QUANTUM)
    async def check(client: Client, scheduler: Scheduler) -> None:
        for say in (client.submit, client.map):
            with pytest.raises(InputError, match=r'the call of \'place\'.*resources={"QPU": 1}'):
                say(place, [1], resources=asked)

    check()


@cluster(CLASSICAL, QUANTUM)
async def test_processes_are_not_for_quantum_tasks(client: Client, scheduler: Scheduler) -> None:
    with dask.annotate(executor="hybridflow"):
        marked = client.submit(sample)
        with quantum():
            annotated = client.submit(place)
    for future in (marked, annotated):
        with pytest.raises(TaskError, match=r"executor='hybridflow'.*no way to the QPU"):
            await future


@pytest.mark.parametrize("name", ["", 3, ["aer"]])
def test_the_resource_is_a_name(name: Any) -> None:
    with pytest.raises(InputError, match="`resource` of quantum"), quantum(name):
        pass


@cluster(CLASSICAL, QUANTUM, slots={"aer": 1})
async def test_a_refused_task_is_refused_again(client: Client, scheduler: Scheduler) -> None:
    future = client.submit(sample, resources={"QPU-moon": 1})
    for _ in range(2):
        with pytest.raises(InputError):
            await future
        await client.retry([future])
    with pytest.raises(InputError):
        await future
    future.release()
    await until(lambda: not scheduler.tasks)
    assert not plugin_of(scheduler)._refused


# --- what stays Dask's own ------------------------------------------------------------------------


@cluster(CLASSICAL, worker("quantum", 16, QPU=16))
async def test_root_tasks_are_queued(client: Client, scheduler: Scheduler) -> None:
    """As on a cluster without the 16 threads in the slot."""
    futures = client.map(partial(place_when, "go"), range(8))
    await until(lambda: len(scheduler.queued) == 6)
    assert len(scheduler.workers[scheduler.aliases["classical"]].processing) == 2
    await Event("go").set()
    assert set(await client.gather(futures)) == {"classical"}


@cluster(CLASSICAL, QUANTUM, config={"distributed.scheduler.worker-saturation": "inf"})
async def test_root_tasks_without_queuing(client: Client, scheduler: Scheduler) -> None:
    assert set(await client.gather(client.map(place, range(50)))) == {"classical"}


@cluster(worker("one"), worker("two"), QUANTUM)
async def test_classical_workers_steal_from_each_other_only(
    client: Client, scheduler: Scheduler
) -> None:
    (root,) = await client.scatter([1], workers=[scheduler.aliases["one"]])
    futures = client.map(lambda n, root: time.sleep(0.01) or place(), range(60), root=root)
    assert set(await client.gather(futures)) == {"one", "two"}


@cluster(CLASSICAL, QUANTUM)
async def test_an_unregistered_plugin_gives_all_back(client: Client, scheduler: Scheduler) -> None:
    futures = client.map(partial(sample_when, "go"), range(5))
    await until(lambda: len(scheduler.unrunnable) == 3)
    await client.unregister_scheduler_plugin("hybridflow")
    await until(lambda: not scheduler.unrunnable)
    assert "valid_workers" not in vars(scheduler)
    assert "hybridflow" not in scheduler.periodic_callbacks
    await Event("go").set()
    assert await client.gather(futures) == ["quantum"] * 5
    assert set(await client.gather(client.map(place, range(20)))) == {"classical", "quantum"}


@cluster(CLASSICAL, QUANTUM)
async def test_registering_again_changes_nothing(client: Client, scheduler: Scheduler) -> None:
    plugin = plugin_of(scheduler)
    await client.register_plugin(HybridPlugin())
    assert plugin_of(scheduler) is plugin


@cluster(CLASSICAL, IN_SLOT, kind=Nanny)
async def test_a_restart_forgets_what_waits(client: Client, scheduler: Scheduler) -> None:
    futures: list[Future[Any]] = client.map(partial(sample_when, "go"), range(5))
    await until(lambda: len(scheduler.unrunnable) == 3)
    await client.restart()
    assert all(future.cancelled() for future in futures)
    assert await client.submit(sample) == "quantum"


# --- the scenarios of Dask's own test_resources.py ------------------------------------------------


@cluster(worker("a"), worker("b", 1, QPU=1), worker("c", 1, QPU=2))
async def test_minimum_amounts(client: Client, scheduler: Scheduler) -> None:
    assert await client.submit(place, resources={"QPU": 2}) == "c"
    futures = client.map(place, range(12), resources={"QPU": 1})
    assert set(await client.gather(futures)) <= {"b", "c"}


@cluster(worker("a"), worker("b", 1, QPU=1))
async def test_persist_compute_and_get(client: Client, scheduler: Scheduler) -> None:
    with quantum():
        x = dask.delayed(place)(1)
    y = dask.delayed(both)(x)
    assert await client.persist(y) is not None
    assert await client.compute(y) == ["b", "a"]
    assert await client.compute([x, y], optimize_graph=False)[1] == ["b", "a"]
    found = client.get({"x": (sample, 1), "y": (both, "x")}, "y", sync=False)
    assert await found == ["b", "a"]


@cluster(worker("a", 2), worker("b", 2, QPU=1))
async def test_urgent_classical_tasks_pass(client: Client, scheduler: Scheduler) -> None:
    quantum_futures = client.map(partial(sample_when, "go"), range(3), priority=100)
    assert set(await client.gather(client.map(place, range(10), priority=-1))) == {"a"}
    await Event("go").set()
    assert await client.gather(quantum_futures) == ["b"] * 3


@cluster(worker("a"), worker("b", 1, QPU=1))
async def test_an_error_gives_room_back(client: Client, scheduler: Scheduler) -> None:
    @hf.quantum_task
    def fail() -> None:
        raise ValueError("mine")

    failed = [client.submit(fail) for _ in range(3)]
    await wait(failed)
    assert {future.status for future in failed} == {"error"}
    assert await client.submit(sample) == "b"


# --- purity ---------------------------------------------------------------------------------------


@cluster(CLASSICAL, QUANTUM)
async def test_two_calls_are_two_samples(client: Client, scheduler: Scheduler) -> None:
    device = Device()
    for function in (sample, partial(sample, 1), device.sample):
        assert client.submit(function, 1).key != client.submit(function, 1).key
        keys = {future.key for future in client.map(function, [1, 1, 1])}
        assert len(keys) == 3
    with quantum():
        assert client.submit(place, 1).key != client.submit(place, 1).key
    annotated = {client.submit(place, 1, resources={"QPU": 1}).key for _ in range(2)}
    assert len(annotated) == 2
    assert dask.delayed(sample)(1).key != dask.delayed(sample)(1).key
    assert client.submit(place, 1).key == client.submit(place, 1).key


@cluster(CLASSICAL, QUANTUM)
async def test_unless_pure_is_said(client: Client, scheduler: Scheduler) -> None:
    first, second = (client.submit(sample, 1, pure=True) for _ in range(2))
    assert first.key == second.key
    with quantum(pure=True):
        again = client.submit(sample, 1)
        mapped = client.map(place, [1, 1])
        assert len({future.key for future in mapped}) == 1
    assert again.key == first.key
    assert await again == "quantum"


def test_tokens_of_samples_are_never_equal() -> None:
    HybridPlugin()
    tokens = [dask.base.tokenize(value) for value in (sample, Device(), Device().sample) * 2]
    assert len(set(tokens)) == 6
    with quantum(pure=True):
        assert dask.base.tokenize(sample, 1) == dask.base.tokenize(sample, 1)
    assert dask.base.tokenize(place) == dask.base.tokenize(place)

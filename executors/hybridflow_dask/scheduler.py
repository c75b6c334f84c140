"""The scheduler plugin: a quantum task runs on a quantum worker, and nothing else does.

::

    graph ── routing.py ─┬─ classical: Dask decides, as if there were no quantum workers (view.py)
                         ├─ quantum: waits in backlog.py for a quantum worker with room
                         └─ neither can be said: the task fails, with a typed error

The plugin sees each task before its first transition, and needs nothing from the client: marks and
annotations are looked at here. Which worker is a quantum one, and gets tasks: ``admission.py``.
"""

import asyncio
import logging
import math
import pickle
from collections.abc import Callable, Hashable, Iterable, Mapping
from time import monotonic
from typing import Any

from dask.typing import Key
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.scheduler import Scheduler, TaskState, WorkerState
from tornado.ioloop import PeriodicCallback

from hybridflow.errors import HybridflowError, InputError, TaskError
from hybridflow_dask import circuits, purity, shortage, suspects
from hybridflow_dask.admission import Admission, examine, is_quantum_worker
from hybridflow_dask.backlog import Backlog
from hybridflow_dask.labels import HAVEN, PROCESSES, QPU, is_qpu_label
from hybridflow_dask.routing import holds_quantum_step, restrictions
from hybridflow_dask.view import View, amounts, is_quantum

__all__ = ["TOPIC", "HybridPlugin"]

TOPIC = "hybridflow"
"""Topic of the plugin's events: ``client.get_events("hybridflow")``."""

_TICK_SECONDS = 0.5
_WAITING = ("waiting", "queued", "no-worker")
_logger = logging.getLogger(__name__)


class HybridPlugin(SchedulerPlugin):
    """Sends quantum tasks to quantum workers, and keeps all others away from these.

    :class:`~hybridflow_dask.HybridCluster` brings it along. A cluster that was started by hand gets
    it with ``client.register_plugin(HybridPlugin())``; its quantum workers are those that declare
    the resource ``QPU``, its classical workers declare nothing.

    Parameters
    ----------
    slots
        The resources by name, and how many workers may claim each. Without it any name will do,
        and one worker may claim it.
    no_slot_seconds
        How long quantum tasks wait while there is no worker that they could run on; then they fail
        with :class:`~hybridflow.errors.NoSlotError`. None: for ever. Those that ask for a larger
        amount than each worker has fail at once, with :class:`~hybridflow.errors.InputError`.
    no_worker_seconds
        How long classical tasks wait while there are quantum workers only, or none that has what
        they ask for; then they fail with :class:`~hybridflow.errors.TaskError`. None: for ever.
    require_slot
        Whether a worker that declares ``QPU`` must be in a slot to get tasks. In one that is not,
        primitives and marked functions raise :class:`~hybridflow.errors.NoSlotError` all the same.
    outlook
        Asked where tasks have no worker, with the Dask resources that they ask for, if any:
        True if one is being started, which they wait for without limit; an error if none will
        come, which they fail with; False if nothing is known.
    """

    name = "hybridflow"
    idempotent = True

    def __init__(
        self,
        *,
        slots: Mapping[str, int] | None = None,
        no_slot_seconds: float | None = 60.0,
        no_worker_seconds: float | None = 60.0,
        require_slot: bool = True,
        outlook: Callable[[Mapping[str, float]], HybridflowError | bool] | None = None,
    ) -> None:
        purity.install()
        circuits.install()
        self._slots = None if slots is None else dict(slots)
        self._no_slot_seconds = no_slot_seconds
        self._no_worker_seconds = no_worker_seconds
        self._require_slot = require_slot
        self._outlook = outlook or (lambda asked: False)

    # --- begin and end ---------------------------------------------------------------------------

    async def start(self, scheduler: Scheduler) -> None:
        """Take over the routing of a scheduler's tasks, also of those that wait already."""
        self._scheduler = scheduler
        self._admission = Admission(self._slots or {})
        self._backlog = Backlog()
        self._refused: dict[Key, HybridflowError] = {}
        self._questions: set[asyncio.Task[None]] = set()
        self._told: dict[WorkerState, str] = {}
        self._will_release = False
        self._lacking_since: dict[Hashable, float] = {}
        self._stranded: dict[TaskState, float] = {}
        self._alone_since: float | None = None
        self._view = View(scheduler, self._admission, self._room)
        self._view.put_on()
        for address in scheduler.workers:
            self.add_worker(scheduler, address)
        self._take_over(scheduler)
        timeout = scheduler.no_workers_timeout or math.inf
        self._clock = PeriodicCallback(self._tick, min(_TICK_SECONDS, timeout / 4) * 1000)
        scheduler.periodic_callbacks[self.name] = self._clock
        self._clock.start()

    def _take_over(self, scheduler: Scheduler) -> None:
        ready = {"released", "waiting", "queued", "no-worker"}
        waiting = [ts for ts in scheduler.tasks.values() if ts.state in ready]
        self._route(waiting)
        again: list[Key] = [ts.key for ts in waiting if ts.state in ("queued", "no-worker")]
        scheduler.transitions(dict.fromkeys(again, "released"), _stimulus("take-over"))
        for ts in waiting:  # the scheduler does not know the plugin before it has started
            self.transition(ts.key, "released", ts.state)

    async def close(self) -> None:
        """Give the scheduler its own ways back."""
        self._clock.stop()
        self._scheduler.periodic_callbacks.pop(self.name, None)
        self._view.take_off()
        for question in self._questions:
            question.cancel()
        waiting = [ts.key for tasks in self._backlog.groups().values() for ts in tasks]
        self._backlog.clear()
        self._scheduler.transitions(dict.fromkeys(waiting, "processing"), _stimulus("close"))

    def restart(self, scheduler: Scheduler) -> None:
        """Forget all tasks, as the scheduler does."""
        self._backlog.clear()
        self._refused.clear()
        self._stranded.clear()
        self._lacking_since.clear()

    # --- tasks: where they may run ---------------------------------------------------------------

    def update_graph(self, scheduler: Scheduler, *, tasks: Iterable[Key], **about: Any) -> None:
        """Decide on the tasks of a new graph, before any of them moves."""
        found = (scheduler.tasks.get(key) for key in tasks)
        self._route([ts for ts in found if ts is not None and ts.state == "released"])

    def _route(self, tasks: list[TaskState]) -> None:
        spread = self._is_spread(tasks)
        for ts in tasks:
            asked = ts.resource_restrictions
            if asked and spread and not holds_quantum_step(ts.run_spec):
                asked = {k: v for k, v in asked.items() if not is_qpu_label(k)}
            try:
                ts.resource_restrictions = restrictions(ts.key, ts.run_spec, asked, self._slots)
                self._check_place(ts)
            except HybridflowError as error:
                self._refused[ts.key] = error
                ts.resource_restrictions = {QPU: 1}  # so that Dask asks where it may run: nowhere
            if is_quantum(ts):
                _drop_preferences(ts)

    @staticmethod
    def _is_spread(tasks: list[TaskState]) -> bool:
        # An annotation around `compute` is on every task, so that the marks say what was meant.
        runnable = [ts for ts in tasks if ts.run_spec is not None]
        if not all(any(map(is_qpu_label, ts.resource_restrictions or ())) for ts in runnable):
            return False
        marked = sum(holds_quantum_step(ts.run_spec) for ts in runnable)
        return 0 < marked < len(runnable)

    def _check_place(self, ts: TaskState) -> None:
        if is_quantum(ts) and (ts.annotations or {}).get("executor") == PROCESSES:
            raise TaskError(
                f"the quantum task {ts.key!r} is annotated with `executor={PROCESSES!r}`, whose "
                "processes are for classical tasks and have no way to the QPU: build it outside "
                "that annotation"
            )
        if not ts.worker_restrictions or ts.host_restrictions or ts.loose_restrictions:
            return
        named = ", ".join(sorted(ts.worker_restrictions))
        quantum = {ws.address for ws in self._admission.members}
        if is_quantum(ts) and ts.worker_restrictions <= set(self._scheduler.workers) - quantum:
            raise InputError(
                f"the quantum task {ts.key!r} is restricted to classical workers ({named}), which "
                "are in no QPU slot: drop `workers=`, or name quantum workers"
            )
        if not is_quantum(ts) and ts.worker_restrictions <= quantum:
            raise TaskError(
                f"the classical task {ts.key!r} is restricted to quantum workers ({named}), where "
                "only quantum tasks run: mark its function with @hybridflow.quantum_task, or drop "
                "`workers=`"
            )

    def _room(self, ts: TaskState, valid: set[WorkerState]) -> set[WorkerState]:
        if ts.key in self._refused:
            return set()
        amount = amounts(ts)[QPU]
        usable = (ws for ws in valid & self._admission.usable if _has_room(ws, amount))
        return {ws for ws in usable if not suspects.must_wait(ts, ws.processing)}

    # --- tasks: when they run --------------------------------------------------------------------

    def transition(self, key: Key, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Keep the books of quantum tasks that wait for room, and of room."""
        ts = self._scheduler.tasks[key]
        if not is_quantum(ts):
            self._follow_classical(ts, start, finish)
        elif key in self._refused:
            self._follow_refused(ts, finish)
        elif finish == "no-worker":
            self._backlog.add(ts)
        elif start == "no-worker":
            self._backlog.discard(ts)
        elif start == "processing":
            if finish == "released" and (error := suspects.given_up(ts)):
                self._refused[key] = error
            self._release_soon()

    def _follow_classical(self, ts: TaskState, start: str, finish: str) -> None:
        if finish == "no-worker" and _is_restricted(ts):
            self._stranded[ts] = monotonic()
        elif start == "no-worker":
            self._stranded.pop(ts, None)

    def _release_soon(self) -> None:
        # Not inside a transition: the scheduler is in the midst of others.
        if not self._will_release:
            self._will_release = True
            asyncio.get_running_loop().call_soon(self._release)

    def _release(self) -> None:
        self._will_release = False
        while (ts := self._backlog.first(self._has_room)) is not None:
            self._backlog.discard(ts)  # also if it should not move, so that this ends
            self._scheduler.transitions({ts.key: "processing"}, _stimulus("release"))

    def _has_room(self, ts: TaskState) -> bool:
        return bool(self._scheduler.valid_workers(ts))

    def _follow_refused(self, ts: TaskState, finish: str) -> None:
        if finish == "forgotten":
            del self._refused[ts.key]
        elif finish in ("waiting", "no-worker"):
            asyncio.get_running_loop().call_soon(self._refuse, ts)

    def _refuse(self, ts: TaskState) -> None:
        if ts.key in self._refused:
            self._fail(ts, self._refused[ts.key])

    def _fail(self, ts: TaskState, error: HybridflowError) -> None:
        if ts.state not in _WAITING:  # one that failed before it has taken it along
            return
        _logger.error("Task %s fails: %s", ts.key, error)
        # As the scheduler's own errors go, whatever the annotation of the attribute says.
        packed: Any = pickle.dumps(error)
        stimulus, about = _stimulus("refuse"), {}
        if ts.state == "waiting":  # from where no transition takes an error along
            ts.exception, ts.exception_text, ts.exception_blame = packed, repr(error), ts
        else:
            about = {"exception": packed, "exception_text": repr(error), "cause": ts.key}
        more = self._scheduler.transition(ts.key, "erred", stimulus_id=stimulus, **about)
        self._scheduler.transitions(more, stimulus)

    # --- workers ---------------------------------------------------------------------------------

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Keep classical tasks away from a quantum worker, and ask what it is."""
        ws = scheduler.workers[worker]
        if not is_quantum_worker(ws) and ws.name != HAVEN:
            return
        self._admission.join(ws)
        scheduler.check_idle_saturated(ws)
        if ws.name == HAVEN:
            self._told[ws] = "it only keeps results"
            self._admission.judge(ws, self._told[ws])
            return
        question = asyncio.get_running_loop().create_task(self._admit(ws))
        self._questions.add(question)
        question.add_done_callback(self._questions.discard)

    async def _admit(self, ws: WorkerState) -> None:
        fault = await examine(self._scheduler, ws.address, require_slot=self._require_slot)
        self._admission.judge(ws, fault)
        self._workers_changed()

    def remove_worker(self, scheduler: Scheduler, worker: str, **about: Any) -> None:
        """Forget a quantum worker."""
        for ws in [ws for ws in self._admission.members if ws.address == worker]:
            self._admission.leave(ws)
            self._told.pop(ws, None)
            self._workers_changed()

    def _workers_changed(self) -> None:
        for ws, reason in self._admission.reasons.items():
            if reason and self._told.get(ws) != reason:
                self._told[ws] = reason
                _logger.warning("The quantum worker %s gets no task: %s", ws.name, reason)
                event = {"action": "no-tasks", "worker": ws.address, "reason": reason}
                self._scheduler.log_event(TOPIC, event)
        self._release_soon()

    def valid_workers_downscaling(
        self, scheduler: Scheduler, workers: list[WorkerState]
    ) -> list[WorkerState]:
        """Leave out quantum workers that have tasks, or that tasks wait for."""
        return [ws for ws in workers if ws not in self._admission.members or not self._is_busy(ws)]

    def _is_busy(self, ws: WorkerState) -> bool:
        return bool(ws.processing) or (ws in self._admission.usable and len(self._backlog) > 0)

    # --- waiting that is of no use ---------------------------------------------------------------

    def _tick(self) -> None:
        if self._scheduler.plugins.get(self.name) is not self:
            # Dask tells no plugin that it was unregistered.
            asyncio.get_running_loop().create_task(self.close())
            return
        now = monotonic()
        self._fail_without_slot(now)
        self._fail_without_classical_worker(now)
        self._fail_without_fitting_worker(now)

    def _fail_without_slot(self, now: float) -> None:
        lacking: dict[Hashable, float] = {}
        for name, tasks in self._backlog.groups().items():
            self._spare_from_timeout(tasks, now)
            first = next(iter(tasks))
            if self._could_run(first) or self._is_settled(amounts(first), tasks):
                continue
            if able := self._able(first):
                for ts in list(tasks):
                    self._fail(ts, shortage.too_much(ts, able))
                continue
            lacking[name] = since = self._lacking_since.get(name, now)
            limit = self._no_slot_seconds
            if limit is not None and now - since >= limit:
                for ts in list(tasks):
                    self._fail(ts, shortage.no_slot(ts, self._admission, limit))
        self._lacking_since = lacking

    def _is_settled(self, asked: Mapping[str, float], tasks: Iterable[TaskState]) -> bool:
        # Whether the tasks may wait for a worker on its way, or have failed as none will come.
        outlook = self._outlook(asked)
        if isinstance(outlook, HybridflowError):
            for ts in list(tasks):
                self._fail(ts, outlook)
        return bool(outlook)

    def _spare_from_timeout(self, tasks: Iterable[TaskState], now: float) -> None:
        # Dask's own `no-workers-timeout` is not for tasks that wait for their turn.
        if self._scheduler.no_workers_timeout:
            for ts in tasks:
                del self._scheduler.unrunnable[ts]
                self._scheduler.unrunnable[ts] = now

    def _could_run(self, ts: TaskState) -> bool:
        return any(
            not self._admission.reasons.get(ws) and self._is_near(ws, ts) and _satisfies(ws, ts)
            for ws in self._admission.members
        )

    def _is_near(self, ws: WorkerState, ts: TaskState) -> bool:
        # As Dask has it: a worker that is named, or any on a host that is.
        if not ts.worker_restrictions and not ts.host_restrictions:
            return True
        hosts = map(self._scheduler.coerce_hostname, ts.host_restrictions or ())
        return ws.address in (ts.worker_restrictions or ()) or ws.host in hosts

    def _able(self, ts: TaskState) -> list[WorkerState]:
        # What could run the task if it asked for less; none if one that gets no task yet has all.
        near = [ws for ws in self._admission.members if self._is_near(ws, ts)]
        if any(_satisfies(ws, ts) for ws in near):
            return []
        return [ws for ws in near if amounts(ts).keys() <= ws.resources.keys()]

    def _fail_without_classical_worker(self, now: float) -> None:
        everyone, quantum = self._scheduler.workers, self._admission.members
        if len(quantum) < len(everyone):
            self._alone_since = None
            return
        unrunnable = (ts for ts in self._scheduler.unrunnable if not is_quantum(ts))
        stuck = [*self._scheduler.queued, *(ts for ts in unrunnable if ts not in self._stranded)]
        if not stuck or self._is_settled({}, stuck) or not quantum:
            self._alone_since = None
            return
        self._alone_since = self._alone_since or now
        limit = self._no_worker_seconds
        if limit is not None and now - self._alone_since >= limit:
            for ts in stuck:
                self._fail(ts, shortage.no_classical_worker(ts, limit))

    def _fail_without_fitting_worker(self, now: float) -> None:
        limit = self._no_worker_seconds
        if limit is None:
            return
        late = [ts for ts, since in self._stranded.items() if now - since >= limit]
        everyone = self._scheduler.workers.values()
        classical = [ws for ws in everyone if ws not in self._admission.members]
        for ts in late:
            fits = any(self._is_near(ws, ts) and _satisfies(ws, ts) for ws in classical)
            if not fits and not self._is_settled(amounts(ts), [ts]):
                self._fail(ts, shortage.no_fitting_worker(ts, classical, limit))


def _drop_preferences(ts: TaskState) -> None:
    # Loose restrictions (`allow_other_workers`) would let a task run outside slots.
    if ts.loose_restrictions:
        ts.loose_restrictions = False
        ts.worker_restrictions = ts.host_restrictions = None


def _has_room(ws: WorkerState, amount: float) -> bool:
    # `ws.used_resources` is not kept when tasks move or are lost.
    used = sum(amounts(ts).get(QPU, 0) for ts in ws.processing)
    return len(ws.processing) < ws.nthreads and used + amount <= ws.resources[QPU]


def _is_restricted(ts: TaskState) -> bool:
    return bool(ts.worker_restrictions or ts.host_restrictions or amounts(ts))


def _satisfies(ws: WorkerState, ts: TaskState) -> bool:
    return all(ws.resources.get(k, 0) >= v for k, v in amounts(ts).items())


def _stimulus(reason: str) -> str:
    return f"hybridflow-{reason}-{monotonic()}"

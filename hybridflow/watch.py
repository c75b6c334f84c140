"""A run as it stands now, from its events, read on from where the last look ended.

::

    events-*.jsonl ──► RunWatch.look() ──► Snapshot: QPUs, workers, tasks, phases, last iteration

What is shown is counted while it is read; a run of a hundred thousand tasks costs no more memory
than its workers do.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Hashable
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

import msgspec

from hybridflow import environment
from hybridflow.environment import Role
from hybridflow.errors import InputError
from hybridflow.events import (
    BrokerStarted,
    BrokerStopped,
    Event,
    EventReader,
    Iteration,
    PhaseEnded,
    PhaseStarted,
    RunEnded,
    RunStarted,
    TaskEnded,
    TaskStarted,
    VendorJobEnded,
    VendorJobStarted,
)

__all__ = ["QpuView", "RunWatch", "Snapshot", "WorkerView", "newest_run"]

_RUNS = "runs"


def newest_run() -> Path:
    """Return the folder of the run in ``HYBRIDFLOW_RUN``, or of the newest one in ``runs/``.

    Raises
    ------
    InputError
        If there is none.
    """
    if named := os.environ.get(environment.RUN):
        return Path(named)
    folders = [path for path in Path(_RUNS).glob("*") if any(path.glob("events-*.jsonl"))]
    if not folders:
        raise InputError(f"there is no run in {_RUNS}/: name the folder of one")
    return max(folders, key=lambda path: path.stat().st_mtime)


class QpuView(msgspec.Struct, kw_only=True):
    """A QPU of a run.

    Attributes
    ----------
    resource
        Its name.
    brokers
        How many are up.
    running
        Vendor jobs under way.
    jobs, failed
        Vendor jobs that have ended, and those of them that have failed.
    requests, pubs
        Of all vendor jobs.
    shots, qpu_seconds
        What was billed.
    busy_seconds, seconds
        How long a vendor job was under way, of how long since the QPU was first used.
    """

    resource: str
    brokers: int = 0
    running: int = 0
    jobs: int = 0
    failed: int = 0
    requests: int = 0
    pubs: int = 0
    shots: int = 0
    qpu_seconds: float = 0.0
    busy_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def busy(self) -> float:
        """The part of the time, from 0 to 1, that it was busy."""
        return min(1.0, self.busy_seconds / self.seconds) if self.seconds > 0 else 0.0


class WorkerView(msgspec.Struct, kw_only=True):
    """A worker.

    Attributes
    ----------
    worker, role
        Its name, and what it was started for.
    running, task, since
        How many tasks it runs (some run several), the oldest one, and since when (Unix time).
    ended, failed
        Tasks that have ended, and those of them that have failed.
    """

    worker: str
    role: Role
    running: int = 0
    task: str = ""
    since: float = 0.0
    ended: int = 0
    failed: int = 0


class Snapshot(msgspec.Struct, kw_only=True):
    """A run at a moment; times in seconds.

    Attributes
    ----------
    workflow, engine, resource
        What runs; empty where no workflow has told.
    began, last
        Unix times of the first and of the last event; None without any.
    ended
        Whether the workflow has ended.
    error
        Why it has failed, if it has.
    phases
        The parts of the main line that are under way.
    running, done, failed
        Tasks by role.
    on_qpu
        Quantum tasks whose vendor job is under way; the other running ones work, or wait.
    iteration
        The last round of an iterative workflow.
    """

    workflow: str
    engine: str
    resource: str
    began: float | None
    last: float | None
    ended: bool
    error: str
    phases: list[str]
    running: dict[str, int]
    done: dict[str, int]
    failed: dict[str, int]
    on_qpu: int
    qpus: list[QpuView]
    workers: list[WorkerView]
    iteration: Iteration | None


class _Qpu:
    # A QPU's figures, and its vendor jobs under way: when each began, and for which tasks.
    def __init__(self, resource: str, began: float) -> None:
        self.view = QpuView(resource=resource)
        self.began = began
        self.running: dict[str, VendorJobStarted] = {}
        self._busy_until = began

    def end(self, event: VendorJobEnded) -> None:
        job = self.running.pop(event.vendor_job_id, None)
        self.view.jobs += 1
        self.view.failed += bool(event.error)
        self.view.shots += event.shots
        self.view.qpu_seconds += event.qpu_seconds
        if job is not None:
            self.view.busy_seconds += self._more(job.time, event.time)
            self._busy_until = max(self._busy_until, event.time)

    def at(self, now: float) -> QpuView:
        since = min((job.time for job in self.running.values()), default=now)
        return msgspec.structs.replace(
            self.view,
            running=len(self.running),
            busy_seconds=self.view.busy_seconds + self._more(since, now),
            seconds=max(0.0, now - self.began),
        )

    def _more(self, start: float, end: float) -> float:
        # What an interval adds to the time that is counted already.
        return max(0.0, end - max(start, self._busy_until))


class RunWatch:
    """Watches a run's folder.

    Parameters
    ----------
    folder
        The run's folder.
    clock
        Tells the time, in seconds since the epoch.

    Raises
    ------
    InputError
        If there is no such folder.
    """

    def __init__(
        self, folder: str | os.PathLike[str], clock: Callable[[], float] = time.time
    ) -> None:
        if not Path(folder).is_dir():
            raise InputError(f"there is no folder {folder}: name the folder of a run")
        self._reader = EventReader(folder)
        self._clock = clock
        self._run: RunStarted | None = None
        self._end: RunEnded | None = None
        self._began: float | None = None
        self._last: float | None = None
        self._phases: list[str] = []
        self._tasks: dict[Hashable, TaskStarted] = {}
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._qpus: dict[str, _Qpu] = {}
        self._workers: dict[str, WorkerView] = {}
        self._iteration: Iteration | None = None

    def look(self) -> Snapshot:
        """Read what is new, and return how the run stands."""
        for event in self._reader.read():
            self._began = event.time if self._began is None else min(self._began, event.time)
            self._last = event.time if self._last is None else max(self._last, event.time)
            self._take(event)
        # Of a run that has ended, nothing goes on; of one that was killed, one cannot know.
        now = self._clock() if self._end is None else self._last or self._clock()
        waited_for = {
            task
            for qpu in self._qpus.values()
            for job in qpu.running.values()
            for task in job.tasks
        }
        running = list(self._tasks.values()) if self._end is None else []
        return Snapshot(
            workflow=self._run.workflow if self._run else "",
            engine=self._run.engine if self._run else "",
            resource=self._run.resource if self._run else "",
            began=self._began,
            last=self._last,
            ended=self._end is not None,
            error=self._end.error if self._end else "",
            phases=list(self._phases),
            running=dict(Counter(task.kind.value for task in running)),
            done=dict(self._done),
            failed=dict(self._failed),
            on_qpu=sum(task.task in waited_for for task in running),
            qpus=[qpu.at(now) for qpu in self._qpus.values()],
            workers=self._workers_with(running),
            iteration=self._iteration,
        )

    def _workers_with(self, running: list[TaskStarted]) -> list[WorkerView]:
        views = {name: msgspec.structs.replace(view) for name, view in self._workers.items()}
        for task in running:
            view = views[task.worker]
            view.running += 1
            if view.running == 1:
                view.task, view.since = task.name, task.time
        return sorted(views.values(), key=lambda one: (one.role.value, one.worker))

    @singledispatchmethod
    def _take(self, event: Event) -> None:
        pass  # of a kind that is not shown

    @_take.register
    def _(self, event: RunStarted) -> None:
        # A run that goes on has been started again.
        self._run, self._end = event, None
        self._phases.clear()

    @_take.register
    def _(self, event: RunEnded) -> None:
        self._end = event

    @_take.register
    def _(self, event: PhaseStarted) -> None:
        self._phases.append(event.phase)

    @_take.register
    def _(self, event: PhaseEnded) -> None:
        if event.phase in self._phases:
            self._phases.remove(event.phase)

    @_take.register
    def _(self, event: TaskStarted) -> None:
        self._workers.setdefault(event.worker, WorkerView(worker=event.worker, role=event.kind))
        self._tasks[_key(event)] = event

    @_take.register
    def _(self, event: TaskEnded) -> None:
        started = self._tasks.pop(_key(event), None)
        if started is None:
            return
        worker = self._workers[event.worker]
        worker.ended += 1
        worker.failed += bool(event.error)
        (self._failed if event.error else self._done)[started.kind.value] += 1

    @_take.register
    def _(self, event: BrokerStarted) -> None:
        qpu = self._qpu(event.resource, event.time)
        qpu.view.brokers += 1

    @_take.register
    def _(self, event: BrokerStopped) -> None:
        qpu = self._qpu(event.resource, event.time)
        qpu.view.brokers = max(0, qpu.view.brokers - 1)

    @_take.register
    def _(self, event: VendorJobStarted) -> None:
        qpu = self._qpu(event.resource, event.time)
        qpu.view.requests += event.requests
        qpu.view.pubs += event.pubs
        qpu.running[event.vendor_job_id] = event

    @_take.register
    def _(self, event: VendorJobEnded) -> None:
        self._qpu(event.resource, event.time).end(event)

    @_take.register
    def _(self, event: Iteration) -> None:
        self._iteration = event

    def _qpu(self, resource: str, moment: float) -> _Qpu:
        return self._qpus.setdefault(resource, _Qpu(resource, moment))


def _key(event: TaskStarted | TaskEnded) -> tuple[Any, ...]:
    return event.task, event.worker, event.attempt

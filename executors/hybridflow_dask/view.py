"""Dask's scheduler as it decides on classical tasks: as if there were no quantum workers.

A classical task must not get a resource restriction: Dask does not queue restricted root tasks,
and memory fills. Dask has no hook by which a plugin could have a say in where a task runs, so
methods of the scheduler's instance are covered, and uncovered again.
"""

from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from distributed.scheduler import Scheduler, TaskState, WorkerState

from hybridflow_dask.admission import Admission
from hybridflow_dask.labels import QPU

__all__ = ["View", "amounts", "is_quantum"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_NONE: Mapping[str, float] = {}


def amounts(ts: TaskState) -> Mapping[str, float]:
    """Return the Dask resources that a task must have."""
    return ts.resource_restrictions or _NONE


def is_quantum(ts: TaskState) -> bool:
    """Whether a task was found to be a quantum one."""
    return QPU in amounts(ts)


class View:
    """Covers the decisions of a scheduler.

    Parameters
    ----------
    scheduler
        The scheduler.
    admission
        Its quantum workers.
    room
        Where a quantum task may run now, of the workers that satisfy its restrictions.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        admission: Admission,
        room: Callable[[TaskState, set[WorkerState]], set[WorkerState]],
    ) -> None:
        self._scheduler = scheduler
        self._admission = admission
        self._room = room
        self._covers = {
            "check_idle_saturated": self._check_idle_saturated,
            "decide_worker_non_rootish": self._decide_worker_non_rootish,
            "decide_worker_rootish_queuing_disabled": self._alone(
                scheduler.decide_worker_rootish_queuing_disabled
            ),
            "is_rootish": self._alone(scheduler.is_rootish),
            "valid_workers": self._valid_workers,
        }
        self._decide = scheduler.decide_worker_non_rootish
        self._decide_classical = self._alone(self._decide)
        self._check = scheduler.check_idle_saturated
        self._valid = scheduler.valid_workers

    def put_on(self) -> None:
        """Cover the scheduler's decisions."""
        vars(self._scheduler).update(self._covers)
        self.refresh()

    def take_off(self) -> None:
        """Uncover them."""
        for name in self._covers:
            vars(self._scheduler).pop(name, None)
        self.refresh()

    def refresh(self) -> None:
        """Let the scheduler look at all workers again."""
        for ws in self._scheduler.workers.values():
            self._scheduler.check_idle_saturated(ws)

    def _alone(self, decide: Callable[_P, _T]) -> Callable[_P, _T]:
        # Dask's own code, while it sees nothing but classical workers. It does not yield.
        scheduler, admission = self._scheduler, self._admission

        def decided(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            running, threads = scheduler.running, scheduler.total_nthreads
            scheduler.running = running - admission.members
            scheduler.total_nthreads -= admission.threads
            try:
                return decide(*args, **kwargs)
            finally:
                scheduler.running, scheduler.total_nthreads = running, threads

        return decided

    def _decide_worker_non_rootish(self, ts: TaskState) -> WorkerState | None:
        return self._decide(ts) if is_quantum(ts) else self._decide_classical(ts)

    def _valid_workers(self, ts: TaskState) -> set[WorkerState] | None:
        valid = self._valid(ts)
        return self._room(ts, valid or set()) if is_quantum(ts) else valid

    def _check_idle_saturated(self, ws: WorkerState, occ: float = -1.0) -> None:
        # Idle workers get queued tasks, and steal; from saturated ones they steal.
        self._check(ws, occ)
        if ws in self._admission.members:
            self._scheduler.idle.pop(ws.address, None)
            self._scheduler.idle_task_count.discard(ws)
            self._scheduler.saturated.discard(ws)

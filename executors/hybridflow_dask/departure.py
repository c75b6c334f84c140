"""A worker leaves before the Slurm job around it ends, and no task is lost.

::

    up ──────────────────────── stop ──────────────── leave ─────── end of the job
                                 │    running tasks     │   door, broker, Slurm: theirs
                                 │    may end           └─ what still runs, runs again elsewhere;
                                 │                         results that it alone holds are moved
                                 └─ no more tasks; what waits here goes elsewhere

"Elsewhere" is another worker, at once or in the next block. The margin between `stop` and the end
is ``hybridflow.margin`` in Dask's configuration, else a minute, and never more than a quarter of
the time that the worker has.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed.core import Status
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.exceptions import Reschedule
from distributed.worker import Worker, logger

from hybridflow.errors import DeadlineError, SlurmError
from hybridflow.slot import current_slot
from hybridflow.walltime import job_deadline
from hybridflow_dask.labels import LEAVING

__all__ = ["DEADLINE", "MARGIN", "Departure", "handing_back", "margin_of"]

DEADLINE = "hybridflow.deadline"
"""Key of Dask's configuration: Unix time at which a worker's job ends, where that is known."""

MARGIN = "hybridflow.margin"
"""Key of Dask's configuration: how long before that workers take no more tasks."""

_MARGIN_SECONDS = 60.0
_LOOK_SECONDS = 0.1
_RETRY_SECONDS = 0.5
_CLOSE_SECONDS = 2.0
_WAITING = ("waiting", "ready", "constrained")
_MUCH = 0.9


def margin_of(seconds: float) -> float:
    """Return how long before its job's end a worker takes no more tasks, in seconds.

    Parameters
    ----------
    seconds
        How long the worker has from its start to that end.
    """
    chosen = dask.config.get(MARGIN, default=None)
    wanted = _MARGIN_SECONDS if chosen is None else float(parse_timedelta(chosen))
    return max(0.0, min(wanted, seconds / 4))


class Departure(WorkerPlugin):
    """Lets a worker leave in time; does nothing in one whose end is not known."""

    name = "hybridflow-departure"
    idempotent = True

    async def setup(self, worker: Worker) -> None:
        """Begin to look at the clock."""
        self._worker = worker
        self._up_at = time.time()
        self._deadline: float | None = None
        self._early = asyncio.Event()
        self._is_leaving = False
        self._clock = asyncio.create_task(self._leave_in_time())

    async def teardown(self, worker: Worker) -> None:
        """Look at it no more."""
        if not self._is_leaving:
            self._clock.cancel()

    def begin(self) -> None:
        """Leave now, in the worker's event loop: there is too little time left for its tasks."""
        self._early.set()

    def would_help(self) -> bool:
        """Whether a task for which there is too little time may have enough in another job."""
        if self._deadline is None:
            return False
        # A worker that has just started has as much time as the next one will have.
        return self._deadline - time.time() < _MUCH * (self._deadline - self._up_at)

    async def _leave_in_time(self) -> None:
        self._deadline = await asyncio.to_thread(_deadline)
        if self._deadline is None:
            return
        margin = margin_of(self._deadline - time.time())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._early.wait(), self._deadline - margin - time.time())
        self._is_leaving = True
        # Until when tasks may run, and until when somebody is looked for who takes the results.
        await self._leave(self._deadline - margin / 2, self._deadline - margin / 3)

    async def _leave(self, run_until: float, wait_until: float) -> None:
        worker = self._worker
        logger.info("The job of %s ends soon: no more tasks", worker.name)
        # As `retire_workers` has it, which would let the worker go on where nobody takes its data.
        worker.status = Status.closing_gracefully
        self._hand_back()
        while worker.state.all_running_tasks and time.time() < run_until:
            await asyncio.sleep(_LOOK_SECONDS)
        worker.log_event(LEAVING, {"worker": worker.address})
        while not await self._handed_over() and time.time() < wait_until:
            await asyncio.sleep(_RETRY_SECONDS)
        await worker.close(_CLOSE_SECONDS, executor_wait=False, reason="hybridflow-job-ends")

    async def _handed_over(self) -> bool:
        # Not, as long as nobody can take over the results: `haven.py` is on its way.
        gone: dict[str, Any] = await self._worker.scheduler.retire_workers(
            workers=[self._worker.address],
            close_workers=False,
            remove=True,
            stimulus_id=f"hybridflow-departure-{time.time()}",
        )
        return bool(gone)

    def _hand_back(self) -> None:
        # What a worker says of a task that has raised `Reschedule`.
        for task in list(self._worker.state.tasks.values()):
            if task.state in _WAITING:
                message = {"op": "reschedule", "key": task.key, "worker": self._worker.address}
                self._worker.batched_send(message | {"stimulus_id": f"departure-{time.time()}"})


def _deadline() -> float | None:
    # What Slurm says of a slot, the door has asked; of the workers of a node, one for all of them.
    known = dask.config.get(DEADLINE, default=None)
    if known is not None:
        return float(known)
    slot = current_slot()
    if slot is not None:
        return slot.deadline
    try:
        return job_deadline(os.environ)
    except SlurmError as error:
        logger.warning("When this job ends is not known, its end may cut tasks: %s", error)
        return None


def handing_back(worker: Worker, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what Dask runs in a thread, such that no task fails because its slot is about to end.

    It is done again in another slot instead, and the worker takes no more. One for which a whole
    slot is too short fails.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        message = function(*args, **kwargs)
        departure = worker.plugins.get(Departure.name)
        too_late = isinstance(message.get("actual_exception"), DeadlineError)
        if too_late and isinstance(departure, Departure) and departure.would_help():
            message["actual_exception"] = Reschedule()
            worker.loop.add_callback(departure.begin)
        return message

    return run

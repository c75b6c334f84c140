"""Where results go that no other worker could take over: into the driver's process.

A worker that leaves (its block is given back, or its job ends) hands its results to other workers.
Where there are none, they would be lost and computed again, at worst for ever: each block would end
before the last result was there. So, for as long as the cluster lives, the driver then has a worker
of its own that gets no task (``admission.py``), and keeps what it is given, on disk if it is much.
"""

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.scheduler import Scheduler, WorkerState
from distributed.system import MEMORY_LIMIT
from distributed.worker import Worker

from hybridflow_dask.labels import HAVEN, LEAVING

__all__ = ["Haven"]


class Haven(SchedulerPlugin):
    """The driver's own worker, which is started when it is needed.

    Parameters
    ----------
    folder
        For what it writes to disk.
    options
        Of its connections, as Dask's ``Worker`` has them.
    """

    name = "hybridflow-haven"
    idempotent = True

    def __init__(self, folder: Path, **options: Any) -> None:
        self._folder = folder
        self._options = options
        self._worker: Worker | None = None
        self._opening = asyncio.Lock()
        self._asked: set[asyncio.Task[None]] = set()

    async def start(self, scheduler: Scheduler) -> None:
        """Remember whose results these are."""
        self._scheduler = scheduler

    def log_event(self, topic: str, msg: Any) -> None:
        """Open for a worker that says that it leaves."""
        if topic == LEAVING and (leaving := self._scheduler.workers.get(msg["worker"])):
            asked = asyncio.get_running_loop().create_task(self.open_for([leaving]))
            self._asked.add(asked)
            asked.add_done_callback(self._asked.discard)

    async def open_for(self, leaving: Collection[WorkerState]) -> None:
        """Take in what some workers hold, if nobody else can."""
        async with self._opening:
            others = self._scheduler.running - set(leaving)
            if self._worker is None and not others and any(ws.has_what for ws in leaving):
                self._worker = await Worker(
                    self._scheduler.address,
                    name=HAVEN,
                    nthreads=1,
                    memory_limit=MEMORY_LIMIT,
                    local_directory=str(self._folder),
                    dashboard=False,
                    **self._options,
                )

    async def end(self) -> None:
        """Close it, with all that it holds."""
        if self._asked:
            await asyncio.wait(self._asked)
        if self._worker is not None:
            await self._worker.close(reason="hybridflow-cluster-closes")

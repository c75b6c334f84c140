"""A scheduler that closes says so to whoever waits for its tasks: :class:`Farewell`.

::

    scheduler.close ── task-erred: ResourceError ──► clients      before their connections end
                    └─ on_close ──► HybridCluster                 which closes, too

Dask's own ends the connections without a word: its clients cancel what they waited for, and try for
half a minute to connect again.
"""

import asyncio
import pickle
from collections.abc import Callable

from dask.utils import key_split
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.scheduler import Scheduler, TaskState

from hybridflow.errors import ResourceError

__all__ = ["Farewell", "lost"]

_ENDED = ("memory", "erred")
_HEARD_SECONDS = 0.2


def lost(task: str) -> ResourceError:
    """Return the error of a task whose scheduler is gone."""
    return ResourceError(
        f"the task {task!r} is lost, because the Dask scheduler was closed or is gone, or has "
        "dropped its tasks; start it again on a new cluster"
    )


class Farewell(SchedulerPlugin):
    """Fails the tasks that have not ended when their scheduler closes.

    Parameters
    ----------
    on_close
        Called in the scheduler's event loop when it begins to close.
    """

    name = "hybridflow-farewell"
    idempotent = True

    def __init__(self, on_close: Callable[[], None]) -> None:
        self._on_close = on_close

    async def start(self, scheduler: Scheduler) -> None:
        """Remember whose tasks these are."""
        self._scheduler = scheduler

    async def before_close(self) -> None:
        """Tell the cluster, and all clients."""
        self._on_close()
        wanted = [ts for ts in self._scheduler.tasks.values() if ts.who_wants]
        pending = [ts for ts in wanted if ts.state not in _ENDED]
        for ts in pending:
            self._tell(ts)
        if pending:
            # A client that hears of an error, and loses its connection in the same moment, cancels.
            await asyncio.sleep(_HEARD_SECONDS)

    def _tell(self, ts: TaskState) -> None:
        error = pickle.dumps(lost(key_split(ts.key)))
        report = {"op": "task-erred", "key": ts.key, "exception": error, "traceback": None}
        self._scheduler.report(report, ts)

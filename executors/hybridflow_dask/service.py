"""Which members are of use: a scheduler plugin that notes who was given tasks, and who ended one.

A block whose time is over before a single task has ended in it is asked for again, and so is the
next one: with a QPU, at the price of what their tasks have used. The group gives up then
(``groups.py``).
"""

from typing import Any

from dask.typing import Key
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.scheduler import Scheduler

from hybridflow_dask.members import member_of

__all__ = ["Service"]

_ENDED = ("memory", "erred")


class Service(SchedulerPlugin):
    """Notes which members were given tasks, and in which of them one has ended."""

    name = "hybridflow-service"
    idempotent = True

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._ended: set[str] = set()

    async def start(self, scheduler: Scheduler) -> None:
        """Remember whose tasks these are."""
        self._scheduler = scheduler

    def transition(self, key: Key, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Note a task that was sent to a worker, or has ended there."""
        if finish == "processing":
            worker = self._scheduler.tasks[key].processing_on
            if worker is not None:
                self._given.add(member_of(worker.name))
        elif start == "processing" and finish in _ENDED:
            worker = self._scheduler.workers.get(kwargs.get("worker") or "")
            if worker is not None:
                self._ended.add(member_of(worker.name))

    def in_vain(self, member: str) -> bool:
        """Whether a member was given tasks, and none has ended in it."""
        return member in self._given and member not in self._ended

    def forget(self, member: str) -> None:
        """Forget a member that has gone: the next one may have its name."""
        self._given.discard(member)
        self._ended.discard(member)

"""A group of like workers: who belongs to it, how many there should be, and when it gives up.

A process of a group that ends by itself is replaced, the more slowly the more often it happens. One
that ends without its worker having come up is tried again a few times; then, or at once where
trying again cannot help, the group has failed, with what the door or the keeper said.
"""

import asyncio
import time
from collections.abc import Collection, Iterable
from typing import Any

from hybridflow.environment import Role
from hybridflow.errors import HybridflowError
from hybridflow.launch import launch_error
from hybridflow_dask.labels import CLASSICAL, QPU, QUANTUM, resource_label
from hybridflow_dask.workers import WorkerProcess

__all__ = ["STARTS", "Group"]

STARTS = 3
"""How many starts in a row may fail before a group gives up."""

_HOPELESS = {2, 3, 126, 127}  # an error of the user's, a resource that failed, no such program
_STEADY_SECONDS = 30.0
_FIRST_DELAY_SECONDS = 0.1
_LAST_DELAY_SECONDS = 30.0


class Group:
    """Workers of one kind: the classical ones, or those of one resource.

    Parameters
    ----------
    role
        What its workers are for.
    resource
        Name of their resource; empty for classical workers.
    spec
        What Dask's ``SpecCluster`` needs to know of each worker.
    size
        How many workers there should be.
    log_stays
        Whether the workers' logs outlive the cluster, so that an error may name them.

    Attributes
    ----------
    label
        Its name; its workers are called ``label-0``, ``label-1``, ….
    error
        Why it has given up; None as long as it has not.
    changing
        Held while workers are started or retired.
    """

    def __init__(
        self,
        role: Role,
        resource: str,
        spec: dict[str, Any],
        *,
        size: int,
        log_stays: bool,
    ) -> None:
        self.role = role
        self.resource = resource
        self.label = f"{QUANTUM}-{resource}" if resource else CLASSICAL
        self.spec = spec
        self.size = size
        self.error: HybridflowError | None = None
        self.changing = asyncio.Lock()
        self._log_stays = log_stays
        self._up: set[str] = set()
        self._failed_starts = 0
        self._early_ends = 0

    def members(self, names: Iterable[Any]) -> list[str]:
        """Return those of some workers' names that belong here, in order."""
        mine = {str(name) for name in names if str(name).rpartition("-")[0] == self.label}
        return sorted(mine, key=lambda name: int(name.rpartition("-")[2]))

    def missing(self, names: Iterable[Any]) -> list[str]:
        """Return the names of workers that should be started beside those there are."""
        there = self.members(names)
        wanted = (f"{self.label}-{number}" for number in range(self.size + len(there)))
        free = [name for name in wanted if name not in there]
        return free[: max(0, self.size - len(there))]

    def could_run(self, asked: Collection[str]) -> bool:
        """Whether its workers are meant for tasks that ask for these Dask resources."""
        if self.role is Role.CLASSICAL:
            return not asked
        return bool(asked) and set(asked) <= {QPU, resource_label(self.resource)}

    def resize(self, size: int) -> None:
        """Change how many workers there should be, and forget past failures."""
        self.size = size
        self.error = None
        self._failed_starts = self._early_ends = 0

    @property
    def up(self) -> int:
        """How many of its workers the scheduler knows."""
        return len(self._up)

    def came_up(self, name: str) -> None:
        """Take down that a worker has reported to the scheduler."""
        self._up.add(name)
        self._failed_starts = 0

    def went(self, name: str) -> None:
        """Take down that the scheduler has lost a worker, or let it go."""
        self._up.discard(name)

    def ended(self, worker: WorkerProcess) -> float | None:
        """Take down that a process has ended by itself.

        Returns
        -------
        float or None
            After how many seconds to start another one; None if the group gives up.
        """
        lived = time.monotonic() - worker.came_up_at if worker.came_up_at else 0.0
        if lived >= _STEADY_SECONDS:
            self._early_ends = 0
        delay = min(_FIRST_DELAY_SECONDS * 2.0**self._early_ends, _LAST_DELAY_SECONDS)
        self._early_ends += 1
        if worker.came_up_at:
            return delay
        self._failed_starts += 1
        if self._failed_starts < STARTS and worker.exit_status not in _HOPELESS:
            return delay
        self.error = launch_error(
            f"the group {self.label!r}",
            self.role,
            worker.exit_status,
            worker.output(),
            came_up=False,
            log=str(worker.log) if self._log_stays else None,
        )
        return None

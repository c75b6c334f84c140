"""A group of like workers: who belongs to it, how many there should be, and when it gives up.

Its members are processes of this machine with a worker each, or blocks of Slurm with one or several
(``members.py``). A member that ends by itself is replaced, the more slowly the more often it
happens. One that ends without a worker having come up is tried again a few times; then, or at once
where trying again cannot help, the group has failed, with what the door, the keeper or Slurm said.
So has it when one member after the other runs out of time before a task has ended in it.
"""

import asyncio
import time
from collections.abc import Collection, Iterable
from typing import Any

from hybridflow.environment import Role
from hybridflow.errors import HybridflowError, JobFailedError
from hybridflow_dask.labels import CLASSICAL, COSCHEDULED, QPU, QUANTUM, resource_label
from hybridflow_dask.members import Member, member_of, worker_name

__all__ = ["STARTS", "CoscheduledGroup", "Group"]

STARTS = 3
"""How many starts in a row may fail before a group gives up."""

_STEADY_SECONDS = 30.0
_FIRST_DELAY_SECONDS = 0.1
_LAST_DELAY_SECONDS = 30.0


class Group:
    """Members of one kind: with classical workers, or with those of one resource.

    Parameters
    ----------
    role
        What its workers are for.
    resource
        Name of their resource; empty for classical workers.
    spec
        What Dask's ``SpecCluster`` needs to know of each member.
    size
        How many members there should be.
    workers
        How many workers a member has, about.
    most
        How many members a quantum group can have: each needs a slot.
    tasks
        How many tasks a worker runs at a time.

    Attributes
    ----------
    label
        Its name; its members are called ``label-0``, ``label-1``, ….
    size
        How many members there should be.
    most
        How many a quantum group can have.
    tasks
        How many tasks a worker runs at a time.
    error
        Why it has given up; None as long as it has not.
    changing
        Held while members are started or retired.
    """

    def __init__(
        self,
        role: Role,
        resource: str,
        spec: dict[str, Any],
        *,
        size: int,
        workers: int = 1,
        most: int = 1,
        tasks: int = 1,
    ) -> None:
        self.role = role
        self.resource = resource
        self.most = most
        self.tasks = tasks
        self.label = f"{QUANTUM}-{resource}" if resource else CLASSICAL
        self.spec = spec
        self.size = size
        self.error: HybridflowError | None = None
        self.changing = asyncio.Lock()
        self._expected = workers
        self._up: set[str] = set()
        self._failed_starts = 0
        self._early_ends = 0
        self._vain_ends = 0

    def members(self, names: Iterable[Any]) -> list[str]:
        """Return those that belong here, of some members or of the members of some workers."""
        found = {member_of(name) for name in names}
        mine = (name for name in found if name.rpartition("-")[0] == self.label)
        return sorted(mine, key=lambda name: int(name.rpartition("-")[2]))

    def missing(self, names: Iterable[Any]) -> list[str]:
        """Return the names of members that should be started beside those there are."""
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
        """Change how many members there should be, and forget past failures."""
        self.size = size
        self.error = None
        self._failed_starts = self._early_ends = self._vain_ends = 0

    @property
    def up(self) -> int:
        """How many of its members have a worker that the scheduler knows."""
        return len(self.members(self._up))

    @property
    def workers(self) -> int:
        """How many of its workers the scheduler knows."""
        return len(self._up)

    @property
    def workers_each(self) -> int:
        """How many workers a member has, about: as many as there are, where there are some."""
        return -(-self.workers // self.up) if self.up else self._expected

    def came_up(self, name: str) -> None:
        """Take down that a worker has reported to the scheduler."""
        self._up.add(name)
        self._failed_starts = 0

    def went(self, name: str) -> None:
        """Take down that the scheduler has lost a worker, or let it go."""
        self._up.discard(name)

    def ended(self, member: Member, *, in_vain: bool = False) -> float | None:
        """Take down that a member has ended by itself.

        Parameters
        ----------
        member
            Which one.
        in_vain
            Whether no task has ended in it, although it was given some.

        Returns
        -------
        float or None
            After how many seconds to start another one; None if the group gives up.
        """
        lived = time.monotonic() - member.came_up_at if member.came_up_at else 0.0
        if lived >= _STEADY_SECONDS:
            self._early_ends = 0
        delay = min(_FIRST_DELAY_SECONDS * 2.0**self._early_ends, _LAST_DELAY_SECONDS)
        self._early_ends += 1
        if member.came_up_at:
            return None if self._are_too_short(in_vain and member.ran_out_of_time) else delay
        self._failed_starts += 1
        if self._failed_starts < STARTS and not member.is_hopeless:
            return delay
        self.error = member.error(f"the group {self.label!r}", self.role)
        return None

    def _are_too_short(self, in_vain: bool) -> bool:
        self._vain_ends = self._vain_ends + 1 if in_vain else 0
        if self._vain_ends < STARTS:
            return False
        self.error = JobFailedError(
            f"the group {self.label!r}: {STARTS} blocks in a row have come to the end of their "
            "time before one of their tasks had ended, and the next one would: raise `walltime` in "
            "[slurm] of the site file, or divide the tasks"
        )
        return True


class CoscheduledGroup(Group):
    """One member with workers of both kinds.

    Parameters
    ----------
    resource
        Name of the resource.
    spec
        What Dask's ``SpecCluster`` needs to know of the member.
    workers
        How many workers it has, about.
    """

    def __init__(self, resource: str, spec: dict[str, Any], *, workers: int) -> None:
        super().__init__(Role.QUANTUM, resource, spec, size=1, workers=workers)
        self.label = COSCHEDULED

    def could_run(self, asked: Collection[str]) -> bool:
        """Whether its workers are meant for tasks that ask for these Dask resources."""
        return not asked or super().could_run(asked)

    @property
    def up(self) -> int:
        """How many of its members have a worker of each kind that the scheduler knows."""
        quantum = {name for name in self._up if name == worker_name(member_of(name), QUANTUM)}
        return len(set(self.members(quantum)) & set(self.members(self._up - quantum)))

"""Quantum tasks that could run and wait for room on a quantum worker, most urgent first.

Only as many as run at a time are given to a worker, so that its death costs no other. All tasks of
a group may run on the same workers; a task is found, added and dropped without looking at others.
"""

import operator
from collections.abc import Callable, Collection, Hashable

from distributed.collections import HeapSet
from distributed.scheduler import TaskState

__all__ = ["Backlog"]

_priority = operator.attrgetter("priority")


class Backlog:
    """The waiting tasks, in groups of those that ask for the same."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, HeapSet[TaskState]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, ts: TaskState) -> None:
        """Let a task wait."""
        group = _group(ts)
        if group not in self._groups:
            self._groups[group] = HeapSet(key=_priority)
        self._groups[group].add(ts)

    def discard(self, ts: TaskState) -> None:
        """Drop a task, if it waits."""
        group = _group(ts)
        if group in self._groups:
            self._groups[group].discard(ts)
            if not self._groups[group]:
                del self._groups[group]

    def clear(self) -> None:
        """Drop all tasks."""
        self._groups.clear()

    def groups(self) -> dict[Hashable, Collection[TaskState]]:
        """Return the groups by what their tasks ask for; none is empty."""
        return dict(self._groups)

    def first(self, has_room: Callable[[TaskState], bool]) -> TaskState | None:
        """Return the most urgent task that has room somewhere."""
        firsts = (tasks.peek() for tasks in self._groups.values())
        return min((ts for ts in firsts if has_room(ts)), key=_priority, default=None)


def _group(ts: TaskState) -> Hashable:
    return (
        frozenset((ts.resource_restrictions or {}).items()),
        frozenset(ts.worker_restrictions or ()),
        frozenset(ts.host_restrictions or ()),
    )

"""Quantum tasks that were running when their worker died, of which one may have killed it.

All of them are suspects. Those that have seen two workers die run alone from then on: an innocent
one ends well, and a third death has one possible cause. So a task that kills its worker costs three
workers, and no other task.
"""

from collections.abc import Collection

from distributed.scheduler import TaskState

from hybridflow.errors import WorkerLostError

__all__ = ["given_up", "must_wait"]

_DEATHS_IN_COMPANY = 2


def must_wait(ts: TaskState, others: Collection[TaskState]) -> bool:
    """Whether a task may not run beside those that a worker is running."""
    return any(each.suspicious >= _DEATHS_IN_COMPANY for each in (ts, *others)) and bool(others)


def given_up(ts: TaskState) -> WorkerLostError | None:
    """Return the error of a task that has killed a worker on which it was alone."""
    if ts.suspicious <= _DEATHS_IN_COMPANY:
        return None
    return WorkerLostError(
        f"the task {ts.key!r} was given up: {ts.suspicious} quantum workers died while they ran "
        "it, the last one while it ran nothing else; see the workers' logs",
        transient=False,
    )

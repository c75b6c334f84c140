"""What there is of a cluster: its jobs and errors, whether its workers are up, how it is shown."""

import asyncio
import html
import time
from collections.abc import Iterable
from typing import Any

from distributed.core import Status
from distributed.exceptions import WorkerStartTimeoutError

from hybridflow.errors import HybridflowError, WorkerLostError
from hybridflow.slurm import JobInfo
from hybridflow_dask.blocks import Block
from hybridflow_dask.labels import CLASSICAL, COSCHEDULED, HAVEN, QUANTUM
from hybridflow_dask.sizes import LOOK_SECONDS, SizedCluster

__all__ = ["ShownCluster"]


class ShownCluster(SizedCluster):
    """A cluster that says what there is of it; not to be used itself."""

    _scheduler_error: HybridflowError | None

    @property
    def jobs(self) -> dict[str, JobInfo]:
        """What Slurm last said of the blocks' jobs, by the names of the blocks."""
        blocks = (each for each in self.workers.values() if isinstance(each, Block))
        return {block.name: block.info for block in blocks if block.info is not None}

    @property
    def errors(self) -> dict[str, HybridflowError]:
        """Why groups have given up, by their names, and ``scheduler`` if that was closed."""
        groups = self._groups.items()
        lost = self._scheduler_error
        found = {} if lost is None else {"scheduler": lost}
        return found | {label: group.error for label, group in groups if group.error is not None}

    def wait_for_workers(self, n_workers: int | None = None, timeout: float | None = None) -> Any:
        """Wait until workers have come up.

        Parameters
        ----------
        n_workers
            How many, of any kind; if not given, all that there should be.
        timeout
            Time limit in seconds; without one, until they are there or a group has given up.

        Raises
        ------
        HybridflowError
            If a group has given up: what the door said.
        TimeoutError
            If the time is over.
        """
        return self.sync(self._wait_for_workers, n_workers, timeout)

    async def _wait_for_workers(
        self, n_workers: int | None = None, timeout: float | None = None
    ) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._are_up(n_workers):
            for error in self.errors.values():
                raise error
            if self.status != Status.running or self.scheduler.status != Status.running:
                raise WorkerLostError("the cluster was closed before its workers had come up")
            if deadline is not None and time.monotonic() > deadline:
                raise WorkerStartTimeoutError(self._up(), n_workers or self._size(), timeout or 0)
            await asyncio.sleep(LOOK_SECONDS)

    def _are_up(self, number: int | None) -> bool:
        if number is not None:
            return self._up() >= number
        return all(group.up >= group.size for group in self._groups.values())

    def _up(self) -> int:
        known = self.scheduler_info["workers"].values()
        return sum(worker["name"] != HAVEN for worker in known)

    def _size(self) -> int:
        return sum(group.size for group in self._groups.values())

    def __repr__(self) -> str:
        groups = ", ".join(f"{name}={text}" for name, text in self._summary().items())
        return f"{self._cluster_class_name}({self.scheduler_address!r}, {groups})"

    def _repr_html_(self, cluster_status: str | None = None) -> str:
        # Dask's own display, with a line for each group.
        rows = "".join(
            f"<tr><td><strong>{name}:</strong> {html.escape(text)}</td></tr>"
            for name, text in self._summary().items()
        )
        shown: str = super()._repr_html_(cluster_status=(cluster_status or "") + rows)
        return shown

    def _summary(self) -> dict[str, str]:
        found = self._of_groups()
        lost = self._scheduler_error
        return found if lost is None else found | {"scheduler": f"closed ({_text(lost)})"}

    def _of_groups(self) -> dict[str, str]:
        if COSCHEDULED in self._groups:
            return {COSCHEDULED: self._state([COSCHEDULED]) + ", holds its slot to the end"}
        quantum = self._state(self._quantum_labels())
        return {QUANTUM: quantum, CLASSICAL: self._state([CLASSICAL])}

    def _state(self, labels: Iterable[str]) -> str:
        # As in "1/2 (job 12 running on c1; given up: NoSlotError: …)"
        groups = [self._groups[label] for label in labels]
        members = [name for group in groups for name in group.members(self.workers)]
        told = [self.workers[name].describe() for name in members]
        told += [f"given up: {_text(group.error)}" for group in groups if group.error is not None]
        more = "; ".join(filter(None, told))
        up, size = sum(group.up for group in groups), sum(group.size for group in groups)
        return f"{up}/{size}" + (f" ({more})" if more else "")


def _text(error: HybridflowError) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())

"""How many members each group of a cluster has: scaled by hand, or adapting to their tasks.

A group's size changes in one place; here it is carried out: members are started, or retired so that
no result is lost (``haven.py``). What they are is the rest of the cluster's (``cluster.py``).
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from distributed.metrics import time as distributed_time
from distributed.scheduler import Scheduler, WorkerState
from distributed.utils import NoOpAwaitable
from tornado.ioloop import IOLoop

from hybridflow.errors import InputError
from hybridflow.site import Site
from hybridflow_dask.adaptive import ClassicalAdaptive, GroupAdaptive, QuantumAdaptive
from hybridflow_dask.groups import Group
from hybridflow_dask.haven import Haven
from hybridflow_dask.labels import CLASSICAL, COSCHEDULED
from hybridflow_dask.members import member_of
from hybridflow_dask.numbers import least_and_most, whole_number
from hybridflow_dask.service import Service
from hybridflow_dask.supply import Supply

__all__ = ["LOOK_SECONDS", "SizedCluster"]

LOOK_SECONDS = 0.05
"""How often what has no event is looked at, in seconds."""


class SizedCluster(SpecCluster):
    """A cluster whose groups have sizes of their own; not to be used itself."""

    # Dask annotates them as what may be None, before the cluster has started.
    scheduler: Scheduler
    loop: IOLoop

    site: Site
    _groups: dict[str, Group]
    _supply: Supply
    _haven: Haven | None
    _service: Service
    _leaving: set[str]
    _adaptives: dict[str, GroupAdaptive]

    def scale(  # type: ignore[override]  # not by memory or cores, which slots do not have
        self, n: int | None = None, *, classical: int | None = None, quantum: int | None = None
    ) -> Any:
        """Change how many workers there are, or blocks of workers. Does not wait for it.

        Workers that are to go end what they are running first, and pass their results on.

        Parameters
        ----------
        n
            Of classical workers: what those mean who name no group.
        classical
            Of classical workers.
        quantum
            Of quantum workers: those of the first resources. A group that had given up tries again.

        Raises
        ------
        InputError
            If a number is out of range, or if the workers are co-scheduled.
        """
        if self.status in (Status.closing, Status.closed):
            # Dask's own closing asks for no workers at all by `scale(0)`.
            self.worker_spec.clear()
            return NoOpAwaitable() if self.asynchronous else None
        sizes = self._sizes(n if classical is None else classical, quantum)
        for label, size in sizes.items():
            self._stop_adapting(label)
            self._groups[label].resize(size)
            self.loop.add_callback(self._adjust, self._groups[label])
        return NoOpAwaitable() if self.asynchronous else None

    def _sizes(self, classical: int | None, quantum: int | None) -> dict[str, int]:
        self._refuse_coscheduled()
        ordinary = whole_number("classical", classical, 0)
        slots = whole_number("quantum", quantum, 0, self._most())
        sizes = {} if ordinary is None else {CLASSICAL: ordinary}
        return sizes if slots is None else sizes | self._shares(slots)

    def _refuse_coscheduled(self) -> None:
        if COSCHEDULED in self._groups:
            raise InputError(
                "the workers of a co-scheduled job come and go together, and hold the slot to the "
                'end: for blocks that grow and shrink, say kind = "elastic" in [slurm.blocks]'
            )

    def _quantum_labels(self) -> list[str]:
        return [label for label in self._groups if label != CLASSICAL]

    def _most(self) -> int:
        return sum(self._groups[label].most for label in self._quantum_labels())

    def _shares(self, number: int) -> dict[str, int]:
        # Of each resource's group: the first ones get theirs first.
        shares = {}
        for label in self._quantum_labels():
            shares[label] = min(number, self._groups[label].most)
            number -= shares[label]
        return shares

    async def grow(self, group: Group, size: int) -> None:
        """Start members of a group, up to a number."""
        group.size = max(size, group.size)
        await self._adjust(group)

    async def shrink(self, group: Group, names: Iterable[str]) -> None:
        """Retire some members of a group."""
        async with group.changing:
            leaving = group.members(set(names) & set(self.worker_spec))
            group.size -= len(leaving)
            await self._retire(leaving)

    async def _adjust(self, group: Group) -> None:
        async with group.changing:
            surplus = len(group.members(self.worker_spec)) - group.size
            if surplus > 0:
                await self._retire(self._least_needed(group, surplus))
            self.worker_spec.update(dict.fromkeys(group.missing(self.worker_spec), group.spec))
            await self._correct_state()

    def _least_needed(self, group: Group, number: int) -> list[str]:
        def need(name: str) -> tuple[int, int, int]:
            known = self._known([name])
            tasks = sum(len(worker.processing) for worker in known)
            return len(known), tasks, sum(worker.nbytes for worker in known)

        return sorted(reversed(group.members(self.worker_spec)), key=need)[:number]

    def _known(self, members: Iterable[str]) -> list[WorkerState]:
        chosen = set(members)
        everyone = self.scheduler.workers.values()
        return [worker for worker in everyone if member_of(worker.name) in chosen]

    async def _retire(self, names: list[str]) -> None:
        self._leaving |= set(names)
        try:
            if self.scheduler.status == Status.running:
                # Twice: no more tasks for them; then, what they were running has its results.
                # Told to close, a worker would be slower to end than by the signal that it gets.
                await self._hand_over(names)
                await self._finished_tasks(names)
                await self._hand_over(names)
            for name in names:
                self.worker_spec.pop(name, None)
                self._service.forget(name)
            await self._correct_state()
        finally:
            self._leaving -= set(names)

    async def _hand_over(self, names: list[str]) -> None:
        assert self._haven is not None
        workers = self._known(names)
        await self._haven.open_for(workers)
        addresses = [worker.address for worker in workers]
        await self.scheduler.retire_workers(workers=addresses, remove=False)

    async def _finished_tasks(self, names: list[str]) -> None:
        asked = distributed_time()
        while self.status == Status.running and any(
            _is_running_tasks(worker, asked) for worker in self._known(names)
        ):
            await asyncio.sleep(LOOK_SECONDS)

    # --- adapting --------------------------------------------------------------------------------

    def adapt(  # type: ignore[override]  # Dask's knows one group only
        self,
        *,
        classical: tuple[int, int] | None = None,
        quantum: tuple[int, int] | None = None,
        minimum: int | None = None,
        maximum: int | None = None,
        **options: Any,
    ) -> None:
        """Let groups grow and shrink with their tasks, until :meth:`scale` is called for them.

        Parameters
        ----------
        classical
            Between how many classical workers.
        quantum
            Between how many quantum workers: ``(0, 1)`` gives an idle slot back.
        minimum, maximum
            The same as ``classical=(minimum, maximum)``, as other Dask clusters have it.
        **options
            Of :class:`distributed.deploy.Adaptive`: ``interval``, ``wait_count``,
            ``target_duration``. With blocks, they follow from ``idle`` of ``[slurm.blocks]``.

        Raises
        ------
        InputError
            If a number is out of range, if there is no group to adapt, or if the workers are
            co-scheduled.
        """
        if classical is None and (minimum is not None or maximum is not None):
            classical = (
                minimum or 0,
                self.site.classical.worker_count if maximum is None else maximum,
            )
        if classical is None and quantum is None:
            raise InputError("say what to adapt: classical=(1, 8), quantum=(0, 1), or both")
        self._refuse_coscheduled()
        if classical is not None:
            self._adapt(CLASSICAL, *least_and_most("classical", classical, None), options)
            self._adaptive = self._adaptives[CLASSICAL]
        if quantum is not None:
            low, high = map(self._shares, least_and_most("quantum", quantum, self._most()))
            for label in self._quantum_labels():
                self._adapt(label, low[label], high[label], options)

    def _adapt(self, label: str, least: int, most: int, options: dict[str, Any]) -> None:
        self._stop_adapting(label)
        kind = ClassicalAdaptive if label == CLASSICAL else QuantumAdaptive
        chosen = self._supply.adapting(self._groups[label].role) | options
        self._adaptives[label] = kind(self, self._groups[label], least, most, **chosen)

    def _stop_adapting(self, label: str) -> None:
        if label in self._adaptives:
            self._adaptives.pop(label).stop(reason="scaled")


def _is_running_tasks(worker: WorkerState, asked: float) -> bool:
    # Of its tasks, those that it has begun: its last sign of life says which, if it is new enough.
    begun = any(task in worker.processing for task in worker.executing)
    return begun or (bool(worker.processing) and worker.last_seen <= asked)

"""Groups that grow and shrink with their work: Dask's ``Adaptive``, for one group at a time.

Dask's own looks at all workers alike: it would start classical workers for quantum tasks that wait,
and end the QPU worker because it is idle.
"""

from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from distributed.deploy.adaptive import Adaptive
from distributed.scheduler import Scheduler, TaskState, WorkerState

from hybridflow_dask.groups import Group
from hybridflow_dask.labels import QPU
from hybridflow_dask.members import member_of

if TYPE_CHECKING:
    from hybridflow_dask.sizes import SizedCluster

__all__ = ["ClassicalAdaptive", "GroupAdaptive", "QuantumAdaptive"]


class GroupAdaptive(Adaptive):
    """What both kinds share; not to be used itself.

    Parameters
    ----------
    cluster
        The cluster.
    group
        The group that is scaled.
    minimum, maximum
        Between how many members.
    **options
        All others of :class:`distributed.deploy.Adaptive`.
    """

    cluster: "SizedCluster"

    def __init__(
        self, cluster: "SizedCluster", group: Group, minimum: int, maximum: int, **options: Any
    ) -> None:
        self.group = group
        super().__init__(cluster, minimum=minimum, maximum=maximum, **options)

    @property
    def plan(self) -> set[Any]:
        """Members that there should be."""
        return set(self.group.members(self.cluster.worker_spec))

    @property
    def requested(self) -> set[Any]:
        """Members that have been started."""
        return set(self.group.members(self.cluster.workers))

    @property
    def observed(self) -> set[Any]:
        """Members of which the scheduler knows workers."""
        return set(self.group.members(self.cluster.observed))

    # Dask's base class annotates these two the wrong way round.
    async def scale_up(self, n: int) -> None:  # type: ignore[override]
        """Start members, up to `n`; none when starting them has failed for good."""
        if self.group.error is None:
            await self.cluster.grow(self.group, n)

    async def scale_down(self, workers: list[str]) -> None:  # type: ignore[override]
        """Retire members, whose workers end what they are running."""
        await self.cluster.shrink(self.group, workers)

    @property
    def _scheduler(self) -> Scheduler:
        # In this process: there is no need to ask it by message.
        return self.cluster.scheduler

    def _mine(self) -> list[WorkerState]:
        names = self.observed
        everyone = self._scheduler.workers.values()
        return [worker for worker in everyone if member_of(worker.name) in names]


class ClassicalAdaptive(GroupAdaptive):
    """Scales the classical workers as Dask scales workers, by the classical tasks alone."""

    async def target(self) -> int:
        """Return how many members there should be."""
        workers = Scheduler.adaptive_target(self._share(), self.target_duration)
        return -(-workers // self.group.workers_each)

    async def workers_to_close(self, target: int) -> list[str]:
        """Return the names of members that may be closed: all their workers are idle."""
        closing = Scheduler.workers_to_close(
            self._share(),
            target=target * self.group.workers_each,
            key=_member_of,
            attribute="name",
        )
        return sorted(set(map(member_of, closing)))

    def _share(self) -> Scheduler:
        return cast(Scheduler, _Share(self._scheduler, self._mine()))


class _Share:
    """The scheduler as if there were only the classical workers and tasks."""

    def __init__(self, scheduler: Scheduler, workers: list[WorkerState]) -> None:
        self._scheduler = scheduler
        self.workers = {worker.address: worker for worker in workers}
        self.unrunnable = {
            task: since for task, since in scheduler.unrunnable.items() if not _asks_for_qpu(task)
        }
        self.total_occupancy = sum(worker.occupancy for worker in workers)

    def workers_to_close(self, **options: Any) -> list[str]:
        return Scheduler.workers_to_close(cast(Scheduler, self), **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)


class QuantumAdaptive(GroupAdaptive):
    """Gives a slot back when no task needs it, and takes it again when one does."""

    async def target(self) -> int:
        """Return how many slots the tasks need that run, or wait for one."""
        running = sum(len(worker.processing) for worker in self._mine())
        waiting = filter(self._could_run, self._scheduler.unrunnable)
        many = int(self.maximum) * self.group.tasks
        needed = running + sum(1 for _ in islice(waiting, many))
        return -(-needed // self.group.tasks)

    async def workers_to_close(self, target: int) -> list[str]:
        """Return the names of idle workers."""
        mine = sorted(self._mine(), key=lambda worker: len(worker.processing), reverse=True)
        return [str(worker.name) for worker in mine[target:] if not worker.processing]

    def _could_run(self, task: TaskState) -> bool:
        return self.group.could_run(task.resource_restrictions or {})


def _asks_for_qpu(task: TaskState) -> bool:
    return QPU in (task.resource_restrictions or ())


def _member_of(worker: WorkerState) -> str:
    return member_of(worker.name)

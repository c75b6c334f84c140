"""A Dask cluster with two groups of workers: in QPU slots, and clean of everything QPU.

::

    driver: scheduler with HybridPlugin ──┬── door ── quantum worker      one a resource
            (this process)                └── keeper ── classical worker  one task at a time

Everything between client and workers stays Dask's. What is added: where workers come from
(``supply.py``: this machine, or blocks of Slurm), how they are started (``launch.py``), that each
group is kept at its own size (``groups.py``), and errors that say why it cannot be. All of it ends
with this process, however that ends (``folder.py``, ``hybridflow/lease.py``).
"""

import asyncio
import html
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from distributed.exceptions import WorkerStartTimeoutError
from distributed.metrics import time as distributed_time
from distributed.scheduler import Scheduler, WorkerState
from distributed.security import Security
from distributed.utils import NoOpAwaitable
from tornado.ioloop import IOLoop

from hybridflow import environment
from hybridflow.environment import Role
from hybridflow.errors import (
    HybridflowError,
    InputError,
    ResourceError,
    TaskError,
    WorkerLostError,
)
from hybridflow.lease import Lease
from hybridflow.site import Site, load_site
from hybridflow.slurm import JobInfo, current_allocation
from hybridflow_dask.adaptive import ClassicalAdaptive, GroupAdaptive, QuantumAdaptive
from hybridflow_dask.block_supply import supply_for
from hybridflow_dask.blocks import Block
from hybridflow_dask.farewell import Farewell
from hybridflow_dask.folder import PrivateFolder
from hybridflow_dask.groups import Group
from hybridflow_dask.haven import Haven
from hybridflow_dask.labels import CLASSICAL, COSCHEDULED, HAVEN, QUANTUM
from hybridflow_dask.launch import Launch, on_disk
from hybridflow_dask.members import Member, member_of
from hybridflow_dask.numbers import least_and_most, whole_number
from hybridflow_dask.scheduler import HybridPlugin
from hybridflow_dask.service import Service

__all__ = ["HybridCluster"]

_log = logging.getLogger(__name__)

_ALLOWED_FAILURES = 10
_LOOK_SECONDS = 0.05


class HybridCluster(SpecCluster):
    """A Dask cluster with the groups of workers ``quantum`` and ``classical``.

    They run on this machine; inside a heterogeneous Slurm job, on its nodes; and outside, where the
    site file has a table ``[slurm.blocks]``, in Slurm jobs that the cluster submits. The
    constructor does not wait for workers: tasks do, and :meth:`wait_for_workers` can.

    Parameters
    ----------
    site
        A site, or the path of a site file; the default site if not given.
    resources
        Names of the resources whose slots it uses, one quantum worker each; the site's default
        resource if not given.
    workers
        Classical worker processes, in blocks on each node; what the site says if not given, on
        each node of the job.
    tasks_per_slot
        Quantum tasks that share a slot at a time; what the site says if not given.
    security
        Whether all connections are encrypted and authenticated, with temporary keys; or a
        ``distributed.Security`` of your own. Without it, whoever reaches a port of the cluster can
        run code as you: other users of this machine can.
    host
        Address that the scheduler listens on, and the workers on this machine. If not given: only
        this machine can reach it; in a heterogeneous Slurm job, the job's classical nodes can; with
        blocks, all nodes that can reach this machine.
    dashboard_address
        Where Dask's dashboard listens, if bokeh is installed; by default any free port of this
        machine. None: no dashboard.
    log_dir
        Folder of the workers' logs. If not given: ``dask`` in the folder of the run
        (``HYBRIDFLOW_RUN``) where there is one; else they are removed with the cluster.
    asynchronous
        Whether it is used with ``async with`` and ``await``.
    **options
        All others of :class:`distributed.SpecCluster`.

    Raises
    ------
    SiteError
        If the site file is wrong or has no such resource.
    InputError
        If a number is out of range, or if a resource is named twice.
    TaskError
        If this is a classical worker, which happens to programs without
        ``if __name__ == "__main__":``.
    """

    # Dask annotates them as what may be None, before the cluster has started.
    scheduler: Scheduler
    loop: IOLoop

    def __init__(
        self,
        site: Site | str | os.PathLike[str] | None = None,
        *,
        resources: Iterable[str] | None = None,
        workers: int | None = None,
        tasks_per_slot: int | None = None,
        security: bool | Security = True,
        host: str | None = None,
        dashboard_address: str | None = "127.0.0.1:0",
        log_dir: str | os.PathLike[str] | None = None,
        asynchronous: bool = False,
        **options: Any,
    ) -> None:
        _refuse_in_worker()
        self.site = site if isinstance(site, Site) else load_site(site)
        log_folder = _log_folder(log_dir)
        self._supply = supply_for(self.site, self._member_ended, log_folder)
        self._groups = self._make_groups(
            resources,
            whole_number("workers", workers, 0),
            whole_number("tasks_per_slot", tasks_per_slot, 1),
        )
        self._host = host or self._supply.host()
        self._dashboard_address = dashboard_address
        self._security = security
        self._folder: PrivateFolder | None = None
        self._lease: Lease | None = None
        self._haven: Haven | None = None
        self._service = Service()
        self._leaving: set[str] = set()
        self._closing = asyncio.Lock()
        self._scheduler_error: HybridflowError | None = None
        self._adaptives: dict[str, GroupAdaptive] = {}
        quiet: dict[str, Any] = {"silence_logs": logging.WARNING}
        super().__init__(workers=self._wanted(), asynchronous=asynchronous, **(quiet | options))

    # --- starting and closing --------------------------------------------------------------------

    def _make_groups(
        self, names: Iterable[str] | None, workers: int | None, tasks: int | None
    ) -> dict[str, Group]:
        chosen = [names] if isinstance(names, str) else names
        listed = [self.site.default] if chosen is None else list(chosen)
        if len(set(listed)) < len(listed):
            raise InputError(
                f"`resources` names one of {', '.join(listed)} twice; a resource has one slot, and "
                "a slot one worker: raise `tasks_per_slot` to run more tasks at a time"
            )
        resources = [self.site.resource(name) for name in listed]
        groups = self._supply.groups(resources, workers, tasks)
        return {group.label: group for group in groups}

    def _wanted(self) -> dict[str, Any]:
        return {name: group.spec for group in self._groups.values() for name in group.missing(())}

    async def _start(self) -> None:
        # Here and not in the constructor: what is made here is removed by `_close`.
        if self.status == Status.created:
            self._prepare()
        await super()._start()
        for label, (least, most) in self._supply.limits.items():
            if least < most and label not in self._adaptives:
                self._adapt(label, least, most, {})

    def _prepare(self) -> None:
        self._folder = PrivateFolder(self._supply.base())
        self._lease = Lease.hold(self._folder.path / "driver.lease")
        if self._security:
            given = self._security
            made = given if isinstance(given, Security) else Security.temporary()
            self.security = on_disk(made, self._folder)
        launch = Launch(
            self.site,
            self._folder,
            self._lease.path,
            self._supply.worker_host(self._host),
            self.security,
            current_allocation(),
        )
        self._supply.begin(launch)
        self._haven = Haven(self._folder.path, security=self.security, host=self._host)
        self.scheduler_spec = {"cls": Scheduler, "options": self._scheduler_options()}

    def _scheduler_options(self) -> dict[str, Any]:
        assert self._folder is not None
        slots = dict.fromkeys(self.site.resources, 1)
        slots |= {group.resource: group.most for group in self._groups.values() if group.resource}
        return {
            "host": self._host,
            "port": 0,
            "security": self.security,
            "dashboard": self._dashboard_address is not None,
            "dashboard_address": self._dashboard_address or "127.0.0.1:0",
            # Whoever runs beside a task that kills its worker is not to blame.
            "allowed_failures": _ALLOWED_FAILURES,
            "local_directory": str(self._folder.path),
            "plugins": [
                HybridPlugin(slots=slots, outlook=self._outlook),
                Farewell(self._scheduler_closes),
                self._haven,
                self._service,
            ],
        }

    def _scheduler_closes(self) -> None:
        if self.status == Status.running:  # else it is the cluster that closes it
            self._scheduler_error = ResourceError(
                "the Dask scheduler was closed, and the cluster with it: open a new one"
            )
            self.loop.add_callback(self._close)

    async def _close(self) -> None:
        async with self._closing, AsyncExitStack() as stack:
            # Whatever goes wrong before. Both wait for processes to end.
            stack.push_async_callback(asyncio.to_thread, self._end)
            stack.push_async_callback(self._supply.end)
            for adaptive in self._adaptives.values():
                adaptive.stop(reason="cluster-closed")
            if self.scheduler_spec is not None and self.scheduler.status != Status.running:
                # Asked to close again, it would not answer for half a minute.
                self.shutdown_scheduler = False
            if self._haven is not None:
                await self._haven.end()
            await super()._close()

    def _end(self) -> None:
        if self._lease is not None:
            self._lease.close()
        if self._folder is not None:
            self._folder.close()

    # --- members and their workers ----------------------------------------------------------------

    def _member_ended(self, member: Member) -> None:
        group = self._group_of(member.name)
        if group is None or member.name in self._leaving or member.name not in self.worker_spec:
            return
        if self.status != Status.running or self.scheduler.status != Status.running:
            return
        delay = group.ended(member, in_vain=self._service.in_vain(member.name))
        self._service.forget(member.name)
        if delay is not None and (reason := self._supply.too_late()):
            group.error, delay = reason, None
        if delay is None:
            del self.worker_spec[member.name]
            _log.error("%s", group.error)
        elif member.came_up_at and group.label in self._adaptives:
            # The next one is asked for when there are tasks for it.
            del self.worker_spec[member.name]
            group.size -= 1
            _log.warning("%s", member.describe_end())
        else:
            _log.warning("%s; another one is started", member.describe_end())
        self.loop.call_later(delay or 0, self._replace)

    async def _replace(self) -> None:
        if self.status == Status.running:
            ended = [name for name, each in self.workers.items() if each.status == Status.closed]
            for name in ended:
                del self.workers[name]
                await self._forget(name)
            # Private, but what Dask's own subclasses call: it starts what is in `worker_spec` and
            # not in `workers`, and ends the reverse.
            await self._correct_state()

    async def _forget(self, member: str) -> None:
        # A lost node does not close its workers' connections, and their names would stay taken.
        for worker in list(self.scheduler.workers.values()):
            if member_of(worker.name) == member:
                stimulus = f"hybridflow-ended-{distributed_time()}"
                await self.scheduler.remove_worker(worker.address, stimulus_id=stimulus)

    def _update_worker_status(self, op: str, message: Any) -> None:
        # Of Cluster, not of SpecCluster: that one ends a worker which is not back 15 s after it was
        # lost, also one that is still acquiring its QPU. Here the end of its process tells.
        known = self.scheduler_info["workers"]
        if op == "add":
            for worker in message["workers"].values():
                self._came_up(worker["name"])
        elif message in known:
            self._went(known[message]["name"])
        super(SpecCluster, self)._update_worker_status(op, message)

    def _came_up(self, name: Any) -> None:
        group, member = self._group_of(name), self.workers.get(member_of(name))
        if group is not None and member is not None:
            group.came_up(name)
            member.came_up_at = member.came_up_at or time.monotonic()

    def _went(self, name: Any) -> None:
        group = self._group_of(name)
        if group is not None:
            group.went(name)
            if not group.up and (reason := self._supply.too_late()):
                group.error = reason  # now, while there is time for whoever waits for tasks
        if member := self.workers.get(member_of(name)):
            member.worker_went()

    def _group_of(self, name: Any) -> Group | None:
        return self._groups.get(member_of(name).rpartition("-")[0])

    def _outlook(self, asked: Mapping[str, float]) -> HybridflowError | bool:
        # Of a worker for tasks that ask for this: see HybridPlugin.
        groups = [group for group in self._groups.values() if group.could_run(asked)]
        if any(group.error is None and group.up < group.size for group in groups):
            return True
        return next((group.error for group in groups if group.error is not None), False)

    # --- sizes -----------------------------------------------------------------------------------

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
            await asyncio.sleep(_LOOK_SECONDS)

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

    # --- what there is ---------------------------------------------------------------------------

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
            await asyncio.sleep(_LOOK_SECONDS)

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


def _is_running_tasks(worker: WorkerState, asked: float) -> bool:
    # Of its tasks, those that it has begun: its last sign of life says which, if it is new enough.
    begun = any(task in worker.processing for task in worker.executing)
    return begun or (bool(worker.processing) and worker.last_seen <= asked)


def _refuse_in_worker() -> None:
    if os.environ.get(environment.ROLE) == Role.CLASSICAL:
        raise TaskError(
            "a cluster was opened in a classical worker, which loads the program's main module: "
            'put what the program starts under `if __name__ == "__main__":`'
        )


def _log_folder(given: str | os.PathLike[str] | None) -> Path | None:
    run = os.environ.get(environment.RUN)
    if given is None and not run:
        return None
    folder = Path(given if given is not None else Path(str(run), "dask")).absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder

"""A Dask cluster with two groups of workers: in QPU slots, and clean of everything QPU.

::

    driver: scheduler with HybridPlugin ──┬── door ── quantum worker      one a resource
            (this process)                └── keeper ── classical worker  one task at a time

Everything between client and workers stays Dask's. What is added: where workers come from
(``supply.py``: this machine, or blocks of Slurm), how they are started (``launch.py``), that each
group is kept at its own size (``groups.py``; scaled in ``sizes.py``), and errors that say why it
cannot be (shown in ``overview.py``). All of it ends with this process, however that ends
(``folder.py``, ``hybridflow/lease.py``).
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from distributed.metrics import time as distributed_time
from distributed.scheduler import Scheduler
from distributed.security import Security

from hybridflow import environment
from hybridflow.environment import Role
from hybridflow.errors import (
    HybridflowError,
    InputError,
    ResourceError,
    TaskError,
)
from hybridflow.lease import Lease
from hybridflow.site import Site, load_site
from hybridflow.slurm import current_allocation
from hybridflow_dask.adaptive import GroupAdaptive
from hybridflow_dask.block_supply import supply_for
from hybridflow_dask.farewell import Farewell
from hybridflow_dask.folder import PrivateFolder
from hybridflow_dask.groups import Group
from hybridflow_dask.haven import Haven
from hybridflow_dask.launch import Launch, on_disk
from hybridflow_dask.members import Member, member_of
from hybridflow_dask.near import NearCluster
from hybridflow_dask.numbers import whole_number
from hybridflow_dask.overview import ShownCluster
from hybridflow_dask.scheduler import HybridPlugin
from hybridflow_dask.service import Service

__all__ = ["HybridCluster"]

_log = logging.getLogger(__name__)

_ALLOWED_FAILURES = 10


class HybridCluster(ShownCluster):
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
        resource if not given. A route has one worker, in the slots of all its resources; not in
        blocks.
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
        self._near = ""
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
        used = [name for each in listed for name in self._used_by(each)]
        if len(set(used)) < len(used):
            raise InputError(
                f"`resources` names one of {', '.join(used)} twice; a resource has one slot, and "
                "a slot one worker: raise `tasks_per_slot` to run more tasks at a time"
            )
        groups = self._supply.groups(listed, workers, tasks)
        return {group.label: group for group in groups}

    def _used_by(self, name: str) -> tuple[str, ...]:
        route = self.site.route(name)
        return route.resources if route else (self.site.resource(name).name,)

    def _wanted(self) -> dict[str, Any]:
        return {name: group.spec for group in self._groups.values() for name in group.missing(())}

    def get_client(self, **options: Any) -> Client:
        """Return a client for this process; it reaches the scheduler by way of memory.

        ``Client(cluster)`` does the same over an encrypted connection, as other processes do.

        Parameters
        ----------
        **options
            Of :class:`distributed.Client`; without any, a client of this cluster that is there
            already is returned, as by other clusters of Dask's.
        """
        with suppress(ValueError):
            found: Client = Client.current()
            of = found.cluster
            is_ours = of is self or (isinstance(of, NearCluster) and of.is_of(self))
            if is_ours and not options:
                return found
        return Client(NearCluster(self, lambda: self._near), **options)

    async def _start(self) -> None:
        # Here and not in the constructor: what is made here is removed by `_close`.
        if self.status == Status.created:
            self._prepare()
        await super()._start()
        if not self._near:
            await self.scheduler.listen("inproc://")
            self._near = self.scheduler.listeners[-1].contact_address
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

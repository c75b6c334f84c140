"""Parsl executors whose workers stand where they should: in a QPU slot, or clean of everything QPU.

What both share is in ``leased.py``; where their blocks come from, in ``places.py``.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parsl.data_provider.staging import Staging
from parsl.executors.high_throughput.executor import HTEXFuture
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.states import JobStatus
from parsl.launchers import SimpleLauncher, SingleNodeLauncher
from parsl.monitoring.radios.base import RadioConfig
from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider

from hybridflow.environment import Role, thread_limits
from hybridflow.errors import InputError, SiteError, UnmarkedTaskError
from hybridflow.launch import in_slot, kept
from hybridflow.site import Site, load_site
from hybridflow.tasks import task_name
from hybridflow_parsl import launch
from hybridflow_parsl.blocks import handle_failed_blocks
from hybridflow_parsl.leased import LeasedExecutor
from hybridflow_parsl.marks import is_marked
from hybridflow_parsl.places import address_for, provider_here, workers_for
from hybridflow_parsl.providers import BlockProvider

__all__ = ["ClassicalExecutor", "QPUExecutor"]

ErrorHandler = Callable[[BlockProviderExecutor, dict[str, JobStatus]], None]

_HEARTBEAT_SECONDS = 2
_SILENCE_SECONDS = 20

# Workers are counted by `max_workers_per_node` alone: they share cores, as what they do is to wait.
_NO_CORES = 1e-9


class QPUExecutor(LeasedExecutor):
    """Runs quantum tasks: a :class:`~parsl.HighThroughputExecutor` whose blocks are QPU slots.

    Each block passes the door (``hybridflow slot run``) once: its `tasks_per_slot` workers share
    one broker, and with it one session of the resource.

    Parameters
    ----------
    label
        Name by which apps ask for it (``executors=["qpu"]``).
    site
        A site, or the path of a site file; the default site if not given.
    resource
        Name of the resource, or of a route, whose slots are all entered then; the site's default if
        not given.
    tasks_per_slot
        Quantum tasks that share a slot at a time; what the site says if not given.
    require_mark
        Whether functions without the mark of :func:`hybridflow.quantum_task` are refused. Parsl
        sends an app that names no executor to any of them, at random.
    provider
        Where blocks come from; this machine if not given. A block is one node and one launch.
    address, loopback_address, worker_port, worker_port_range, interchange_port_range, \
storage_access, working_dir, worker_debug, heartbeat_threshold, heartbeat_period, drain_period, \
poll_period, address_probe_timeout, worker_logdir_root, block_error_handler, encrypted, \
remote_monitoring_radio
        As in :class:`~parsl.HighThroughputExecutor`. A dead worker is found within
        `heartbeat_period` seconds, a dead block's tasks fail after `heartbeat_threshold` seconds.

    Raises
    ------
    SiteError
        If the site file is wrong, has no such resource, or does not fit the provider.
    InputError
        If `tasks_per_slot` is below 1.
    """

    role = Role.QUANTUM

    def __init__(
        self,
        label: str = "qpu",
        site: Site | str | os.PathLike[str] | None = None,
        resource: str | None = None,
        tasks_per_slot: int | None = None,
        require_mark: bool = True,
        provider: ExecutionProvider | None = None,
        address: str | None = None,
        loopback_address: str = "127.0.0.1",
        worker_port: int | None = None,
        worker_port_range: tuple[int, int] = (54000, 55000),
        interchange_port_range: tuple[int, int] = (55000, 56000),
        storage_access: list[Staging] | None = None,
        working_dir: str | None = None,
        worker_debug: bool = False,
        heartbeat_threshold: int = _SILENCE_SECONDS,
        heartbeat_period: int = _HEARTBEAT_SECONDS,
        drain_period: int | None = None,
        poll_period: int = 10,
        address_probe_timeout: int | None = None,
        worker_logdir_root: str | None = None,
        block_error_handler: bool | ErrorHandler = True,
        encrypted: bool = True,
        remote_monitoring_radio: RadioConfig | None = None,
    ) -> None:
        self.site = site
        self.resource = resource
        self.require_mark = require_mark
        self._site = site if isinstance(site, Site) else load_site(site)
        self._name = resource or self._site.default
        self.tasks_per_slot = _number(
            "tasks_per_slot", tasks_per_slot, self._site.tasks_per_slot(self._name)
        )
        chosen = provider or LocalProvider()  # type: ignore[no-untyped-call]
        _check_provider(chosen, label)
        super().__init__(
            label=label,
            provider=chosen,
            max_workers_per_node=self.tasks_per_slot,
            cores_per_worker=_NO_CORES,
            # A prefetched task would wait behind one that waits for the QPU.
            prefetch_capacity=0,
            address=address or address_for(chosen),
            loopback_address=loopback_address,
            worker_port=worker_port,
            worker_port_range=worker_port_range,
            interchange_port_range=interchange_port_range,
            storage_access=storage_access,
            working_dir=working_dir,
            worker_debug=worker_debug,
            heartbeat_threshold=heartbeat_threshold,
            heartbeat_period=heartbeat_period,
            drain_period=drain_period,
            poll_period=poll_period,
            address_probe_timeout=address_probe_timeout,
            worker_logdir_root=worker_logdir_root,
            block_error_handler=_handler(block_error_handler),
            encrypted=encrypted,
            remote_monitoring_radio=remote_monitoring_radio,
        )

    def front(self, lease: Path) -> list[str]:
        """Return the command line of the door, without the worker pool's arguments."""
        door = in_slot(launch.WORKER_POOL, self._site, self._name, lease)
        return launch.with_variables(door, self._site, {})

    def submit(
        self,
        func: Callable[..., Any],
        resource_specification: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> HTEXFuture:
        """Submit a quantum task. Does not block.

        Parameters
        ----------
        func
            The function, or what Parsl has wrapped around it.
        resource_specification
            Nothing, or ``{"priority": n}``: lower comes first.
        *args, **kwargs
            Its arguments; circuits travel as QPY.

        Raises
        ------
        UnmarkedTaskError
            If the function is no quantum task, and `require_mark`.
        parsl.executors.errors.InvalidResourceSpecification
            If the specification holds anything else.
        HybridflowError
            If no slot came up: what the door said.
        """
        if self.require_mark and not is_marked(func):
            raise UnmarkedTaskError(
                f"the function {task_name(func)!r} was sent to the QPU executor {self.label!r} "
                "without being marked as a quantum task: decorate it with "
                "@hybridflow.quantum_task, or name the executor it should run on, as in "
                "@python_app(executors=['classical'])"
            )
        return super().submit(func, resource_specification, *args, **kwargs)

    def monitor_resources(self) -> bool:
        """No: the work is done on the QPU, and the fork would copy the connection to the broker."""
        return False


class ClassicalExecutor(LeasedExecutor):
    """Runs classical tasks in a clean environment: no broker, no credential, no MPI variables.

    Parameters
    ----------
    label
        Name by which apps ask for it (``executors=["classical"]``).
    site
        A site, or the path of a site file; the default site if not given.
    workers
        Worker processes on each node; what the site says if not given.
    threads
        Threads that numerical libraries may use in each of them; what the site says if not given.
    provider
        Where blocks come from. If not given: in a heterogeneous Slurm job such as those of
        ``hybridflow submit`` its classical nodes, elsewhere this machine.
    **options
        All others of :class:`~parsl.HighThroughputExecutor`.

    Raises
    ------
    SiteError
        If the site file is wrong.
    InputError
        If a number is below 1.
    """

    role = Role.CLASSICAL

    def __init__(
        self,
        label: str = "classical",
        site: Site | str | os.PathLike[str] | None = None,
        workers: int | None = None,
        threads: int | None = None,
        provider: ExecutionProvider | None = None,
        **options: Any,
    ) -> None:
        self.site = site
        self._site = site if isinstance(site, Site) else load_site(site)
        chosen = provider or provider_here()
        self.workers = _number("workers", workers, workers_for(self._site, chosen))
        self.threads = _number("threads", threads, self._site.classical.threads)
        defaults = {
            "address": address_for(chosen),
            "cores_per_worker": _NO_CORES,
            "heartbeat_period": _HEARTBEAT_SECONDS,
            "heartbeat_threshold": _SILENCE_SECONDS,
            "block_error_handler": handle_failed_blocks,
        }
        super().__init__(
            label=label,
            provider=chosen,
            max_workers_per_node=self.workers,
            **(defaults | options),
        )

    def front(self, lease: Path) -> list[str]:
        """Return the command line of a keeper, without the worker pool's arguments."""
        keeper = kept(launch.WORKER_POOL, lease, Role.CLASSICAL)
        return launch.with_variables(keeper, self._site, thread_limits(self.threads))


def _number(name: str, given: int | None, default: int) -> int:
    number = default if given is None else given
    if number < 1:
        raise InputError(f"`{name}` must be at least 1, not {number}")
    return number


def _handler(chosen: bool | ErrorHandler) -> bool | ErrorHandler:
    return handle_failed_blocks if chosen is True else chosen


def _check_provider(provider: ExecutionProvider, label: str) -> None:
    if isinstance(provider, BlockProvider):
        return
    launcher = getattr(provider, "launcher", None)
    if not isinstance(launcher, SimpleLauncher | SingleNodeLauncher):
        raise SiteError(
            f"the provider of the QPU executor {label!r} launches with "
            f"{type(launcher).__name__}; a slot is entered once: use SimpleLauncher or "
            "SingleNodeLauncher"
        )
    nodes = getattr(provider, "nodes_per_block", 1)
    if nodes != 1:
        raise SiteError(
            f"the provider of the QPU executor {label!r} has nodes_per_block={nodes}; a slot is on "
            "one node: set it to 1, and give the classical executor the other nodes"
        )

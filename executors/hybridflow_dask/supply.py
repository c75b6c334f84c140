"""Where a cluster's members come from when they are processes, and what all kinds of supply share.

::

    Processes     this machine; in a heterogeneous Slurm job, its nodes     here
    Elastic       blocks that come and go, from a driver outside Slurm      block_supply.py
    Coscheduled   one block with workers of both kinds                      block_supply.py

The groups are made at once; their members, when the cluster has its folder and its scheduler.
"""

import logging
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dask

from hybridflow import environment
from hybridflow.environment import Role
from hybridflow.errors import DeadlineError, SlurmError
from hybridflow.site import Site
from hybridflow.slurm import current_allocation
from hybridflow.walltime import job_deadline
from hybridflow_dask.departure import margin_of
from hybridflow_dask.groups import Group
from hybridflow_dask.launch import Launch
from hybridflow_dask.members import Member
from hybridflow_dask.workers import GRACE_SECONDS, WorkerProcess

__all__ = ["Processes", "Supply", "shared_folder"]

_log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_DOOR_SECONDS = 30.0  # a broker drains


class Supply(ABC):
    """What the kinds of supply share; not to be used itself.

    Attributes
    ----------
    limits
        Between how many members groups adapt from the start, by their labels.
    """

    def __init__(self, site: Site, on_end: Callable[[Member], None], log_dir: Path | None) -> None:
        self.limits: dict[str, tuple[int, int]] = {}
        self._site = site
        self._on_end = on_end
        self._log_dir = log_dir
        self._launch: Launch

    @abstractmethod
    def groups(
        self, resources: Sequence[str], workers: int | None, tasks: int | None
    ) -> list[Group]:
        """Return the groups of a cluster.

        Parameters
        ----------
        resources
            Names of those whose slots it uses.
        workers
            Classical workers; what the site says if not given.
        tasks
            Quantum tasks that share a slot; what the resource says if not given.
        """

    @abstractmethod
    def host(self) -> str:
        """Return the address that the scheduler listens on."""

    def worker_host(self, host: str) -> str | None:
        """Return the address that workers on this machine listen on; None if there are none."""
        return host

    @abstractmethod
    def base(self) -> str:
        """Return where to make the folder that the scheduler's machine and all workers share."""

    def begin(self, launch: Launch) -> None:
        """Take what members are started with."""
        self._launch = launch

    @abstractmethod
    async def end(self) -> None:
        """See to it that nothing is left when all members have been closed."""

    def adapting(self, role: Role) -> dict[str, Any]:
        """Return the options of Dask's ``Adaptive`` that fit groups of a role."""
        return {}

    def too_late(self) -> DeadlineError | None:
        """Return why no further member can be started; None if one can."""
        return None

    @property
    def _folder(self) -> Path:
        return self._log_dir or self._launch.folder.path


class Processes(Supply):
    """Worker processes of this machine, or of the nodes of the job that it runs in."""

    def __init__(self, site: Site, on_end: Callable[[Member], None], log_dir: Path | None) -> None:
        super().__init__(site, on_end, log_dir)
        self._deadline = _deadline()
        self._margin = margin_of(self._deadline - time.time()) if self._deadline else 0.0

    def groups(
        self, resources: Sequence[str], workers: int | None, tasks: int | None
    ) -> list[Group]:
        """Return a group with one worker for each resource or route, and the classical one."""
        groups = []
        for each in resources:
            number = tasks or self._site.tasks_per_slot(each)
            spec = {"cls": partial(self._quantum, each, number)}
            groups.append(Group(Role.QUANTUM, each, spec, size=1, tasks=number))
        size = self._worker_count() if workers is None else workers
        return [*groups, Group(Role.CLASSICAL, "", {"cls": self._classical}, size=size)]

    def _worker_count(self) -> int:
        site, nodes = self._site.classical, current_allocation()
        return (site.workers or nodes.cpus) * nodes.nodes if nodes else site.worker_count

    def host(self) -> str:
        """Return an address that only this machine can reach, or the job's nodes."""
        allocation = current_allocation()
        return allocation.address() if allocation else _LOOPBACK

    def base(self) -> str:
        """Return the folder for temporary files, or a shared one."""
        if current_allocation():
            # They have folders for temporary files of their own; all of them see the run's.
            return shared_folder()
        return dask.config.get("temporary-directory") or tempfile.gettempdir()

    async def end(self) -> None:
        """Do nothing: nothing is."""

    def too_late(self) -> DeadlineError | None:
        """Return why no further worker can be started: the job that this is ends soon."""
        if self._deadline is None or time.time() < self._deadline - self._margin:
            return None
        end = time.strftime("%H:%M:%S", time.localtime(self._deadline))
        return DeadlineError(
            f"the Slurm job {os.environ[environment.SLURM_JOB]} ends at {end}, its workers have "
            "left in time: run what is left in another job, or ask for a longer time limit"
        )

    def _quantum(self, resource: str, tasks: int, scheduler: str, *, name: str) -> WorkerProcess:
        command = self._launch.quantum(scheduler, name, resource, tasks)
        return self._worker(name, command, Role.QUANTUM, _DOOR_SECONDS)

    def _classical(self, scheduler: str, *, name: str) -> WorkerProcess:
        command = self._launch.classical(scheduler, name)
        return self._worker(name, command, Role.CLASSICAL, GRACE_SECONDS)

    def _worker(
        self, name: str, command: list[str], role: Role, end_seconds: float
    ) -> WorkerProcess:
        return WorkerProcess(
            name,
            command,
            self._launch.variables(role),
            log=self._folder / f"{name}.log",
            handle=self._launch.folder.handle,
            end_seconds=end_seconds,
            on_end=self._on_end,
            log_stays=self._log_dir is not None,
        )


def _deadline() -> float | None:
    try:
        return job_deadline(os.environ)
    except SlurmError as error:
        _log.warning("When this job ends is not known: %s", error)
        return None


def shared_folder() -> str:
    """Return a folder that the nodes of a job, or of blocks, have to see, too."""
    return os.path.abspath(os.environ.get(environment.RUN) or ".")

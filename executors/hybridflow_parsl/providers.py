"""Blocks that are Slurm jobs, for a driver outside Slurm: providers on ``hybridflow.slurm``.

::

    elastic       QPU executor ── ElasticProvider ──┐
                  classical    ── ElasticProvider ──┴─ BlockJobs ──► one job a block
    coscheduled   QPU executor ── CoscheduledProvider ─┐
                  classical    ── CoscheduledProvider ─┴─ Pair ── BlockJobs ──► one job for both

Why not Parsl's ``SlurmProvider``: it knows no heterogeneous job, looks once a minute, takes a job
that has vanished for completed and one that can never start for pending, asks Slurm apart for each
executor, and leaves its jobs behind when the driver is killed.
"""

import itertools
import shlex
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsl.jobs.states import JobState, JobStatus
from parsl.providers.base import ExecutionProvider
from parsl.utils import RepresentationMixin

from hybridflow.environment import Role
from hybridflow.errors import JobFailedError, SlurmError
from hybridflow.site import Site
from hybridflow.slurm import (
    BlockJobs,
    Job,
    JobInfo,
    SlurmState,
    classical_block,
    quantum_block,
)

if TYPE_CHECKING:
    from hybridflow_parsl.leased import LeasedExecutor

__all__ = ["BlockProvider", "BlockStatus", "ElasticProvider"]

CLASSICAL_IDLE_SECONDS = 120.0
"""Seconds without a classical task after which a classical block is given back, at least."""

_LOOK_SECONDS = 1

_STATES = {
    SlurmState.PENDING: JobState.PENDING,
    SlurmState.CONFIGURING: JobState.PENDING,
    SlurmState.COMPLETED: JobState.COMPLETED,
    # Neither says that another block would fare the same.
    SlurmState.TIMEOUT: JobState.TIMEOUT,
    SlurmState.PREEMPTED: JobState.TIMEOUT,
}


class BlockStatus(JobStatus):
    """The state of a block, with the error that its end is.

    Parameters
    ----------
    state
        In Parsl's words.
    info
        In Slurm's.
    problem
        Why it has ended or cannot start; None if nothing is wrong with it.
    output
        File with what it has printed.
    """

    def __init__(
        self, state: JobState, info: JobInfo, problem: JobFailedError | None, output: str
    ) -> None:
        message = str(problem) if problem else None
        super().__init__(state, message, info.exit_status, output, output)
        self.info = info
        self.problem = problem


class BlockProvider(ExecutionProvider, RepresentationMixin):
    """What both kinds share; not to be used itself.

    Parameters
    ----------
    site
        What to ask Slurm for stands in its ``[slurm]`` table.
    role
        What the workers are for.
    resource
        Name of the resource.
    jobs
        The jobs of all blocks of the workflow.

    Attributes
    ----------
    idle
        Seconds without a task after which a block is given back; None: never.
    """

    def __init__(self, site: Site, role: Role, resource: str, jobs: BlockJobs) -> None:
        assert site.slurm is not None, site
        self.site = site
        self.role = role
        self.resource = resource
        self.jobs = jobs
        self.idle: float | None = None
        self.script_dir: str | None = None
        self.nodes_per_block = 1 if role is Role.QUANTUM else site.slurm.for_classical().nodes
        self.min_blocks, self.max_blocks, self.init_blocks = 0, 1, 0
        self.parallelism = 1.0
        self.cores_per_node: int | None = None
        self.mem_per_node: float | None = None
        self.resources: dict[object, Any] = {}

    @property
    def label(self) -> str:
        """Name of the provider."""
        return "slurm"

    @property
    def status_polling_interval(self) -> int:
        """Seconds between two looks; Slurm itself is asked more seldom, by `jobs`."""
        return _LOOK_SECONDS

    def attach(self, executor: "LeasedExecutor") -> None:
        """Note whose blocks these are; called when the executor starts."""

    @abstractmethod
    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> str:
        """Ask for a block that runs a command, and return the number of its job."""

    def status(self, job_ids: Sequence[object]) -> list[JobStatus]:
        """Return the states of blocks by the numbers of their jobs.

        Raises
        ------
        SlurmError
            If Slurm has not answered for too long.
        """
        seen = self.jobs.look()
        return [self._status(seen[str(number)]) for number in job_ids]

    def _status(self, info: JobInfo) -> BlockStatus:
        problem = self.jobs.problem(info.group)
        other = JobState.CANCELLED if info.state.final else JobState.RUNNING
        state = _STATES.get(info.state, JobState.FAILED if problem else other)
        return BlockStatus(state, info, problem, self.output(info.name).replace("%%", "%"))

    def cancel(self, job_ids: Sequence[object]) -> list[bool]:
        """Cancel blocks; return which are."""
        try:
            self.jobs.cancel(*(str(number) for number in job_ids))
        except SlurmError:
            return [False] * len(job_ids)  # Parsl logs it; the sweeper tries for longer
        return [True] * len(job_ids)

    def output(self, name: str) -> str:
        """Return the file for what a job prints, in Slurm's form, in which % is special."""
        return str(Path(self.script_dir or ".", f"{name}.out")).replace("%", "%%")


class ElasticProvider(BlockProvider):
    """Blocks of one kind, each a job of its own; see :class:`BlockProvider`."""

    def __init__(self, site: Site, role: Role, resource: str, jobs: BlockJobs) -> None:
        super().__init__(site, role, resource, jobs)
        assert site.slurm is not None
        assert site.slurm.blocks is not None
        blocks = site.slurm.blocks
        quantum = role is Role.QUANTUM
        self.min_blocks, self.max_blocks = blocks.quantum if quantum else blocks.classical
        self.init_blocks = self.min_blocks
        # Classical blocks cost no QPU: a quantum phase should not send them to the queue again.
        self.idle = blocks.idle if quantum else max(blocks.idle, CLASSICAL_IDLE_SECONDS)
        self._numbers = itertools.count()

    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> str:
        """Ask for a block that runs a command, and return the number of its job."""
        return self.jobs.submit(self._job(shlex.split(command), next(self._numbers)))

    def _job(self, command: list[str], number: int) -> Job:
        name = self.jobs.name(f"{self.role.value}-{number}")
        output = self.output(name)
        if self.role is Role.QUANTUM:
            return quantum_block(command, self.site, self.resource, name=name, output=output)
        return classical_block(command, self.site, name=name, output=output)

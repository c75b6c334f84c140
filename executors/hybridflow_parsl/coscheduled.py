"""Two executors that share one heterogeneous job: a QPU slot and classical nodes, started together.

The executor that wants a block first makes the other one ask for its own. With both commands at
hand, one job is submitted, which is a block of both executors.
"""

import itertools
import logging
import shlex
from typing import TYPE_CHECKING

from hybridflow.environment import Role
from hybridflow.errors import HybridflowError, SiteError, SlurmError
from hybridflow.site import Site
from hybridflow.slurm import BlockJobs, coscheduled_block
from hybridflow_parsl.providers import BlockProvider

if TYPE_CHECKING:
    from hybridflow_parsl.leased import LeasedExecutor

__all__ = ["CoscheduledProvider", "Pair"]

_log = logging.getLogger(__name__)


class Pair:
    """What the providers of two executors share.

    Parameters
    ----------
    site
        What to ask Slurm for stands in its ``[slurm]`` table.
    resource
        Name of the resource.
    jobs
        The jobs of all blocks of the workflow.

    Attributes
    ----------
    executors
        Both, by what their workers are for.
    """

    def __init__(self, site: Site, resource: str, jobs: BlockJobs) -> None:
        self.executors: dict[Role, LeasedExecutor] = {}
        self._site = site
        self._resource = resource
        self._jobs = jobs
        self._commands: dict[Role, list[str]] = {}
        self._number: str | None = None
        self._error: HybridflowError | None = None
        self._count = itertools.count()

    def submit(self, role: Role, command: list[str], provider: BlockProvider) -> str:
        """Ask for a job on behalf of one executor, and return its number.

        Raises
        ------
        HybridflowError
            If there can be none, for whichever executor's reason.
        """
        self._commands[role] = command
        if len(self._commands) == len(Role):
            return self._submit(provider)
        try:
            self._ask_other(role)
        finally:
            self._commands.clear()
        if self._number is None:
            raise self._error or SlurmError(
                "the other executor of this co-scheduled job cannot ask for it now", transient=True
            )
        return self._number

    def _ask_other(self, role: Role) -> None:
        # Comes back to submit(), with the other command.
        self._number = self._error = None
        other = self.executors.get(Role.CLASSICAL if role is Role.QUANTUM else Role.QUANTUM)
        if other is None:
            raise SiteError(
                "co-scheduled blocks are one job for two executors, and only one of them is in "
                "this configuration: add the other one, or use elastic blocks"
            )
        if not other.bad_state_is_set:
            other.scale_out_facade(1)
        if other.bad_state_is_set and isinstance(other.executor_exception, HybridflowError):
            self._error = other.executor_exception

    def _submit(self, provider: BlockProvider) -> str:
        number = next(self._count)
        name = self._jobs.name(f"pair-{number}")
        job = coscheduled_block(
            self._commands[Role.QUANTUM],
            self._commands[Role.CLASSICAL],
            self._site,
            self._resource,
            name=name,
            output=provider.output(name),
        )
        try:
            self._number = self._jobs.submit(job)
        except HybridflowError as error:
            self._error = error
            raise
        if number == 0:
            _log.warning(
                "Slurm job %s holds its slot of %r to the end, also while nothing is asked of it; "
                'with kind = "elastic" in [slurm.blocks] it is given back in between',
                self._number,
                self._resource,
            )
        return self._number


class CoscheduledProvider(BlockProvider):
    """The blocks of one of two executors that share a job; see :class:`BlockProvider`."""

    def __init__(self, site: Site, role: Role, resource: str, jobs: BlockJobs, pair: Pair) -> None:
        super().__init__(site, role, resource, jobs)
        self.pair = pair
        # One, which Parsl does not give back, as the other executor may be at work in it.
        self.min_blocks = self.max_blocks = 1

    def attach(self, executor: "LeasedExecutor") -> None:
        """Make an executor known to the other one."""
        self.pair.executors[self.role] = executor

    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> str:
        """Ask for the job of both executors, and return its number."""
        return self.pair.submit(self.role, shlex.split(command), self)

"""Classical workers on the other nodes of the heterogeneous Slurm job that the driver runs in.

::

    component 0: driver, interchange, QPU executor's door
    component 1: srun ── keeper ── Parsl's worker pool    one a node

The files of Parsl's run (``run_dir``) must be on a file system that all nodes share.
"""

import shlex

from parsl.launchers.base import Launcher
from parsl.providers import LocalProvider

from hybridflow.slurm import Allocation

__all__ = ["AllocationLauncher", "AllocationProvider"]


class AllocationLauncher(Launcher):
    """Starts a command once on each classical node of a job.

    Parameters
    ----------
    allocation
        The classical nodes.
    """

    def __init__(self, allocation: Allocation) -> None:
        super().__init__()
        self.allocation = allocation

    def __call__(
        self, command: str, tasks_per_node: int, nodes_per_block: int, script_dir: str = ""
    ) -> str:
        """Return the shell command that does it."""
        return f"exec {shlex.join([*self.allocation.srun(nodes_per_block), 'bash', '-c', command])}"


class AllocationProvider(LocalProvider):
    """One block: all classical nodes of a job.

    Parameters
    ----------
    allocation
        The classical nodes.
    """

    def __init__(self, allocation: Allocation) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            nodes_per_block=allocation.nodes, launcher=AllocationLauncher(allocation)
        )
        self.allocation = allocation

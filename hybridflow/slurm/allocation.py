"""The job that this process runs in: on which nodes its classical workers can be started.

``hybridflow submit`` makes heterogeneous jobs: component 0 holds the QPU slot and runs the
workflow, and component 1 has the classical nodes. The engines ask :func:`current_allocation` and
start their classical workers there, with the command lines that :meth:`Allocation.srun` returns. A
classical block is a job of one component: ``launcher.py`` asks :func:`whole_job`.
"""

import os
import re
import socket
from collections.abc import Mapping

from hybridflow import environment
from hybridflow.errors import SlurmError
from hybridflow.records import Record
from hybridflow.slurm.commands import run_slurm

__all__ = ["Allocation", "current_allocation", "way_to", "whole_job"]

_GROUP = 1
_ANY_PORT = 9


class Allocation(Record, frozen=True, kw_only=True):
    """The classical nodes of the job that this process runs in.

    Attributes
    ----------
    job
        Number of the job.
    node_list
        Names of the nodes, in Slurm's short form.
    nodes
        How many there are.
    cpus
        CPUs that the job has on each of them, at least.
    component
        Which component of a heterogeneous job they are; None: a whole job.
    """

    job: str
    node_list: str
    nodes: int
    cpus: int
    component: int | None = _GROUP

    def srun(self, nodes: int | None = None, *, first: int = 0) -> list[str]:
        """Return the command line that runs what is appended to it, once a node.

        Parameters
        ----------
        nodes
            On how many nodes; on all if not given.
        first
            The first of them, counted from 0.
        """
        count = self.nodes if nodes is None else nodes
        return [
            "srun",
            *([] if self.component is None else [f"--het-group={self.component}"]),
            f"--nodes={count}",
            f"--ntasks={count}",
            *([f"--relative={first}"] if first else []),
            # Several steps share a node, and each has all that the job has there.
            "--overlap",
            f"--cpus-per-task={self.cpus}",
            "--cpu-bind=none",
            "--mem=0",
            "--gres=none",
            # The workers are no ranks; and where one node is lost, the others go on.
            "--mpi=none",
            "--kill-on-bad-exit=0",
            "--wait=0",
            "--export=ALL",
            "--input=none",
        ]

    def address(self) -> str:
        """Return the address of this node by which the classical nodes can reach it.

        Raises
        ------
        SlurmError
            If Slurm does not tell the nodes' addresses, or they cannot be reached.
        """
        text = run_slurm("scontrol", "--oneliner", "show", "node", self.node_list)
        found = re.search(r"\bNodeAddr=(\S+)", text)
        if found is None:
            raise SlurmError(f"Slurm does not tell the address of the nodes {self.node_list}")
        return way_to(found[1])


def way_to(host: str) -> str:
    """Return the address of this machine by which a node can reach it.

    Raises
    ------
    SlurmError
        If the node cannot be reached.
    """
    # The network that leads there has our address; connecting a datagram's socket sends nothing.
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, _ANY_PORT))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise SlurmError(
            f"the node {host} cannot be reached from this machine: {error}", transient=True
        ) from error


def current_allocation(environ: Mapping[str, str] = os.environ) -> Allocation | None:
    """Return the classical nodes of the heterogeneous job that this process runs in.

    Returns
    -------
    Allocation or None
        None outside Slurm, and in a job of one component.
    """
    nodes = environ.get(f"SLURM_JOB_NUM_NODES_HET_GROUP_{_GROUP}")
    if environment.SLURM_JOB not in environ or nodes is None:
        return None
    return Allocation(
        job=environ[environment.SLURM_JOB],
        node_list=environ[f"SLURM_JOB_NODELIST_HET_GROUP_{_GROUP}"],
        nodes=int(nodes),
        cpus=_fewest(environ[f"SLURM_JOB_CPUS_PER_NODE_HET_GROUP_{_GROUP}"]),
    )


def whole_job(environ: Mapping[str, str] = os.environ) -> Allocation | None:
    """Return the nodes of the job of one component that this process runs in; None elsewhere."""
    if environment.SLURM_JOB not in environ or environment.HET_SIZE in environ:
        return None
    return Allocation(
        job=environ[environment.SLURM_JOB],
        node_list=environ["SLURM_JOB_NODELIST"],
        nodes=int(environ["SLURM_JOB_NUM_NODES"]),
        cpus=_fewest(environ["SLURM_JOB_CPUS_PER_NODE"]),
        component=None,
    )


def _fewest(text: str) -> int:
    # As in "4(x2),8".
    return min(int(part.partition("(")[0]) for part in text.split(","))

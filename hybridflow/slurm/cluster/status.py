"""How a local cluster is: what Slurm says of its nodes and jobs."""

from collections import Counter
from typing import NamedTuple

from hybridflow.errors import ClusterError
from hybridflow.slurm.cluster.background import BackgroundCluster
from hybridflow.slurm.cluster.commands import run
from hybridflow.slurm.cluster.programs import find_programs

__all__ = ["Node", "job_counts", "nodes"]

_WIDTH = 200
_FIELDS = ("NodeList", "StateLong", "Gres", "GresUsed")


class Node(NamedTuple):
    """A node as Slurm sees it; ``gres`` is empty where there are none."""

    name: str
    state: str
    gres: str
    gres_used: str

    @property
    def is_up(self) -> bool:
        """Whether it runs jobs, or could."""
        return self.state in ("idle", "mixed", "allocated", "completing")


def nodes(cluster: BackgroundCluster) -> list[Node]:
    """Return all nodes of a cluster.

    Raises
    ------
    ClusterError
        If Slurm does not answer.
    """
    layout = ",".join(f"{name}:{_WIDTH}" for name in _FIELDS)
    lines = _ask(cluster, "sinfo", "--noheader", "--Node", "--partition=main", f"--Format={layout}")
    return [_node(line) for line in lines]


def _node(line: str) -> Node:
    name, state, gres, used = (
        line[start : start + _WIDTH].strip() for start in range(0, _WIDTH * len(_FIELDS), _WIDTH)
    )
    return Node(name, state, *("" if field == "(null)" else field for field in (gres, used)))


def job_counts(cluster: BackgroundCluster) -> Counter[str]:
    """Return how many jobs are in each state.

    Raises
    ------
    ClusterError
        If Slurm does not answer.
    """
    return Counter(_ask(cluster, "squeue", "--noheader", "--format=%T"))


def _ask(cluster: BackgroundCluster, program: str, *arguments: str) -> list[str]:
    if cluster.process() is None:
        raise ClusterError(
            f"the local cluster in {cluster.folder} has lost its process {cluster.pid}, and ends; "
            "start another with `hybridflow cluster up`"
        )
    return run([find_programs()[program], *arguments], cluster.environ).stdout.splitlines()

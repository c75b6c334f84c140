"""The classical workers of one node of a block: ``python -m hybridflow_dask.node -- WORKER …``.

``srun`` starts it once a node. It adds to Dask's own command line what is known here only, the
worker's names and how many there are, and becomes that command: one nanny for all of them, which
starts a worker again that dies.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from hybridflow import environment
from hybridflow.errors import SlurmError
from hybridflow.walltime import job_deadline
from hybridflow_dask.departure import DEADLINE
from hybridflow_dask.members import worker_name

__all__ = ["main", "on_this_node"]

_CPUS = "SLURM_CPUS_ON_NODE"
_HERE = "SLURMD_NODENAME"
# In Dask's form of its configuration keys. Without the first, a worker could have no child process.
_NO_DAEMON = "DASK_DISTRIBUTED__WORKER__DAEMON"
_DEADLINE = "DASK_" + DEADLINE.replace(".", "__").upper()


def on_this_node(
    command: Sequence[str], member: str, workers: int, environ: Mapping[str, str]
) -> list[str]:
    """Return the command line of a node's workers.

    Parameters
    ----------
    command
        The command line of one.
    member
        Name of the block, which theirs begin with.
    workers
        How many; 0: one for each CPU that the job has here.
    environ
        The variables of a step on the node.
    """
    number = workers or int(environ[_CPUS])
    name = worker_name(member, environ[_HERE])
    return [*command, "--nanny", "--nworkers", str(number), "--name", name]


def main(arguments: Sequence[str] | None = None) -> None:
    """Become the workers of this node."""
    parser = argparse.ArgumentParser(prog="python -m hybridflow_dask.node")
    parser.add_argument("--member", required=True)
    parser.add_argument("--workers", type=int, default=0, help="0: one for each CPU")
    parser.add_argument("--threads", type=int, default=1, help="of numerical libraries")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(arguments)
    command = chosen.command[1:] if chosen.command[:1] == ["--"] else chosen.command
    whole = on_this_node(command, chosen.member, chosen.workers, os.environ)
    limits = environment.thread_limits(chosen.threads)
    os.execve(whole[0], whole, {**os.environ, **limits, _NO_DAEMON: "False", **_deadline()})


def _deadline() -> dict[str, str]:
    try:
        deadline = job_deadline(os.environ)
    except SlurmError as error:
        print(f"hybridflow: when this job ends is not known: {error}", file=sys.stderr, flush=True)
        return {}
    return {} if deadline is None else {_DEADLINE: str(deadline)}


if __name__ == "__main__":
    main()

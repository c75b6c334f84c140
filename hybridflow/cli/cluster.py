"""``hybridflow cluster``: the commands about the local Slurm cluster."""

import click

from hybridflow.cli import LazyGroup

__all__ = ["group"]

_EXAMPLE = """\b
Example: hybridflow cluster up --nodes 3 --qpu aer_a:1; then
  eval "$(hybridflow cluster env)"
  srun --qpu=aer_a hybridflow slot show
  hybridflow cluster down
"""


@click.group(
    cls=LazyGroup,
    lazy={
        "down": "hybridflow.cli.cluster_down:command",
        "env": "hybridflow.cli.cluster_env:command",
        "status": "hybridflow.cli.cluster_status:command",
        "up": "hybridflow.cli.cluster_up:command",
    },
    epilog=_EXAMPLE,
)
def group() -> None:
    """Start and end a real Slurm cluster of several nodes on this machine."""

"""``hybridflow env``: environments for backends whose packages do not fit to others."""

import click

from hybridflow.cli import LazyGroup

__all__ = ["folder_option", "group"]

folder_option = click.option(
    "--folder",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where environments are [default: envs/ in the user's data folder of hybridflow].",
)


@click.group(
    cls=LazyGroup,
    lazy={
        "create": "hybridflow.cli.env_create:command",
        "list": "hybridflow.cli.env_list:command",
        "remove": "hybridflow.cli.env_remove:command",
    },
    epilog="Example: hybridflow env create iqm 'iqm-client[qiskit]'",
)
def group() -> None:
    """Make, list and remove environments that a site file names with the key `interpreter`."""

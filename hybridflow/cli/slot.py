"""``hybridflow slot``: the commands about slots."""

import click

from hybridflow.cli import LazyGroup

__all__ = ["group"]


@click.group(
    cls=LazyGroup,
    lazy={
        "run": "hybridflow.cli.slot_run:command",
        "show": "hybridflow.cli.slot_show:command",
    },
    epilog="Example: hybridflow slot show",
)
def group() -> None:
    """Run programs in a QPU slot, or see which slot there is."""

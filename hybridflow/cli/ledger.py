"""``hybridflow ledger``: the record of a run's requests, vendor jobs and QPU seconds."""

import click

from hybridflow.cli import LazyGroup

__all__ = ["group"]


@click.group(
    cls=LazyGroup,
    lazy={
        "export": "hybridflow.cli.ledger_export:command",
        "resolve": "hybridflow.cli.ledger_resolve:command",
        "show": "hybridflow.cli.ledger_show:command",
        "verify": "hybridflow.cli.ledger_verify:command",
    },
    epilog="Example: hybridflow ledger show runs/h2o",
)
def group() -> None:
    """Show, check and export the record of what a run has used of QPUs."""

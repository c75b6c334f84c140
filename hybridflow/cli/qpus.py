"""``hybridflow qpus``: the resources of a site as Slurm sees them."""

import json
from typing import TYPE_CHECKING

import click

from hybridflow.cli.table import echo_table

if TYPE_CHECKING:
    from hybridflow.slurm import QpuState

__all__ = ["command"]

_TITLES = ("resource", "type", "slots", "held by", "queue", "state")


@click.command("qpus", epilog="Example: hybridflow qpus --site configs/slurm.toml --json")
@click.option("--site", metavar="FILE", help="Site file [default: HYBRIDFLOW_SITE, or built in].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def command(site: str | None, as_json: bool) -> None:
    """Show the QPUs that Slurm grants: slots used and in all, who holds them, who waits."""
    import msgspec

    from hybridflow.site import load_site
    from hybridflow.slurm import qpu_states

    states = qpu_states(load_site(site))
    if as_json:
        shown = [msgspec.to_builtins(state) | {"used": state.used} for state in states]
        click.echo(json.dumps(shown))
        return
    echo_table([_TITLES, *map(_row, states)])


def _row(state: "QpuState") -> tuple[str, ...]:
    if not state.source:
        return (state.name, state.backend, "-", "-", "-", "not known to Slurm")
    holders = ", ".join(f"{claim.user} (job {claim.job})" for claim in state.holders)
    nodes = ", ".join(f"{name} {text}" for name, text in state.nodes.items())
    return (
        state.name,
        state.backend,
        f"{state.used}/{state.slots}",
        holders or "-",
        str(len(state.queue)),
        nodes or "licence",
    )

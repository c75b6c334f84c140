"""``hybridflow slot show``: which slot there is here."""

import json
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hybridflow.slot import Slot

__all__ = ["command"]


@click.command("show", epilog="Example: hybridflow slot show --json")
@click.option("--site", metavar="FILE", help="Site file [default: HYBRIDFLOW_SITE, or built in].")
@click.option(
    "--resource", metavar="NAME", help="Resource, or route [default: the site's, or Slurm's]."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(site: str | None, resource: str | None, as_json: bool) -> None:
    """Show the slot that this process is in, or that it could enter."""
    from hybridflow.site import load_site
    from hybridflow.slot import find_slots

    loaded = load_site(site)
    slots = find_slots(loaded, resource)
    slot = slots[0]
    shown = {
        "resource": slot.resource,
        "backend": slot.backend,
        "origin": slot.origin.value,
        "inside": slot.folder is not None,
        "folder": slot.folder,
        "type": slot.type,
        "slots": slot.slots,
        "token": slot.token,
        "deadline": slot.deadline,
        "route": slot.route.name if slot.route else None,
        "resources": [each.resource for each in slots],
        "site": loaded.name,
        "site_file": loaded.path,
    }
    if as_json:
        click.echo(json.dumps(shown))
        return
    for each in slots:
        click.echo(f"resource  {each.resource} (backend {each.backend})")
    if slot.route is not None:
        click.echo(f"route     {slot.route.name}: {', '.join(slot.route.resources)}")
    click.echo(f"granted   {_granted(slot)}")
    click.echo(f"site      {loaded.name} ({loaded.path or 'no file'})")
    if slot.folder is None:
        click.echo("inside    no; enter it with: hybridflow slot run -- COMMAND")
    else:
        click.echo(f"inside    yes; its broker is at {slot.folder}")
    if slot.deadline is not None:
        click.echo(f"ends      {_end(slot.deadline)}")


def _granted(slot: "Slot") -> str:
    if slot.origin == "site":
        return "by the site"
    kind = f" of type {slot.type}" if slot.type else ""
    return f"by the Slurm job: {slot.slots} slot{'s' * (slot.slots > 1)}{kind}"


def _end(deadline: float) -> str:
    left = max(0, round(deadline - time.time()))
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(deadline))} (in {left} s)"

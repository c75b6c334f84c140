"""``hybridflow slot show``: which slot there is here."""

import json

import click

__all__ = ["command"]


@click.command("show", epilog="Example: hybridflow slot show --json")
@click.option("--site", metavar="FILE", help="Site file [default: HYBRIDFLOW_SITE, or built in].")
@click.option("--resource", metavar="NAME", help="Resource [default: the site's, or Slurm's].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(site: str | None, resource: str | None, as_json: bool) -> None:
    """Show the slot that this process is in, or that it could enter."""
    from hybridflow.site import load_site
    from hybridflow.slot import find_slot

    loaded = load_site(site)
    slot = find_slot(loaded, resource)
    shown = {
        "resource": slot.resource,
        "backend": slot.backend,
        "origin": slot.origin.value,
        "inside": slot.folder is not None,
        "folder": slot.folder,
        "site": loaded.name,
        "site_file": loaded.path,
    }
    if as_json:
        click.echo(json.dumps(shown))
        return
    click.echo(f"resource  {slot.resource} (backend {slot.backend})")
    click.echo(f"granted   by the {'site' if slot.origin == 'site' else 'Slurm job'}")
    click.echo(f"site      {loaded.name} ({loaded.path or 'no file'})")
    if slot.folder is None:
        click.echo("inside    no; enter it with: hybridflow slot run -- COMMAND")
    else:
        click.echo(f"inside    yes; its broker is at {slot.folder}")

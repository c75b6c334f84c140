"""``hybridflow env remove``: removes an environment."""

from pathlib import Path

import click

from hybridflow.cli.env import folder_option

__all__ = ["command"]


@click.command("remove", epilog="Example: hybridflow env remove iqm")
@click.argument("name", metavar="NAME")
@folder_option
def command(name: str, folder: str | None) -> None:
    """Remove an environment that `hybridflow env create` has made."""
    from hybridflow.backends.environments import remove

    removed = remove(name, Path(folder) if folder else None)
    click.echo(f"removed {removed.path}")

"""``hybridflow env create``: makes an environment for a backend's packages."""

from pathlib import Path

import click

from hybridflow.cli.env import folder_option

__all__ = ["command"]


@click.command("create", epilog="Example: hybridflow env create iqm 'iqm-client[qiskit]'")
@click.argument("name", metavar="NAME")
@click.argument("packages", metavar="PACKAGE...", nargs=-1, required=True)
@folder_option
def command(name: str, packages: tuple[str, ...], folder: str | None) -> None:
    """Make a virtual environment with hybridflow and a vendor's packages.

    Backends of resources that name it run in it, each in a process of its own. Packages are what
    pip takes: a name, with extras and versions. Nothing that is installed here is changed.
    """
    from hybridflow.backends.environments import create
    from hybridflow.progress import Display

    with Display() as display:
        made, found = create(name, packages, display.phase, folder=Path(folder) if folder else None)
    named = made.path if folder else f"envs/{made.name}"
    click.echo(f"python      {found.python}")
    click.echo(f"hybridflow  {found.hybridflow}")
    click.echo(f"Qiskit      {found.qiskit}, reads QPY up to version {found.qpy}")
    click.echo(f'use         interpreter = "{named}"')

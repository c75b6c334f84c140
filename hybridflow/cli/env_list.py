"""``hybridflow env list``: the environments that were made, and whether they will do."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hybridflow.cli.env import folder_option
from hybridflow.cli.table import echo_table

if TYPE_CHECKING:
    from hybridflow.backends.environments import Environment

__all__ = ["command"]

_TITLES = ("name", "packages", "Qiskit", "QPY", "hybridflow", "state")


@click.command("list", epilog="Example: hybridflow env list")
@folder_option
def command(folder: str | None) -> None:
    """Show the environments, what their interpreters have, and whether they can be used."""
    from hybridflow.backends.environments import environments

    echo_table([_TITLES, *map(_row, environments(Path(folder) if folder else None))])


def _row(environment: "Environment") -> tuple[str, ...]:
    from hybridflow.backends.interpreter import ask, check
    from hybridflow.errors import SiteError

    if environment.packages is None:
        return (environment.name, "-", "-", "-", "-", "unfinished: remove it, or create it again")
    packages = " ".join(environment.packages)
    try:
        found = ask(environment.python)
    except SiteError as error:
        return (environment.name, packages, "-", "-", "-", str(error))
    try:
        check(found, environment.python)
        state = "ready"
    except SiteError as error:
        state = str(error)
    return (environment.name, packages, found.qiskit, str(found.qpy), found.hybridflow, state)

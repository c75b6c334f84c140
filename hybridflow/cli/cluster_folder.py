"""The option ``--folder``, which all commands about the local cluster have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["chosen_folder", "folder_option"]

_T = TypeVar("_T", bound=Callable[..., Any])


def folder_option(command: _T) -> _T:
    """Add the option to a command."""
    option = click.option(
        "--folder",
        metavar="FOLDER",
        help="Where the cluster lives [default: one a user, under /tmp or TMPDIR].",
    )
    return option(command)


def chosen_folder(folder: str | None) -> Path:
    """Return the folder that was named, or this user's default one, as an absolute path."""
    from hybridflow.slurm.cluster.background import default_folder

    return Path(folder).absolute() if folder else default_folder()

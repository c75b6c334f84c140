"""``hybridflow run``: the workflows that installed packages offer, by entry point.

A workflow is a click command in the entry-point group ``hybridflow.workflows``; it is imported when
it is called for, or listed, and should import its own heavy packages when it runs.
"""

from importlib.metadata import EntryPoint, entry_points

import click

from hybridflow.errors import MissingExtraError

__all__ = ["WORKFLOWS", "group"]

WORKFLOWS = "hybridflow.workflows"
"""Entry-point group of the workflows: click commands."""


class _Workflows(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(point.name for point in entry_points(group=WORKFLOWS))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for point in entry_points(group=WORKFLOWS, name=cmd_name):
            return _load(point)
        return None


def _load(point: EntryPoint) -> click.Command:
    try:
        command: click.Command = point.load()
    except ImportError as error:
        # One broken package must not take the list of the others with it.
        return _broken(point, error)
    return command


def _broken(point: EntryPoint, reason: ImportError) -> click.Command:
    @click.command(point.name, short_help=f"(cannot be imported: {reason})")
    @click.argument("anything", nargs=-1, type=click.UNPROCESSED)
    def command(anything: tuple[str, ...]) -> None:
        raise MissingExtraError(
            f"workflow {point.name!r} ({point.value}) cannot be imported: {reason}; install what "
            "is missing"
        ) from reason

    command.ignore_unknown_options = True
    return command


@click.group(cls=_Workflows, epilog="Example: hybridflow run sqd --molecule h2o --control")
def group() -> None:
    """Run a hybrid workflow; `hybridflow run NAME --help` explains each."""

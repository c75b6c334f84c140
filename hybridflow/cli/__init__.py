"""The command line, one file a command; a command is imported when it is called for.

Exit status of every command: 0 if all went well, 2 for an error of usage or of the user's (change
what you asked for), 3 if a resource failed, 75 if it failed and trying again may help, 130 after
Ctrl-C, 1 for a bug of ours, which shows its traceback. ``hybridflow slot run`` passes the status
of its command through.
"""

import importlib
import os
import sys
import traceback
from typing import Any

import click

from hybridflow import __version__, environment
from hybridflow.errors import HybridflowError, InternalError, UserError

__all__ = ["LazyGroup", "main"]

_FAILED, _TRY_AGAIN, _INTERRUPTED = 3, 75, 130


class LazyGroup(click.Group):
    """A group of commands that are imported when they are first called for.

    Parameters
    ----------
    lazy
        Where each command is: ``{"name": "module:attribute"}``.
    """

    def __init__(self, *arguments: Any, lazy: dict[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one command, imported now; None if there is none of that name."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


class _Main(LazyGroup):
    """The root, which turns errors into one clear line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except HybridflowError as error:
            if ctx.params["debug"] or isinstance(error, InternalError):
                traceback.print_exception(error)
            click.echo(f"error: {error}", err=True)
            sys.exit(_exit_status(error))
        except KeyboardInterrupt:
            click.echo("error: interrupted", err=True)
            sys.exit(_INTERRUPTED)


def _exit_status(error: HybridflowError) -> int:
    if isinstance(error, UserError):
        return 2
    if isinstance(error, InternalError):
        return 1
    return _TRY_AGAIN if error.transient else _FAILED


@click.group(
    cls=_Main,
    lazy={
        "cluster": "hybridflow.cli.cluster:group",
        "dashboard": "hybridflow.cli.dashboard:command",
        "doctor": "hybridflow.cli.doctor:command",
        "env": "hybridflow.cli.env:group",
        "init": "hybridflow.cli.init:command",
        "ledger": "hybridflow.cli.ledger:group",
        "qpu-emulator": "hybridflow.cli.qpu_emulator:command",
        "qpus": "hybridflow.cli.qpus:command",
        "report": "hybridflow.cli.report:command",
        "run": "hybridflow.cli.run:group",
        "slot": "hybridflow.cli.slot:group",
        "submit": "hybridflow.cli.submit:command",
        "top": "hybridflow.cli.top:command",
        "usage": "hybridflow.cli.usage:command",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: hybridflow slot run -- python my_script.py",
)
@click.version_option(__version__, prog_name="hybridflow")
@click.option(
    "--debug",
    is_flag=True,
    default=lambda: bool(os.environ.get(environment.DEBUG)),
    help=f"Show the traceback of an error (or set {environment.DEBUG}=1).",
)
def main(debug: bool) -> None:
    """Run the quantum steps of workflows on QPU slots that Slurm grants."""

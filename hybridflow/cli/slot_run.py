"""``hybridflow slot run``: the door, from the command line."""

import sys

import click

from hybridflow.keeper import GRACE_SECONDS

__all__ = ["command"]

_STATUS = """\b
Exit status: that of COMMAND, 128 + n if signal n ended it; 127 if it was
not found, 126 if it cannot be executed. If COMMAND was not started: 2 if
there is no such slot, 3 if the resource could not be had, 75 if it may be
had later. If it was ended: 75 because the broker stayed dead, 143 because
the lease was lost.
"""


@click.command(
    "run",
    # Everything after the first word of COMMAND is COMMAND's.
    context_settings={"allow_interspersed_args": False},
    epilog=f"{_STATUS}\n\nExample: hybridflow slot run --resource aer -- python my_script.py",
)
@click.option("--site", metavar="FILE", help="Site file [default: HYBRIDFLOW_SITE, or built in].")
@click.option(
    "--resource", metavar="NAME", help="Resource, or route [default: the site's, or Slurm's]."
)
@click.option("--lease", metavar="FILE", help="End COMMAND when this driver's lease is lost.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=GRACE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Time between SIGTERM and SIGKILL for what COMMAND leaves behind.",
)
@click.argument("command_line", metavar="-- COMMAND", nargs=-1, required=True)
def command(
    site: str | None,
    resource: str | None,
    lease: str | None,
    grace: float,
    command_line: tuple[str, ...],
) -> None:
    """Run COMMAND inside a QPU slot.

    The slot's broker runs beside it and alone has the credentials; when COMMAND ends, the broker
    and everything that COMMAND has left behind are ended too.
    """
    from hybridflow.door import run_in_slot
    from hybridflow.site import load_site

    status = run_in_slot(
        command_line,
        site=load_site(site),
        resource=resource,
        lease=lease,
        grace_seconds=grace,
        job_ended=_job_ended,
    )
    sys.exit(status)


def _job_ended(job: str) -> bool | None:
    # Asked only of a run that is resumed: what it needs is not loaded for all others.
    from hybridflow.slurm.ended import job_ended

    return job_ended(job)

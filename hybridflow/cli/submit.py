"""``hybridflow submit``: a workflow as one Slurm job, with a QPU slot and classical nodes."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hybridflow.slurm import JobInfo

__all__ = ["command"]

_STATUS = """\b
Exit status with --wait: that of COMMAND if the job ran to its end; 3 if it
did not, 75 if submitting it again may help.
"""

_EXAMPLE = "Example: hybridflow submit --site configs/slurm.toml --wait -- hybridflow run sqd"


@click.command(
    "submit",
    # Everything after the first word of COMMAND is COMMAND's.
    context_settings={"allow_interspersed_args": False},
    epilog=f"{_STATUS}\n\n{_EXAMPLE}",
)
@click.option("--site", metavar="FILE", help="Site file [default: HYBRIDFLOW_SITE].")
@click.option("--qpu", metavar="NAME", help="Resource, or route [default: the site's].")
@click.option("--nodes", type=click.IntRange(min=0), help="Classical nodes [default: the site's].")
@click.option("--walltime", metavar="TIME", help="Time limit, as 01:30:00 [default: the site's].")
@click.option("--name", default="hybridflow", show_default=True, help="Name of the job.")
@click.option(
    "--output",
    metavar="FILE",
    default="hybridflow-%j.out",
    show_default=True,
    help="What the job prints; %j is its number.",
)
@click.option("--wait", "waits", is_flag=True, help="Wait until the job has ended.")
@click.option("--attach", metavar="JOB", help="Wait for a job that was submitted before.")
@click.option("--dry-run", is_flag=True, help="Print the script instead of submitting it.")
@click.argument("command_line", metavar="-- COMMAND", nargs=-1)
def command(
    site: str | None,
    qpu: str | None,
    nodes: int | None,
    walltime: str | None,
    name: str,
    output: str,
    waits: bool,
    attach: str | None,
    dry_run: bool,
    command_line: tuple[str, ...],
) -> None:
    """Submit COMMAND as one Slurm job that has a QPU slot and classical nodes.

    COMMAND runs on the node of the slot. Workflows in it find both: quantum tasks run in the slot,
    classical ones on the other nodes. The slot is held until the job ends.

    The job goes on when the waiting command ends, however that ends; with --attach in the place of
    COMMAND, another one waits in its stead.
    """
    if (attach is None) == (not command_line):
        raise click.UsageError("give either a COMMAND, after --, or --attach JOB")
    if attach is not None:
        sys.exit(_wait(attach))
    from hybridflow.site import load_site
    from hybridflow.slurm import coscheduled_job, script, submit

    job = coscheduled_job(
        command_line,
        load_site(site),
        resource=qpu,
        nodes=nodes,
        walltime=walltime,
        name=name,
        output=output,
    )
    if dry_run:
        click.echo(script(job), nl=False)
        return
    number = submit(job)
    click.echo(f"job {number}  output in {output.replace('%j', number)}")
    if waits:
        sys.exit(_wait(number))


def _wait(number: str) -> int:
    from hybridflow.slurm import SlurmState, check_completed, wait_for_end

    try:
        info = wait_for_end(number, on_change=_show)
    except KeyboardInterrupt:
        click.echo(f"job {number} goes on; cancel it with: scancel {number}", err=True)
        raise
    if info.state is SlurmState.FAILED and info.exit_status:
        return info.exit_status
    check_completed(info)
    return 0


def _show(info: "JobInfo") -> None:
    where = f" on {info.nodes}" if info.nodes else ""
    why = f" ({info.reason})" if info.reason else ""
    click.echo(f"job {info.group}  {info.state.value.lower()}{where}{why}", err=True)

"""``hybridflow report``: a run's page, made (again) from what its folder holds."""

from pathlib import Path

import click

__all__ = ["command"]


@click.command(epilog="Example: hybridflow report runs/h2o")
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path(path_type=Path))
def command(run_dir: Path) -> None:
    """Write report.html into the folder of a run, and print where it is.

    The page shows the run's timeline and figures, needs no network and can be mailed. It can be
    made while the run is still going on, or after it has failed.
    """
    from hybridflow.report import write_report

    click.echo(write_report(run_dir))

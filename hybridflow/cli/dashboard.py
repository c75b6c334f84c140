"""``hybridflow dashboard``: a run as a live page in a browser on this machine."""

import importlib.util
from pathlib import Path

import click

from hybridflow.errors import InputError, MissingExtraError

__all__ = ["command"]

_EXAMPLES = """\b
Examples:
  hybridflow dashboard
  hybridflow dashboard runs/h2o --port 8760
  ssh -L 8760:127.0.0.1:8760 login-node      (to look from elsewhere)
"""


@click.command("dashboard", epilog=_EXAMPLES)
@click.argument("run_dir", metavar="[RUN_DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--site", metavar="FILE", help="Site file [default: HYBRIDFLOW_SITE, or built in].")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port [default: a free one]."
)
def command(run_dir: Path | None, site: str | None, port: int) -> None:
    """Serve a run as a live page: what `hybridflow top` shows, in a browser.

    RUN_DIR is the folder of a run; without it, the one in HYBRIDFLOW_RUN, or the newest in runs/.
    The page's address, which is printed first, ends with a token: who does not have it sees
    nothing. It is served on the loopback alone, loads nothing from elsewhere, and changes nothing.
    Ends with Ctrl-C.
    """
    if importlib.util.find_spec("tornado") is None:
        raise MissingExtraError(
            "the page needs tornado, which is not installed: pip install 'hybridflow[emulator]'"
        )
    from hybridflow.dashboard import Dashboard, serve
    from hybridflow.site import load_site
    from hybridflow.slurm.poll import SlurmPoll
    from hybridflow.watch import RunWatch, newest_run

    folder = (run_dir or newest_run()).absolute()
    with SlurmPoll(load_site(site)) as slurm:
        try:
            serve(Dashboard(folder.name, RunWatch(folder), slurm), port, click.echo)
        except OSError as error:
            raise InputError(f"port {port} cannot be served: {error.strerror}") from error

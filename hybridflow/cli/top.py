"""``hybridflow top``: a run and its QPUs, live on the terminal.

::

    the run's events (watch.py) ──┐
                                  ├──►  top_view.py  ──►  rich's Live
    Slurm (slurm/poll.py)       ──┘
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["command"]

_EXAMPLES = """\b
Examples:
  hybridflow top
  hybridflow top runs/h2o --interval 0.5
  hybridflow top runs/h2o --site configs/slurm.toml --once
"""


@click.command("top", epilog=_EXAMPLES)
@click.argument("run_dir", metavar="[RUN_DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--site", metavar="FILE", help="Site file [default: HYBRIDFLOW_SITE, or built in].")
@click.option(
    "--interval",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.05, 3600),
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print one frame, and end.")
def command(run_dir: Path | None, site: str | None, interval: float, once: bool) -> None:
    """Watch a run: its QPUs, batches, tasks and workers; and the slots and the queue of Slurm.

    RUN_DIR is the folder of a run; without it, the one in HYBRIDFLOW_RUN, or the newest in runs/.
    Ends with the run, or with Ctrl-C, which leaves the run alone. Where the output is no terminal,
    one frame is printed.
    """
    from rich.console import Console
    from rich.live import Live

    from hybridflow.cli.top_view import frame
    from hybridflow.site import load_site
    from hybridflow.slurm.poll import SlurmPoll
    from hybridflow.watch import RunWatch, newest_run

    folder = run_dir or newest_run()
    watch = RunWatch(folder)
    slurm = SlurmPoll(load_site(site))
    console = Console(highlight=False)

    def look() -> "tuple[RenderableType, bool]":
        run = watch.look()
        states = slurm.states()
        return frame(folder.absolute().name, run, states, slurm.trouble, time.time()), run.ended

    with slurm:
        if once or not console.is_terminal:
            slurm.wait()
            console.print(look()[0])
            return
        try:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                ended = False
                while not ended:
                    shown, ended = look()
                    live.update(shown, refresh=True)
                    if not ended:
                        time.sleep(interval)
        except KeyboardInterrupt:
            pass  # how one leaves a page that goes on
        console.print(look()[0])

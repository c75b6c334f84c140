"""``hybridflow top``: a run and its QPUs, live on the terminal.

::

    the run's events (watch.py)  ──┐
    Slurm (slurm/qpus.py), asked ──┼──►  top_view.py  ──►  rich's Live
    beside it every few seconds  ──┘
"""

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hybridflow import environment
from hybridflow.errors import InputError, SlurmError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hybridflow.site import Site
    from hybridflow.slurm import QpuState

__all__ = ["command"]

_RUNS = "runs"
_SLURM_SECONDS = 10.0
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
    from hybridflow.watch import RunWatch

    folder = run_dir or _default()
    watch = RunWatch(folder)
    slurm = _Slurm(load_site(site))
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


def _default() -> Path:
    if named := os.environ.get(environment.RUN):
        return Path(named)
    folders = [path for path in Path(_RUNS).glob("*") if any(path.glob("events-*.jsonl"))]
    if not folders:
        raise InputError(f"there is no run in {_RUNS}/: name the folder of one")
    return max(folders, key=lambda path: path.stat().st_mtime)


class _Slurm:
    # Slurm's answers, asked for in a thread: a busy controller must not hold up the page.
    def __init__(self, site: "Site") -> None:
        self._site = site if site.slurm else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="slurm")
        self._asked: Future[list[QpuState]] | None = None
        self._next = 0.0
        self._known: list[QpuState] = []
        self.trouble = ""

    def __enter__(self) -> None:
        self._ask()

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self) -> None:
        from hybridflow.slurm import qpu_states

        if self._site is not None:
            self._asked = self._pool.submit(qpu_states, self._site)
            self._next = time.monotonic() + _SLURM_SECONDS

    def wait(self) -> None:
        """Wait for the answer to the question that is under way."""
        if self._asked is not None:
            self._asked.exception()

    def states(self) -> "list[QpuState]":
        """Return what is known, without waiting."""
        if self._asked is not None and self._asked.done():
            try:
                self._known, self.trouble = self._asked.result(), ""
            except SlurmError as error:
                self.trouble = str(error)
            self._asked = None
        if self._asked is None and time.monotonic() >= self._next:
            self._ask()
        return self._known

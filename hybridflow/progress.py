"""What a workflow tells while it works: to the person who waits, and to the run's events.

A workflow says each thing once, to a :class:`Display`; the display shows it on stderr (stdout
belongs to the workflow's result) and appends it to the run's event log, from which the report is
made::

    with Display() as display:
        with display.phase("sample") as phase:
            phase.watch([pools.quantum.submit(sample, circuit) for circuit in circuits])
        with display.phase("diagonalize") as phase:
            for number in range(5):
                phase.watch(futures := [pools.classical.submit(…), …])
                display.iteration(number + 1, {"error_millihartree": …, "dimension": …})

On a terminal, a phase has a spinner (with a bar once it has tasks) and leaves a ticked line with
its seconds; anywhere else, each phase leaves one plain line without any control code. ``NO_COLOR``
is honoured, ``quiet=True`` shows nothing; events are written in every case.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress import Progress as LiveProgress
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text

from hybridflow.events import Event, EventLog, Iteration, PhaseEnded, PhaseStarted, event_log
from hybridflow.labels import label, quantity, seconds

__all__ = ["Display", "Phase"]


class Phase:
    """A phase under way: counts the tasks that belong to it. Safe to use from several threads."""

    def __init__(self, live: LiveProgress, task: TaskID) -> None:
        self._live = live
        self._task = task
        self._lock = threading.Lock()
        self._expected = 0

    @property
    def expected(self) -> int:
        """Tasks announced so far."""
        return self._expected

    def expect(self, tasks: int) -> None:
        """Announce `tasks` more tasks."""
        with self._lock:
            self._expected += tasks
            self._live.update(self._task, total=self._expected)

    def task_ended(self) -> None:
        """Count one task as ended, well or not."""
        self._live.advance(self._task)

    def watch(self, futures: Iterable["Future[Any]"]) -> None:
        """Announce these tasks, and count each when it ends."""
        waiting = list(futures)
        self.expect(len(waiting))
        for future in waiting:
            future.add_done_callback(lambda _: self.task_ended())


class Display:
    """Shows what a workflow does, on stderr, and writes it to the run's events.

    Parameters
    ----------
    quiet
        Show nothing; events are written all the same.
    console
        Where to show it; stderr if not given.
    log
        Where events go; the log of the run in ``HYBRIDFLOW_RUN`` if not given.

    Notes
    -----
    Use it as a context manager, from the thread of the workflow's main line. Phases may be nested.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        console: Console | None = None,
        log: EventLog | None = None,
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._log = log
        self._quiet = quiet
        lively = self._console.is_terminal and not self._console.is_dumb_terminal
        self._lively = lively and not quiet
        self._live = LiveProgress(
            *_columns(self._console.options.ascii_only),
            console=self._console,
            disable=not self._lively,
            transient=True,
            # stdout belongs to the workflow's result, and a forked child must not inherit a
            # stderr that takes the display's lock.
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Show a part of the workflow's main line, from its start to its end.

        Parameters
        ----------
        name
            A word or two, unique in the run: ``sample``.

        Yields
        ------
        Phase
            Counts the phase's tasks, if it has any.
        """
        began = time.monotonic()
        task = self._live.add_task(name, total=None)
        phase = Phase(self._live, task)
        self._emit(PhaseStarted(phase=name))
        good = False
        try:
            yield phase
            good = True
        finally:
            # Not removed: tasks that outlive a failed phase still count themselves.
            self._live.update(task, visible=False)
            self._emit(PhaseEnded(phase=name))
            self._show_end(name, good, time.monotonic() - began, phase.expected)

    def iteration(self, number: int, values: Mapping[str, float]) -> None:
        """Show a finished round of an iterative workflow.

        Parameters
        ----------
        number
            The round, from 1.
        values
            Its figures; a name ends with its unit (``error_millihartree``, ``energy_hartree``,
            ``solve_seconds``), a count has none (``dimension``).
        """
        self._emit(Iteration(number=number, values=dict(values)))
        figures = (f"{label(name)} {quantity(name, value):>9}" for name, value in values.items())
        self._print("   ", f"iteration {number}  ", "  ".join(figures))

    def note(self, text: str) -> None:
        """Show one line of text; it is no event."""
        self._print("   ", text)

    def _emit(self, event: Event) -> None:
        (self._log or event_log()).emit(event)

    def _show_end(self, name: str, good: bool, took: float, tasks: int) -> None:
        counted = f"{tasks} task{'' if tasks == 1 else 's'}" if tasks else ""
        if not self._lively:
            state = "done" if good else "failed"
            self._print(f"{name}: {state} in {seconds(took)}", f" ({counted})" if counted else "")
            return
        mark = _MARKS[self._console.options.ascii_only][good]
        self._print(
            (mark, "green" if good else "bold red"),
            f" {name:<{_NAME_WIDTH}}",
            (f"{seconds(took):>11}", "cyan"),
            (f"   {counted}", "dim"),
        )

    def _print(self, *parts: str | tuple[str, str]) -> None:
        # Text, not markup: names may hold brackets. No wrapping: a line stays one line in a log.
        if not self._quiet:
            self._console.print(Text.assemble(*parts), soft_wrap=True)


_NAME_WIDTH = 20
_MARKS = {False: ("✗", "✓"), True: ("x", "+")}


class _Tasks(ProgressColumn):
    """Shows ``3/8 tasks``, for a phase that has any."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        return Text(f"{task.completed:.0f}/{task.total:.0f} tasks", style="dim")


class _Bar(BarColumn):
    """A bar, for a phase that has tasks: no bar that knows nothing."""

    def render(self, task: Task) -> ProgressBar:
        bar = super().render(task)
        return bar if task.total is not None else ProgressBar(width=0)


class _Elapsed(ProgressColumn):
    """Shows a phase's seconds, as its final line will."""

    def render(self, task: Task) -> Text:
        return Text(seconds(task.elapsed or 0.0), style="cyan", justify="right")


def _columns(ascii_only: bool) -> tuple[ProgressColumn, ...]:
    return (
        SpinnerColumn("line" if ascii_only else "dots"),
        TextColumn("{task.description}", markup=False, table_column=Column(min_width=_NAME_WIDTH)),
        _Elapsed(Column(min_width=10, justify="right")),
        _Bar(bar_width=24),
        _Tasks(),
    )

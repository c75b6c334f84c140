"""The display of a workflow's progress: on a terminal, in a log, and in the run's events."""

import io
import os
import pty
import re
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from hybridflow.events import (
    Event,
    EventLog,
    Iteration,
    PhaseEnded,
    PhaseStarted,
    read_events,
)
from hybridflow.labels import label, quantity, seconds
from hybridflow.progress import Display

VALUES = {"energy_hartree": -75.8680832, "error_millihartree": 0.768, "dimension": 10000}
SECONDS = re.compile(r"[\d.]+ ms")


def work(display: Display) -> None:
    with display:
        with display.phase("integrals"):
            pass
        with display.phase("diagonalize [a]") as phase, ThreadPoolExecutor(2) as pool:
            phase.watch([pool.submit(int) for _ in range(3)])
            display.iteration(1, VALUES)
        display.note("kept in [b]runs/h2o[/b]")


def shown(use: Callable[[Display], None] = work, **options: object) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=False, width=40)
    use(Display(console=console, **options))  # type: ignore[arg-type]
    return SECONDS.sub("0 ms", file.getvalue())


def test_plain_lines_where_there_is_no_terminal() -> None:
    assert shown().splitlines() == [
        "integrals: done in 0 ms",
        "   iteration 1  energy -75.86808320 Ha  error 0.768 mHa  dimension    10,000",
        "diagonalize [a]: done in 0 ms (3 tasks)",
        "   kept in [b]runs/h2o[/b]",
    ]


def test_quiet_shows_nothing() -> None:
    assert shown(quiet=True) == ""


def test_a_phase_that_fails_says_so_and_lets_the_error_pass() -> None:
    def fail(display: Display) -> None:
        with pytest.raises(KeyboardInterrupt), display, display.phase("sample"):
            raise KeyboardInterrupt

    assert shown(fail) == "sample: failed in 0 ms\n"


def test_tasks_may_outlive_a_failed_phase() -> None:
    release = threading.Event()
    counted = []

    def fail(display: Display) -> None:
        with ThreadPoolExecutor(1) as pool, display:
            future = pool.submit(release.wait)
            with pytest.raises(ValueError, match="boom"):
                lose(display, future)
            release.set()
            counted.append(future.result())

    def lose(display: Display, future: "Future[bool]") -> None:
        with display.phase("sample") as phase:
            phase.watch([future])
            raise ValueError("boom")

    assert shown(fail) == "sample: failed in 0 ms (1 task)\n"
    assert counted == [True]


@pytest.mark.parametrize("quiet", [False, True])
def test_all_is_written_to_the_events(tmp_path: Path, quiet: bool) -> None:
    log = EventLog(tmp_path)
    shown(quiet=quiet, log=log)
    log.close()
    written: list[Event] = read_events(tmp_path)
    assert [type(event) for event in written] == [
        PhaseStarted, PhaseEnded, PhaseStarted, Iteration, PhaseEnded,
    ]  # fmt: skip
    assert isinstance(written[3], Iteration)
    assert (written[3].number, written[3].values) == (1, VALUES)


def test_the_run_of_the_environment_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRIDFLOW_RUN", str(tmp_path))
    shown()
    assert len(read_events(tmp_path)) == 5


PROGRAM = """
from concurrent.futures import Future
from hybridflow.progress import Display

with Display() as display:
    with display.phase("integrals"):
        pass
    with display.phase("diagonalize") as phase:
        futures = [Future() for _ in range(4)]
        phase.watch(futures)
        for future in futures[:3]:
            future.set_result(None)
        display._live.refresh()
        display.iteration(1, {"error_millihartree": 0.768})
        futures[3].set_result(None)
    print("the result")
"""


def on_a_terminal(**variables: str) -> tuple[str, str]:
    """Run PROGRAM with stderr on a terminal; return its stdout and what the terminal got."""
    leader, follower = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "100", **variables}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=follower,
        stdin=subprocess.DEVNULL,
        env=environment,
    ) as process:
        os.close(follower)
        received = b"".join(iter(lambda: _read(leader), b""))
        assert process.stdout is not None
        output = process.stdout.read().decode()
    os.close(leader)
    assert process.returncode == 0
    return output, received.decode()


def _read(leader: int) -> bytes:
    ready, _, _ = select.select([leader], [], [], 60)
    assert ready, "the program on the terminal neither wrote nor ended"
    try:
        return os.read(leader, 65536)
    except OSError:
        # Linux's way to say that the last writer has closed the terminal.
        return b""


def test_on_a_terminal() -> None:
    output, screen = on_a_terminal()
    assert output == "the result\n"
    assert "\N{CHECK MARK}" in screen
    assert "3/4 tasks" in screen
    assert "iteration 1" in screen
    assert re.search(r"\x1b\[[0-9;]*3[0-9]m", screen)
    assert screen.rfind("\x1b[?25h") > screen.rfind("\x1b[?25l") >= 0, "the cursor is shown again"


def test_no_color() -> None:
    _, screen = on_a_terminal(NO_COLOR="1")
    assert "\N{CHECK MARK}" in screen
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9)[0-9]m", screen)


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}])
def test_a_dumb_terminal_gets_no_control_codes(variables: dict[str, str]) -> None:
    _, screen = on_a_terminal(**variables)
    assert "\x1b" not in screen
    assert "diagonalize: done in" in screen


def test_a_terminal_without_unicode() -> None:
    _, screen = on_a_terminal(PYTHONIOENCODING="ascii")
    assert screen.isascii()
    assert "\\u" not in screen
    assert "+" in screen


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("energy_hartree", -75.86885075, ("energy", "-75.86885075 Ha")),
        ("error_millihartree", 0.76812, ("error", "0.768 mHa")),
        ("error_millihartree", 25.0, ("error", "25.0 mHa")),
        ("error_millihartree", 100.0, ("error", "100 mHa")),
        ("error_millihartree", 123456.7, ("error", "123,457 mHa")),
        ("solve_seconds", 0.0456, ("solve", "46 ms")),
        ("subspace_dimension", 10000.0, ("subspace dimension", "10,000")),
        ("seconds", 3.0, ("seconds", "3")),
        ("ratio", 0.123456, ("ratio", "0.123")),
        ("ratio", float("nan"), ("ratio", "nan")),
        ("solve_seconds", float("inf"), ("solve", "inf s")),
    ],
)
def test_figures_for_people(name: str, value: float, expected: tuple[str, str]) -> None:
    assert (label(name), quantity(name, value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0 ms"),
        (0.00019, "0.2 ms"),
        (0.0099, "9.9 ms"),
        (0.00996, "10 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (59.96, "1 min 0 s"),
        (125.4, "2 min 5 s"),
        (3599.7, "1 h 0 min"),
        (7260.0, "2 h 1 min"),
    ],
)
def test_lengths_of_time(value: float, expected: str) -> None:
    assert seconds(value) == expected

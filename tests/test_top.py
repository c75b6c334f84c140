"""``hybridflow top``: a run read while it is written, as numbers, as a frame, and on a terminal."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from hybridflow.cli import main
from hybridflow.cli.top_view import frame
from hybridflow.environment import Role
from hybridflow.events import (
    BrokerStarted,
    Event,
    EventLog,
    EventReader,
    Iteration,
    PhaseStarted,
    RunEnded,
    RunStarted,
    TaskEnded,
    TaskStarted,
    VendorJobEnded,
    VendorJobStarted,
)
from hybridflow.slurm.cluster import SlurmCluster
from hybridflow.slurm.qpus import Claim, QpuState
from hybridflow.watch import RunWatch

BEGAN = 1_000_000.0
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def _events() -> list[Event]:
    """A run at second 10: one vendor job has run for 4 s, another one runs for 2 s."""
    first = {"resource": "aer", "vendor_job_id": "j1"}
    second = {"resource": "aer", "vendor_job_id": "j2"}
    return [
        RunStarted(time=BEGAN, workflow="zne", engine="local", resource="aer"),
        PhaseStarted(time=BEGAN, phase="measure"),
        BrokerStarted(time=BEGAN, resource="aer", backend="aer", broker="b"),
        TaskStarted(time=BEGAN, task="c", kind=Role.CLASSICAL, name="fold", worker="w0"),
        TaskEnded(time=BEGAN + 1, task="c", worker="w0", error="ValueError: no"),
        TaskStarted(time=BEGAN + 1, task="q", kind=Role.QUANTUM, name="sample", worker="w1"),
        TaskStarted(time=BEGAN + 2, task="r", kind=Role.QUANTUM, name="wait", worker="w1"),
        VendorJobStarted(time=BEGAN + 2, **first, requests=3, pubs=1),
        VendorJobEnded(time=BEGAN + 6, **first, qpu_seconds=3.5, shots=123_456, queue_seconds=0.1),
        VendorJobStarted(time=BEGAN + 8, **second, requests=2, pubs=2, tasks=("q",)),
        Iteration(time=BEGAN + 9, number=4, values={"error_millihartree": 0.5}),
    ]


def _write(folder: Path, events: list[Event]) -> None:
    log = EventLog(folder)
    for event in events:
        log.emit(event)
    log.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "zne-1"
    _write(folder, _events())
    return folder


def test_events_are_read_once_and_whole(tmp_path: Path) -> None:
    reader = EventReader(tmp_path)
    assert reader.read() == []
    file = tmp_path / "events-here-1.jsonl"
    _write(tmp_path, _events()[:2])
    assert len(reader.read()) == 2
    file.write_bytes(b'nonsense\n{"event":"run_ended","time":5}\n{"event":"run_')
    assert reader.read() == [RunEnded(time=5)]
    with file.open("ab") as stream:
        stream.write(b'ended","time":6}\n')
    assert reader.read() == [RunEnded(time=6)]
    assert reader.read() == []


def test_figures_of_a_run_under_way(run: Path) -> None:
    watch = RunWatch(run, clock=lambda: BEGAN + 10)
    now = watch.look()
    (qpu,) = now.qpus
    assert (qpu.jobs, qpu.running, qpu.requests, qpu.pubs, qpu.brokers) == (1, 1, 5, 3, 1)
    assert (qpu.busy_seconds, qpu.seconds, qpu.busy) == (6.0, 10.0, 0.6)
    assert (now.running, now.failed, now.done, now.on_qpu) == (
        {"quantum": 2}, {"classical": 1}, {}, 1,
    )  # fmt: skip
    assert [(one.worker, one.running, one.task) for one in now.workers] == [
        ("w0", 0, ""),
        ("w1", 2, "sample"),
    ]
    _write(run, [TaskEnded(time=BEGAN + 11, task="q", worker="w1")])
    assert watch.look().done == {"quantum": 1}
    _write(run, [RunEnded(time=BEGAN + 12, error="WorkerLostError: gone")])
    last = watch.look()
    assert (last.ended, last.error, last.running) == (True, "WorkerLostError: gone", {})
    assert watch.look().qpus[0].seconds == 12.0


@pytest.mark.parametrize("width", [80, 200])
def test_a_frame_fits(run: Path, width: int) -> None:
    evil = "\x1b[2J[bold]name[/bold]" + "x" * 300
    _write(run, [TaskStarted(task="e", kind=Role.CLASSICAL, name=evil, worker=evil)])
    state = QpuState(
        name="aer",
        backend="aer",
        source="gres",
        slots=2,
        holders=(Claim(job="17", user="ada", slots=1),),
        queue=(),
        nodes={"q1": "mixed"},
    )
    file = io.StringIO()
    watch = RunWatch(run, clock=lambda: BEGAN + 10)
    Console(file=file, width=width).print(
        frame("zne-1", watch.look(), [state], "slurmctld sleeps", BEGAN + 10)
    )
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "[bold]" in text
    for words in (
        "zne-1: zne on aer (local)", "measure; runs for 10.0 s", "60%", "123,456", "3.5 s",
        "sample and 1 more", "iteration 4  error 0.500 mHa", "1/2", "ada (17)", "q1 mixed",
        "Slurm: slurmctld sleeps",
    ):  # fmt: skip
        assert words in text


def test_once_and_the_newest_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    shown = CliRunner().invoke(main, ["top", "--once"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "zne-1: zne on aer (local)" in shown.output
    lost = CliRunner().invoke(main, ["top", "nowhere"])
    assert lost.exit_code == 2
    assert "there is no folder nowhere" in lost.output
    monkeypatch.chdir(run)
    none = CliRunner().invoke(main, ["top"])
    assert (none.exit_code, "there is no run in runs/" in none.output) == (2, True)


@pytest.mark.parametrize("width", [80, 200])
def test_on_a_terminal_until_the_run_ends(run: Path, width: int) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    variables = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    program = subprocess.Popen(
        [sys.executable, "-m", "hybridflow", "top", str(run), "--interval", "0.1"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=variables | {"TERM": "xterm-256color"},
    )
    os.close(theirs)
    seen = b""
    timer = threading.Timer(60, program.kill)
    timer.start()
    try:
        while b"60%" not in seen and b"PUBs" not in seen:
            seen += os.read(ours, 65536)
        _write(run, [RunEnded(time=BEGAN + 10)])
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:  # how Linux says that nobody has the terminal any more
                break
            seen += more
        assert program.wait(30) == 0
    finally:
        timer.cancel()
        program.kill()
        program.wait()
        os.close(ours)
    text = seen.decode()
    assert "\x1b[?1049h" in text  # a screen of its own, and back
    last = text.rpartition("\x1b[?1049l")[2]
    lines = CONTROLS.sub("", last).splitlines()
    assert "ended well, after 10.0 s" in lines
    assert max(map(len, lines)) <= width


def test_slurms_slots_are_shown(on_cluster: SlurmCluster, run: Path, tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text('[qpu.aer_b]\nbackend = "aer"\n[slurm]\n')
    shown = CliRunner().invoke(main, ["top", str(run), "--site", str(site), "--once"])
    assert shown.exit_code == 0
    assert re.search(r"aer_b +0/2 +- +0 +q1 idle", shown.output)

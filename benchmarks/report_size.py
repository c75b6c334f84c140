"""The report of a run with many tasks: seconds, memory and bytes of the page.

A synthetic run: its tasks on 64 classical workers and 16 places of a slot, four quantum tasks in a
vendor job; once with a hundred phases and rounds, once with as many as tasks. The bounds: 100,000
tasks in under 30 s, 1 GB and 5 MB. The peer is reading the events alone, which no report can do
without.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hybridflow.environment import Role
from hybridflow.events import (
    BrokerStarted,
    Event,
    EventLog,
    Iteration,
    PhaseEnded,
    PhaseStarted,
    RunEnded,
    RunStarted,
    TaskEnded,
    TaskStarted,
    VendorJobEnded,
    VendorJobStarted,
    read_events,
)
from hybridflow.report import write_report

BEGAN = 1_700_000_000.0
CLASSICAL, PLACES, BATCH = 64, 16, 4
SECONDS, MIB, PAGE_MB = 30.0, 1000.0, 5.0


def events(tasks: int, rounds: int) -> list[Event]:
    """Return the events of a run in which every fifth task is a quantum one."""
    found: list[Event] = [
        RunStarted(time=BEGAN, workflow="synthetic", engine="local", resource="aer"),
        BrokerStarted(time=BEGAN, resource="aer", backend="aer", broker="b"),
    ]
    waiting: list[tuple[str, float]] = []
    for number in range(tasks):
        start = BEGAN + 0.01 * number
        quantum = number % 5 == 0
        worker = f"q{number // 5 % PLACES}" if quantum else f"c{number % CLASSICAL}"
        name, role = ("sample", Role.QUANTUM) if quantum else ("solve", Role.CLASSICAL)
        error = "ValueError: synthetic" if number % 997 == 0 else ""
        found += [
            TaskStarted(time=start, task=f"t{number}", kind=role, name=name, worker=worker),
            TaskEnded(time=start + 0.35, task=f"t{number}", worker=worker, error=error),
        ]
        if quantum:
            waiting.append((f"t{number}", start))
        if len(waiting) == BATCH:
            found += _job(waiting)
            waiting = []
        if number % max(1, tasks // rounds) == 0:
            values = {"error_millihartree": 10.0 / (1 + number), "dimension": 1000.0 + number}
            found += [
                PhaseStarted(time=start, phase=f"part {number}"),
                PhaseEnded(time=start + 0.5, phase=f"part {number}"),
                Iteration(time=start, number=number + 1, values=values),
            ]
    return [*found, RunEnded(time=BEGAN + 0.01 * tasks + 1)]


def _job(waiting: list[tuple[str, float]]) -> list[Event]:
    ids = tuple(task for task, _ in waiting)
    start = waiting[-1][1] + 0.01
    return [
        VendorJobStarted(
            time=start,
            resource="aer",
            vendor_job_id=f"job-{ids[0]}",
            requests=len(ids),
            pubs=1,
            tasks=ids,
        ),
        VendorJobEnded(
            time=start + 0.15,
            resource="aer",
            vendor_job_id=f"job-{ids[0]}",
            qpu_seconds=0.14,
            shots=1000 * len(ids),
            queue_seconds=0.01,
        ),
    ]


def measure(what: str, folder: str) -> None:
    """Do one thing in this process, and print its seconds and its memory in MB."""
    began = time.perf_counter()
    if what == "read":
        read_events(folder)
    else:
        write_report(folder)
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({"seconds": seconds, "mb": memory}))


def _alone(what: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return 0
    good = True
    for rounds in (100, arguments.tasks):
        with tempfile.TemporaryDirectory() as folder:
            log = EventLog(folder)
            for event in events(arguments.tasks, rounds):
                log.emit(event)
            log.close()
            read, report = _alone("read", folder), _alone("report", folder)
            page = (Path(folder) / "report.html").stat().st_size / 1e6
        print(
            f"{arguments.tasks:,} tasks, {rounds:,} phases and rounds: "
            f"report {report['seconds']:.1f} s, reading the events {read['seconds']:.1f} s, "
            f"ratio {report['seconds'] / read['seconds']:.1f}; {report['mb']:.0f} MB, "
            f"page {page:.2f} MB"
        )
        good &= report["seconds"] < SECONDS and report["mb"] < MIB and page < PAGE_MB
    print("within the bounds" if good else "over a bound (30 s, 1000 MB, 5 MB)")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

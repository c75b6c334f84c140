"""How well the broker merges what blocking workers ask, against the fewest vendor jobs.

Workers, each a process that waits for its result before it asks again, have a share of the tasks.
A task is one circuit. The emulated device takes 1 s for a vendor job and 10 ms for a circuit, one
job at a time; or it prepares jobs beside the device, so that their fixed costs overlap. The bound:
all workers together in every vendor job. For comparison, a device that takes one PUB a job.

    python benchmarks/batching.py [--tasks 200] [--workers 20] [--time-scale 1.0]
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from common import broker, emulated, in_processes, packed_bell, request, together, verdict
from hybridflow.broker.client import connect
from hybridflow.records import PackedPub
from hybridflow.testing import qpu_emulator

FIXED_SECONDS, CIRCUIT_SECONDS = 1.0, 0.01
RATIO, OVERLAP_RATIO = 1.1, 1.0
ALONE = 20
"""Tasks of the comparison: one vendor job a task takes so long that fewer must do."""


class Case(msgspec.Struct, frozen=True):
    """One measurement: a device, and how the broker uses it."""

    name: str
    tasks: int
    max_in_flight: int = 1
    device: dict[str, Any] = {}


def work(socket: Path, pub: PackedPub, tasks: int) -> tuple[float, float]:
    """Do so many tasks one after the other; return when it began and ended."""
    connection = connect(socket)
    connection.describe()
    together()
    begun = time.monotonic()
    for _ in range(tasks):
        connection.submit(request(pub)).future.result()
    ended = time.monotonic()
    together()  # a process that ends takes time from those that are still at work
    connection.close()
    return begun, ended


def shares(tasks: int, workers: int) -> Iterator[int]:
    for worker in range(workers):
        yield tasks // workers + (worker < tasks % workers)


def measure(case: Case, pub: PackedPub, workers: int, scale: float) -> tuple[float, int]:
    """Return the makespan, and how many vendor jobs there were."""
    timing = {"seconds_per_job": FIXED_SECONDS, "seconds_per_circuit": CIRCUIT_SECONDS}
    with (
        qpu_emulator("qpu", time_scale=scale, **timing, **case.device) as emulator,
        broker(emulated(emulator, max_in_flight=case.max_in_flight)) as process,
    ):
        calls = [(process.socket, pub, share) for share in shares(case.tasks, workers)]
        spans = in_processes(work, calls)
        jobs = len(emulator.log())
    return max(ended for _, ended in spans) - min(begun for begun, _ in spans), jobs


def report(tasks: int, workers: int, scale: float) -> bool:
    pub = packed_bell()
    alone = min(ALONE, tasks)
    cases = [
        Case("one in flight", tasks),
        Case("two in flight", tasks, 2),
        Case("two, costs overlap", tasks, 2, {"overlap": True}),
        Case("one job a task", alone, 1, {"max_pubs": 1}),
    ]
    rounds = math.ceil(tasks / workers)
    bound = scale * (rounds * FIXED_SECONDS + tasks * CIRCUIT_SECONDS)
    print(f"{tasks} tasks, {workers} workers; bound {bound:.2f} s, {rounds} vendor jobs")
    ratios = []
    for case in cases:
        seconds, jobs = measure(case, pub, workers, scale)
        ratios.append(seconds / bound * tasks / case.tasks)
        print(
            f"{case.name:20} {case.tasks:4} tasks {seconds:7.2f} s {jobs:4} vendor jobs"
            f"   {ratios[-1]:5.2f} of the bound"
        )
    serial, ahead, overlapping, single = ratios
    print(f"two in flight / one        {ahead / serial:5.2f}   (at most {RATIO})")
    print(f"overlapping / one          {overlapping / serial:5.2f}   (at most {OVERLAP_RATIO})")
    print(f"one job a task / merged    {single / serial:5.2f}")
    return serial <= RATIO and ahead <= RATIO * serial and overlapping <= OVERLAP_RATIO * serial


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--time-scale", type=float, default=1.0, help="0.1: ten times as quick")
    chosen = parser.parse_args()
    return verdict(report(chosen.tasks, chosen.workers, chosen.time_scale))


if __name__ == "__main__":
    sys.exit(main())

"""What a broker under load can take: requests a second, memory of a long queue, a lone request.

The backend is null; requests have 3.5 kB, all different, and come from 4 processes that keep 32
each in flight. Measured without a ledger, and with one that makes every step durable, as for a
device that is paid for: in memory (tmpfs), and on the disk. Bounds, with the ledger in memory:
5,000 requests a second; a lone request at most 2 ms (median) and 5 ms (99th percentile); and
100,000 queued requests within one and a half times their payload.

    python benchmarks/broker_throughput.py [--count 40000] [--queued 100000] [--disk FOLDER]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from common import broker, in_processes, milliseconds, request, together, verdict
from hybridflow.broker.base import Connection
from hybridflow.broker.client import connect
from hybridflow.records import JobState, PackedPub, Request, Resource

PAYLOAD = 3500
PROCESSES, IN_FLIGHT = 4, 32
RATE, MEDIAN_MILLISECONDS, P99_MILLISECONDS, MEMORY = 5000, 2.0, 5.0, 1.5
TMPFS = Path("/dev/shm")


class Figures(msgspec.Struct, frozen=True):
    """What a broker did."""

    rate: float
    median: float
    p99: float


def unlike(process: int, number: int) -> Request:
    """Make a request that equals no other: equal ones are told apart by their order alone."""
    mark = b"%d %d " % (process, number)
    return request(PackedPub(circuit=mark + bytes(PAYLOAD - len(mark)), shots=1))


def saturate(socket: Path, process: int, count: int) -> tuple[float, float]:
    """Keep requests in flight until `count` are answered; return when it began and ended."""
    waiting: deque[Future[Any]] = deque()
    connection = connect(socket)
    connection.describe()
    together()
    begun = time.monotonic()
    for number in range(count):
        waiting.append(connection.submit(unlike(process, number)).future)
        if len(waiting) == IN_FLIGHT:
            waiting.popleft().result()
    while waiting:
        waiting.popleft().result()
    ended = time.monotonic()
    connection.close()
    return begun, ended


def enqueue(socket: Path, process: int, count: int, pid: int) -> tuple[int, int]:
    """Queue so many requests; return what the broker holds when it has those of all, and peak."""
    connection = connect(socket)
    tickets = [connection.submit(unlike(process, number)) for number in range(count)]
    state = tickets[-1].state()  # answered after all that came before it
    assert state is JobState.QUEUED, state
    together()
    held = bytes_of(pid)
    together()
    connection.close()
    return held


def bytes_of(pid: int) -> tuple[int, int]:
    """Return what a process holds in memory, and the most it ever held."""
    lines = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    now, most = (1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return now, most


def lone(connection: Connection, rounds: int) -> list[float]:
    """Return how long requests take that are alone, in milliseconds, sorted."""
    asked = (unlike(PROCESSES, number) for number in range(rounds))

    def ask() -> object:
        return connection.submit(next(asked)).future.result()

    return sorted(milliseconds(ask) for _ in range(rounds))


def measure(run: Path | None, count: int, rounds: int) -> Figures:
    null = Resource(
        name="null", backend="fake", options={"mode": "null", "durable_jobs": run is not None}
    )
    with broker(null, run) as process:
        connection = connect(process.socket)
        taken = lone(connection, rounds)
        connection.close()
        share = count // PROCESSES
        spans = in_processes(
            saturate, [(process.socket, number, share) for number in range(PROCESSES)]
        )
    seconds = max(ended for _, ended in spans) - min(begun for begun, _ in spans)
    return Figures(PROCESSES * share / seconds, statistics.median(taken), taken[int(0.99 * rounds)])


def memory(count: int) -> tuple[float, float]:
    """Return what queued requests take in the broker, and its peak, in units of their payload."""
    held = {"mode": "null", "seconds_per_job": 3600.0}
    with broker(Resource(name="held", backend="fake", options=held)) as process:
        before, _ = bytes_of(process.pid)
        share = count // PROCESSES
        calls = [(process.socket, number, share, process.pid) for number in range(PROCESSES)]
        (now, most), *_ = in_processes(enqueue, calls)
        process.kill()  # rather than to drain it of them
    payload = PROCESSES * share * PAYLOAD
    return (now - before) / payload, (most - before) / payload


def report(count: int, queued: int, rounds: int, disk: Path) -> bool:
    with (
        tempfile.TemporaryDirectory(prefix="hybridflow-", dir=TMPFS) as in_memory,
        tempfile.TemporaryDirectory(prefix="hybridflow-", dir=disk) as on_disk,
    ):
        runs = {"none": None, "in memory": Path(in_memory), "on disk": Path(on_disk)}
        found = {}
        print("ledger       requests/s   lone: median       99 %")
        for name, run in runs.items():
            found[name] = seen = measure(run, count, rounds)
            print(f"{name:11}{seen.rate:12,.0f}{seen.median:12.2f} ms{seen.p99:8.2f} ms")
    bare = found["none"]
    for name in ("in memory", "on disk"):
        ratios = found[name].rate / bare.rate, found[name].median / bare.median
        print(f"{name} / none: requests/s {ratios[0]:.2f}, lone median {ratios[1]:.2f}")
    grown, most = memory(queued)
    print(f"{queued:,} queued requests take {grown:.2f} of their payload  (at most {MEMORY})")
    print(f"while they came in: {most:.2f}")
    kept = found["in memory"]
    return (
        kept.rate >= RATE
        and kept.median <= MEDIAN_MILLISECONDS
        and kept.p99 <= P99_MILLISECONDS
        and grown <= MEMORY
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=40_000, help="requests for the throughput")
    parser.add_argument("--queued", type=int, default=100_000, help="requests for the memory")
    parser.add_argument("--rounds", type=int, default=2000, help="lone requests")
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()), metavar="FOLDER")
    chosen = parser.parse_args()
    return verdict(report(chosen.count, chosen.queued, chosen.rounds, chosen.disk))


if __name__ == "__main__":
    sys.exit(main())

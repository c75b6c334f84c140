"""What a quantum task costs through Dask, against Dask as it comes.

A task with one primitive call to a null backend goes to a ``HybridCluster`` (with its encryption);
the peer is a no-op with ``resources={"QPU": 1}`` on a cluster of Dask's own (without). Both are
asked in turns in one run, each on one worker process with as many threads; a turn is a block of
calls, because a client of Dask sends every 10 ms, which single calls in turns would hide. Bounds:
the median of the first is at most 1.2 times that of the second plus 2 ms; 1,000 of the first,
submitted at once, run at no less than 0.9 times the rate of as many no-ops that take 2 ms.

    python benchmarks/dask_round_trip.py [--rounds 500] [--tasks 1000]
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from distributed import Client, Future
from qiskit import QuantumCircuit

import hybridflow as hf
from common import NULL_SITE, bare_dask, bell, milliseconds, seconds, verdict, write_site
from hybridflow_dask import HybridCluster

RATIO, ALLOWANCE, THROUGHPUT = 1.2, 2.0, 0.9
SLOT_TASKS = 16
BLOCK, FLOODS = 50, 3

Submit = Callable[[], Future]


def no_op() -> None:
    pass


def two_milliseconds() -> None:
    time.sleep(0.002)


@hf.quantum_task
def sample(circuit: QuantumCircuit) -> None:
    hf.Sampler().run([circuit], shots=100).result()


def rate(client: Client, submit: Submit, tasks: int) -> float:
    """Return how many tasks a second end, of so many that are submitted one by one."""
    return tasks / seconds(lambda: client.gather([submit() for _ in range(tasks)]))


def round_trips(submits: list[Submit], rounds: int) -> list[float]:
    """Return the median milliseconds of each, asked in turns, a block of calls at a time."""
    taken: list[list[float]] = [[] for _ in submits]
    for number in range(1 + math.ceil(rounds / BLOCK)):
        for submit, mine in zip(submits, taken, strict=True):
            block = [milliseconds(lambda: submit().result()) for _ in range(BLOCK)]  # noqa: B023
            if number:  # the first is to warm up
                mine += block
    return [statistics.median(column) for column in taken]


def report(ours: Client, bare: Client, rounds: int, tasks: int) -> bool:
    circuit = bell()

    def quantum() -> Future:
        return ours.submit(sample, circuit)

    def nothing() -> Future:
        return bare.submit(no_op, pure=False, resources={"QPU": 1})

    def short() -> Future:
        return bare.submit(two_milliseconds, pure=False, resources={"QPU": 1})

    base, task = round_trips([nothing, quantum], rounds)
    forms = [(bare, nothing), (bare, short), (ours, quantum)]
    floods = [[rate(client, form, tasks) for client, form in forms] for _ in range(FLOODS)]
    plain, peer, mine = (statistics.median(column) for column in zip(*floods, strict=True))
    ratio = task / (base + ALLOWANCE)
    print(f"bare no-op                {base:8.3f} ms")
    print(f"quantum task              {task:8.3f} ms")
    print(f"ratio (no-op + 2 ms)      {ratio:8.2f}      (at most {RATIO})")
    print(f"bare no-ops               {plain:8.0f} a second")
    print(f"bare no-ops of 2 ms       {peer:8.0f} a second")
    print(f"quantum tasks             {mine:8.0f} a second")
    print(f"ratio (no-ops of 2 ms)    {mine / peer:8.2f}      (at least {THROUGHPUT})")
    return ratio <= RATIO and mine / peer >= THROUGHPUT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--tasks", type=int, default=1000)
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="hybridflow-") as folder,
        bare_dask([{"nthreads": SLOT_TASKS, "resources": {"QPU": SLOT_TASKS}}]) as bare,
        HybridCluster(
            write_site(Path(folder), NULL_SITE), workers=1, tasks_per_slot=SLOT_TASKS
        ) as cluster,
        Client(cluster) as ours,
    ):
        kept = report(ours, bare, chosen.rounds, chosen.tasks)
    return verdict(kept)


if __name__ == "__main__":
    sys.exit(main())

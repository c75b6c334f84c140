"""What a quantum task costs through Dask, against Dask as it comes.

A task with one primitive call to a null backend goes to a ``HybridCluster`` (with its encryption);
the peer is a no-op with ``resources={"QPU": 1}`` on a cluster of Dask's own (without). Once the
task makes its circuit itself, and neither has an argument; once both are given a circuit. Both
clusters are asked in turns in one run, each on one worker process with as many threads; a turn is a
block of calls, because a client of Dask sends every 10 ms, which single calls in turns would hide.
Bounds: the median of the first is at most 1.2 times that of the second plus 2 ms; of 1,000 that are
submitted at once, the rate of the first is at least 0.9 times what the second would have if each
took 2 ms longer.

    python benchmarks/dask_round_trip.py [--rounds 500] [--tasks 1000]
"""

import argparse
import functools
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from distributed import Client, Future, wait
from qiskit import QuantumCircuit

import hybridflow as hf
from common import NULL_SITE, bare_dask, bell, milliseconds, seconds, verdict, write_site
from hybridflow_dask import HybridCluster

RATIO, ALLOWANCE, THROUGHPUT = 1.2, 2.0, 0.9
SLOT_TASKS = 16
BLOCK, FLOODS = 50, 3

Submit = Callable[[], Future]


def no_op(*circuit: QuantumCircuit) -> None:
    pass


@hf.quantum_task
def sample() -> None:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    hf.Sampler().run([circuit], shots=100).result()


@hf.quantum_task
def sample_given(circuit: QuantumCircuit) -> None:
    hf.Sampler().run([circuit], shots=100).result()


def answer(submit: Submit) -> object:
    return submit().result()


def compare_round_trips(submits: Sequence[Submit], rounds: int) -> list[float]:
    """Return the median milliseconds of each, asked in turns, a block of calls at a time."""
    taken: list[list[float]] = [[] for _ in submits]
    for number in range(1 + math.ceil(rounds / BLOCK)):
        for submit, mine in zip(submits, taken, strict=True):
            block = [milliseconds(partial(answer, submit)) for _ in range(BLOCK)]
            if number:  # the first is to warm up
                mine += block
    return [statistics.median(column) for column in taken]


def compare_rates(submits: Sequence[Submit], tasks: int) -> list[float]:
    """Return how many tasks a second end, of so many that are submitted one by one."""

    def flood(submit: Submit) -> None:
        wait([submit() for _ in range(tasks)])

    taken = [[tasks / seconds(partial(flood, s)) for s in submits] for _ in range(FLOODS)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def report(ours: Client, bare: Client, rounds: int, tasks: int) -> bool:
    kept = True
    forms = [("no argument", sample, []), ("a circuit", sample_given, [bell()])]
    for title, function, given in forms:
        submits = [
            functools.partial(bare.submit, no_op, *given, pure=False, resources={"QPU": 1}),
            functools.partial(ours.submit, function, *given),
        ]
        base, task = compare_round_trips(submits, rounds)
        base_rate, task_rate = compare_rates(submits, tasks)
        longer = task / (base + ALLOWANCE)
        rate = task_rate * (1 / base_rate + ALLOWANCE / 1000)
        kept &= longer <= RATIO and rate >= THROUGHPUT
        print(title)
        print(f"  bare no-op              {base:8.3f} ms")
        print(f"  quantum task            {task:8.3f} ms")
        print(f"  ratio (no-op + 2 ms)    {longer:8.2f}      (at most {RATIO})")
        print(f"  bare no-ops             {base_rate:8.0f} a second")
        print(f"  quantum tasks           {task_rate:8.0f} a second")
        print(f"  ratio (no-op + 2 ms)    {rate:8.2f}      (at least {THROUGHPUT})")
    return kept


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

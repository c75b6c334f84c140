"""What a quantum task costs through Dask, against Dask as it comes.

A task with one primitive call to a null backend goes to a ``HybridCluster`` (with its encryption)
from its own client, ``cluster.get_client()``; the peer is a no-op with ``resources={"QPU": 1}`` on
a cluster of Dask's own (without). Once the task makes its circuit itself, and neither has an
argument; once both are given a circuit. Both clusters are asked in one run, each on one worker
process with as many threads. What ``Client(cluster)`` takes, over an encrypted connection of its
own, stands beside it.

Bounds: the median of the first is at most 1.2 times that of the second plus 2 ms; of 1,000 that are
submitted at once, the rate of the first is at least 0.9 times what the second would have if each
took 2 ms longer.

A client of Dask sends every 10 ms at most, about what a task takes. So the bound is on tasks that
come alone: in turns, after pauses of random length, and with all results kept, so that nothing else
is to be sent. Beside it stands what a bare task costs that waits for 2 ms, and what two loops take,
in blocks. Where results are kept, the next task goes out 10 ms after the last one, if that has
ended. In a plain loop, the release of each result may be sent first, and the next task then waits
for its turn: who takes a little less or more than 10 ms gets one figure or twice that, by chance.

    python benchmarks/dask_round_trip.py [--rounds 300] [--tasks 1000]
"""

import argparse
import functools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from distributed import Client, Future, wait
from qiskit import QuantumCircuit

import hybridflow as hf
from common import NULL_SITE, bare_dask, bell, seconds, verdict, write_site
from hybridflow_dask import HybridCluster

RATIO, ALLOWANCE, THROUGHPUT = 1.2, 2.0, 0.9
SLOT_TASKS = 16
PAUSE_SECONDS = 0.01, 0.03
WARM_UP, BLOCK, FLOODS = 20, 50, 3

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


def wait_two_milliseconds(*circuit: QuantumCircuit) -> None:
    time.sleep(ALLOWANCE / 1000)


def round_trip(submit: Submit, results: list[Future] | None = None) -> float:
    """Return the milliseconds from a task's submission to its result, which may be kept."""
    begun = time.perf_counter()
    future = submit()
    future.result()
    taken = time.perf_counter() - begun
    if results is not None:
        results.append(future)
    return 1e3 * taken


def alone(submits: Sequence[Submit], rounds: int) -> list[float]:
    """Return the median of each, in turns of random order, each after a pause."""
    chance = random.Random(1)
    taken: list[list[float]] = [[] for _ in submits]
    results: list[Future] = []
    for _ in range(WARM_UP + rounds):
        for place in chance.sample(range(len(submits)), len(submits)):
            time.sleep(chance.uniform(*PAUSE_SECONDS))
            taken[place].append(round_trip(submits[place], results))
    return [statistics.median(column[WARM_UP:]) for column in taken]


def in_loops(submits: Sequence[Submit], rounds: int, *, keep: bool) -> list[float]:
    """Return the median of each, in turns of a block of calls, the first of them to warm up."""
    taken: list[list[float]] = [[] for _ in submits]
    results: list[Future] | None = [] if keep else None
    for _ in range(0, rounds, BLOCK):
        for submit, mine in zip(submits, taken, strict=True):
            block = [round_trip(submit, results) for _ in range(WARM_UP + BLOCK)]
            mine += block[WARM_UP:]
    return [statistics.median(column) for column in taken]


def compare_rates(submits: Sequence[Submit], tasks: int) -> list[float]:
    """Return how many tasks a second end, of so many that are submitted one by one."""

    def flood(submit: Submit) -> None:
        futures = [submit() for _ in range(tasks)]
        with futures[0].client.as_current():  # else `wait` uses the client that was made last
            wait(futures)

    taken = [[tasks / seconds(functools.partial(flood, s)) for s in submits] for _ in range(FLOODS)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def report(ours: Client, far: Client, bare: Client, rounds: int, tasks: int) -> bool:
    kept = True
    forms = [("no argument", sample, []), ("a circuit", sample_given, [bell()])]
    for title, function, given in forms:
        no_ops, waits = (
            functools.partial(bare.submit, peer, *given, pure=False, resources={"QPU": 1})
            for peer in (no_op, wait_two_milliseconds)
        )
        quantum, distant = (
            functools.partial(client.submit, function, *given) for client in (ours, far)
        )
        print(title)
        kept &= report_round_trips([no_ops, waits, quantum, distant], rounds)
        kept &= report_rates([no_ops, quantum], tasks)
    return kept


def report_round_trips(submits: Sequence[Submit], rounds: int) -> bool:
    base, waiting, task, distant = alone(submits, rounds)
    loops = {
        "in a loop, results kept": in_loops(submits[:3], rounds, keep=True),
        "in a plain loop": in_loops(submits[:3], rounds, keep=False),
    }
    ratio = task / (base + ALLOWANCE)
    print(f"  bare no-op                {base:8.2f} ms")
    print(f"  bare wait of 2 ms         {waiting:8.2f} ms")
    print(f"  quantum task              {task:8.2f} ms")
    print(f"  ratio (no-op + 2 ms)      {ratio:8.2f}      (at most {RATIO})")
    print(f"  ratio (wait of 2 ms)      {task / waiting:8.2f}")
    print(f"  through Client(cluster)   {distant:8.2f} ms, {distant / (base + ALLOWANCE):.2f}")
    for title, (base, waiting, task) in loops.items():
        print(f"  {title:24}  {base:8.2f}, {waiting:.2f}, {task:.2f} ms")
        print(f"  ratio (no-op + 2 ms)      {task / (base + ALLOWANCE):8.2f}")
    return ratio <= RATIO


def report_rates(submits: Sequence[Submit], tasks: int) -> bool:
    base, task = compare_rates(submits, tasks)
    ratio = task * (1 / base + ALLOWANCE / 1000)
    print(f"  bare no-ops               {base:8.0f} a second")
    print(f"  quantum tasks             {task:8.0f} a second")
    print(f"  ratio (no-op + 2 ms)      {ratio:8.2f}      (at least {THROUGHPUT})")
    return ratio >= THROUGHPUT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--tasks", type=int, default=1000)
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="hybridflow-") as folder,
        bare_dask([{"nthreads": SLOT_TASKS, "resources": {"QPU": SLOT_TASKS}}]) as bare,
        HybridCluster(
            write_site(Path(folder), NULL_SITE), workers=1, tasks_per_slot=SLOT_TASKS
        ) as cluster,
        cluster.get_client() as ours,
        Client(cluster, set_as_default=False) as far,
    ):
        kept = report(ours, far, bare, chosen.rounds, chosen.tasks)
    return verdict(kept)


if __name__ == "__main__":
    sys.exit(main())

"""How long a quantum task waits behind 200 classical ones, on Dask.

The classical tasks (10 ms each) depend on one earlier task each, as the steps of a pipeline do:
Dask hands such tasks out at once, to all workers that may run them. In one run, each cluster with
one worker of one thread for classical and one for quantum tasks:

* Dask as it comes, the quantum task with ``resources={"QPU": 1}``;
* a ``HybridCluster``, the same classical tasks;
* that ``HybridCluster`` while it has nothing else to do: ours is at most 3 times as long.

    python benchmarks/dask_wait.py [--rounds 5] [--tasks 200]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from distributed import Client, Future, as_completed, wait
from qiskit import QuantumCircuit

import hybridflow as hf
from common import NULL_SITE, bare_dask, bell, milliseconds, verdict, write_site
from hybridflow_dask import HybridCluster

LONGER, CALLS = 3.0, 10


def prepare(number: int) -> int:
    return number


def work(number: int) -> int:
    time.sleep(0.01)
    return number


def no_op() -> None:
    pass


@hf.quantum_task
def sample(circuit: QuantumCircuit) -> None:
    hf.Sampler().run([circuit], shots=100).result()


def wait_idle(submit: Callable[[], Future]) -> float:
    return statistics.median(milliseconds(lambda: submit().result()) for _ in range(CALLS))


def wait_behind(client: Client, tasks: int, submit: Callable[[], Future]) -> float:
    """Return the milliseconds of a quantum task that comes when a quarter of the others has ended.

    By then Dask's `fifo_timeout` is over, in which it takes two calls for simultaneous ones.
    """
    prepared = client.map(prepare, range(tasks), pure=False)
    wait(prepared)
    working = client.map(work, prepared, pure=False)
    ended = as_completed(working)
    for _ in range(tasks // 4):
        next(ended)
    waited = milliseconds(lambda: submit().result())
    wait(working)
    return waited


def report(ours: Client, bare: Client, rounds: int, tasks: int) -> bool:
    circuit = bell()

    def quantum() -> Future:
        return ours.submit(sample, circuit)

    def annotated() -> Future:
        return bare.submit(no_op, pure=False, resources={"QPU": 1})

    for submit in [annotated, quantum] * 20:
        submit().result()
    taken = [
        (
            wait_idle(quantum),
            wait_behind(bare, tasks, annotated),
            wait_behind(ours, tasks, quantum),
        )
        for _ in range(rounds)
    ]
    idle, theirs, mine = (statistics.median(column) for column in zip(*taken, strict=True))
    print(f"bare annotation, behind {tasks} tasks  {theirs:9.1f} ms")
    print(f"ours, behind {tasks} tasks             {mine:9.1f} ms")
    print(f"ours, idle cluster               {idle:9.1f} ms")
    print(f"ours / idle cluster              {mine / idle:9.2f}      (at most {LONGER})")
    print(f"bare annotation / ours           {theirs / mine:9.2f}")
    return mine / idle <= LONGER


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=200)
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="hybridflow-") as folder,
        bare_dask([{"nthreads": 1}, {"nthreads": 1, "resources": {"QPU": 1}}]) as bare,
        HybridCluster(write_site(Path(folder), NULL_SITE), workers=1, tasks_per_slot=1) as cluster,
        Client(cluster) as ours,
    ):
        kept = report(ours, bare, chosen.rounds, chosen.tasks)
    return verdict(kept)


if __name__ == "__main__":
    sys.exit(main())

"""Many small sampler tasks: merged by the broker, against one Aer run a task.

All tasks have an ISA circuit of their own (one structure, other numbers). For each engine, in one
run, start-up excluded:

* ours: quantum tasks, 16 to a slot, one slot;
* Aer and the engine as they come, one run a task, on two worker processes of the engine's own,
  circuits as the engine writes them: at least 3 times slower on Parsl, 2 times on Dask;
* the sum of the engine's no-ops with a circuit and one hand-tuned Aer run of all circuits: the
  floor, of which ours is at most 1.3 times;
* a tuned Aer run a task on those two workers: parity is the claim (merging pays on devices that
  cost something a job);
* no-ops with circuits as the engine writes them; on Parsl, default Aer with circuits as QPY.

Bare Dask has a driver process of its own, which does not know hybridflow_dask, for all its runs; on
Parsl, where one driver can have both kinds of workers, the tuned runs get their circuits as QPY.

    python benchmarks/sampler_tasks.py [--engine parsl|dask] [--tasks 1000] [--rounds 3]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit.library import efficient_su2
from qiskit_aer import AerSimulator

import hybridflow as hf
from common import bare_dask, seconds, verdict, write_site

QUBITS, SHOTS, SLOT_TASKS, WORKERS = 10, 1024, 16, 2
WARM = 8 * SLOT_TASKS
CORES = len(os.sched_getaffinity(0))
FASTER, OVERHEAD = {"parsl": 3.0, "dask": 2.0}, 1.3

SITE = """
[qpu.aer]
backend = "aer"
"""

Circuits = Sequence[QuantumCircuit]
Forms = dict[str, Callable[[Circuits], object]]
"""What is timed, by the name that is printed: each runs a task for each of the circuits."""


@hf.quantum_task
def ours(circuit: QuantumCircuit) -> dict[str, int]:
    counts: dict[str, int] = (
        hf.Sampler().run([circuit], shots=SHOTS).result()[0].data.meas.get_counts()
    )
    return counts


@hf.quantum_task
def no_op(circuit: QuantumCircuit) -> None:
    pass


def plain_no_op(circuit: QuantumCircuit) -> None:
    pass


def default_aer(circuit: QuantumCircuit) -> dict[str, int]:
    from qiskit_aer import AerSimulator

    counts: dict[str, int] = AerSimulator().run(circuit, shots=1024).result().get_counts()
    return counts


def tuned_aer(circuit: QuantumCircuit) -> dict[str, int]:
    import qiskit_aer

    if not hasattr(qiskit_aer, "kept"):  # one simulator a worker, and one core for each
        qiskit_aer.kept = qiskit_aer.AerSimulator(method="statevector", max_parallel_threads=1)
    counts: dict[str, int] = qiskit_aer.kept.run(circuit, shots=1024).result().get_counts()
    return counts


def make_circuits(count: int) -> list[QuantumCircuit]:
    rng = np.random.default_rng(1)
    ansatz = efficient_su2(QUBITS, reps=2)
    ansatz.measure_all()
    ansatz = hf.transpile(ansatz, resource="aer")
    values = rng.uniform(0, 6, (count, ansatz.num_parameters))
    return [ansatz.assign_parameters(row) for row in values]


@contextmanager
def parsl_forms(site: Path, count: int) -> Iterator[Forms]:
    from parsl import DataFlowKernel, python_app
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider
    from parsl.serialize.concretes import DillSerializer
    from parsl.serialize.facade import register_method_for_data

    from hybridflow_parsl import QPUExecutor, circuits

    def tasks(function: Callable[..., Any], label: str) -> Callable[[Circuits], object]:
        app = python_app(function, executors=[label], data_flow_kernel=kernel)
        return lambda given: [future.result() for future in [app(circuit) for circuit in given]]

    def pickled(call: Callable[[Circuits], object]) -> Callable[[Circuits], object]:
        def called(given: Circuits) -> None:
            register_method_for_data(DillSerializer())
            try:
                call(given)
            finally:
                circuits.install()

        return called

    bare = HighThroughputExecutor(
        label="bare",
        max_workers_per_node=WORKERS,
        cores_per_worker=1e-9,
        address="127.0.0.1",
        provider=LocalProvider(),
    )
    config = Config(
        executors=[QPUExecutor(site=site, tasks_per_slot=SLOT_TASKS), bare],
        run_dir=str(site.parent / "parsl"),
        strategy_period=0.2,
        initialize_logging=False,
    )
    with DataFlowKernel(config) as kernel:
        default_runs, no_ops = tasks(default_aer, "bare"), tasks(no_op, "qpu")
        yield {
            "ours": tasks(ours, "qpu"),
            "default Aer run a task": pickled(default_runs),
            "default Aer, circuits as QPY": default_runs,
            "tuned Aer run a task": tasks(tuned_aer, "bare"),
            "no-ops with a circuit": no_ops,
            "no-ops, Parsl's pickles": pickled(no_ops),
        }


@contextmanager
def dask_forms(site: Path, count: int) -> Iterator[Forms]:
    from hybridflow_dask import HybridCluster

    def tasks(function: Callable[..., Any]) -> Callable[[Circuits], object]:
        return lambda given: client.gather([client.submit(function, c) for c in given])

    with (
        bare_driver(count) as bare,
        HybridCluster(site, workers=1, tasks_per_slot=SLOT_TASKS) as cluster,
        cluster.get_client() as client,
    ):
        yield {
            "ours": tasks(ours),
            "default Aer run a task": bare(default_aer),
            "tuned Aer run a task": bare(tuned_aer),
            "no-ops with a circuit": tasks(no_op),
            "no-ops, Dask's pickles": bare(plain_no_op),
        }


PEERS = {function.__name__: function for function in (default_aer, tuned_aer, plain_no_op)}


@contextmanager
def bare_driver(
    count: int,
) -> Iterator[Callable[[Callable[..., Any]], Callable[[Circuits], object]]]:
    """Start this script as the driver of bare Dask, and give what makes a form of a function."""
    command = [sys.executable, __file__, "--bare-dask", "--tasks", str(count)]
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        asked, answered = driver.stdin, driver.stdout

        def form(function: Callable[..., Any]) -> Callable[[Circuits], object]:
            def call(given: Circuits) -> None:
                print(function.__name__, len(given), file=asked, flush=True)
                if answered.readline() != "done\n":
                    raise RuntimeError("the driver of bare Dask ended")

            return call

        yield form
        asked.close()


def drive_bare_dask(count: int) -> int:
    """Run what the lines of the standard input ask for: a function, and for how many circuits."""
    given = make_circuits(count)
    with bare_dask([{"nthreads": 1}] * WORKERS) as client:
        for line in sys.stdin:
            name, number = line.split()
            futures = [client.submit(PEERS[name], c, pure=False) for c in given[: int(number)]]
            client.gather(futures)
            print("done", flush=True)
    return 0


FORMS = {"parsl": parsl_forms, "dask": dask_forms}


def measure(forms: Forms, given: Circuits, rounds: int) -> dict[str, float]:
    simulator = AerSimulator(max_parallel_threads=CORES, max_parallel_experiments=CORES)
    for call in forms.values():
        call(given[:WARM])  # workers are up, and have imported what they need
    tuned: Forms = {
        "one hand-tuned Aer run": lambda some: simulator.run(list(some), shots=SHOTS).result()
    }
    calls = forms | tuned
    taken = [[seconds(partial(call, given)) for call in calls.values()] for _ in range(rounds)]
    return dict(zip(calls, map(statistics.median, zip(*taken, strict=True)), strict=True))


def report(figures: dict[str, float], at_least: float) -> bool:
    for name, value in figures.items():
        print(f"{name:30} {value:7.2f} s")
    mine = figures["ours"]
    floor = figures["no-ops with a circuit"] + figures["one hand-tuned Aer run"]
    faster, overhead = figures["default Aer run a task"] / mine, mine / floor
    print(f"default Aer / ours             {faster:7.2f}   (at least {at_least})")
    print(f"ours / (no-ops + one run)      {overhead:7.2f}   (at most {OVERHEAD})")
    print(f"tuned Aer / ours               {figures['tuned Aer run a task'] / mine:7.2f}")
    return faster >= at_least and overhead <= OVERHEAD


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=FORMS, help="if not given: one after the other")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare-dask", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    # Parsl's own executor finds its programs there.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(prefix="hybridflow-") as name:
        site = write_site(Path(name), SITE)
        os.environ["HYBRIDFLOW_SITE"] = str(site)
        if chosen.bare_dask:
            return drive_bare_dask(chosen.tasks)
        given = make_circuits(chosen.tasks)
        kept = True
        for engine in [chosen.engine] if chosen.engine else FORMS:
            print(f"{engine}: {len(given)} tasks, {QUBITS} qubits, {SHOTS} shots, {CORES} cores")
            with FORMS[engine](site, len(given)) as forms:
                kept &= report(measure(forms, given, chosen.rounds), FASTER[engine])
    return verdict(kept)


if __name__ == "__main__":
    sys.exit(main())

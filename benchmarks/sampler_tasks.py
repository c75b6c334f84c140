"""Many small sampler tasks through Parsl: merged by the broker, against one Aer run a task.

All tasks have an ISA circuit of their own (one structure, other numbers). In one run, start-up
excluded:

* ours: quantum tasks on ``QPUExecutor``, 16 to a slot, one slot;
* Aer and Parsl as they come, one run a task, on two workers of Parsl's own executor, circuits as
  Parsl pickles them: at least 3 times slower;
* the sum of the engine's no-ops with a circuit and one hand-tuned Aer run of all circuits: the
  floor, of which ours is at most 1.3 times;
* a tuned Aer run a task on those two workers, circuits as QPY: parity is the claim (merging pays on
  devices that cost something a job);
* the default Aer runs with circuits as QPY, and the no-ops with circuits as Parsl pickles them.

    python benchmarks/sampler_tasks.py [--tasks 1000] [--rounds 3]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from parsl import DataFlowKernel, python_app
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider
from parsl.serialize.concretes import DillSerializer
from parsl.serialize.facade import register_method_for_data
from qiskit import QuantumCircuit
from qiskit.circuit.library import efficient_su2
from qiskit_aer import AerSimulator

import hybridflow as hf
from hybridflow_parsl import QPUExecutor, circuits

QUBITS, SHOTS, SLOT_TASKS, WORKERS = 10, 1024, 16, 2
CORES = len(os.sched_getaffinity(0))
FASTER, OVERHEAD = 3.0, 1.3

SITE = """
[qpu.aer]
backend = "aer"
"""


@hf.quantum_task
def ours(circuit: QuantumCircuit) -> dict[str, int]:
    counts: dict[str, int] = (
        hf.Sampler().run([circuit], shots=SHOTS).result()[0].data.meas.get_counts()
    )
    return counts


@hf.quantum_task
def no_op(circuit: QuantumCircuit) -> None:
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
def parsls_own_pickles() -> Iterator[None]:
    register_method_for_data(DillSerializer())
    try:
        yield
    finally:
        circuits.install()


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def config(folder: Path, site: Path) -> Config:
    bare = HighThroughputExecutor(
        label="bare",
        max_workers_per_node=WORKERS,
        cores_per_worker=1e-9,
        address="127.0.0.1",
        provider=LocalProvider(),
    )
    return Config(
        executors=[QPUExecutor(site=site, tasks_per_slot=SLOT_TASKS), bare],
        run_dir=str(folder / "parsl"),
        strategy_period=0.2,
        initialize_logging=False,
    )


def measure(
    given: Sequence[QuantumCircuit], rounds: int, kernel: DataFlowKernel
) -> dict[str, float]:
    def tasks(function: Callable[..., Any], label: str) -> Callable[[], object]:
        app = python_app(function, executors=[label], data_flow_kernel=kernel)

        def call(some: Sequence[QuantumCircuit] = given) -> object:
            return [future.result() for future in [app(circuit) for circuit in some]]

        call(given[: 8 * SLOT_TASKS])  # workers are up, and have imported what they need
        return call

    simulator = AerSimulator(max_parallel_threads=CORES, max_parallel_experiments=CORES)
    no_ops = tasks(no_op, "qpu")

    default_runs = tasks(default_aer, "bare")

    def pickled(call: Callable[[], object]) -> Callable[[], None]:
        def called() -> None:
            with parsls_own_pickles():
                call()

        return called

    forms: dict[str, Callable[[], object]] = {
        "ours": tasks(ours, "qpu"),
        "default Aer run a task": pickled(default_runs),
        "default Aer, circuits as QPY": default_runs,
        "tuned Aer run a task": tasks(tuned_aer, "bare"),
        "no-ops with a circuit": no_ops,
        "no-ops, Parsl's pickles": pickled(no_ops),
        "one hand-tuned Aer run": lambda: simulator.run(list(given), shots=SHOTS).result(),
    }
    taken = [[seconds(call) for call in forms.values()] for _ in range(rounds)]
    return dict(zip(forms, map(statistics.median, zip(*taken, strict=True)), strict=True))


def report(figures: dict[str, float]) -> bool:
    for name, value in figures.items():
        print(f"{name:30} {value:7.2f} s")
    mine = figures["ours"]
    floor = figures["no-ops with a circuit"] + figures["one hand-tuned Aer run"]
    faster, overhead = figures["default Aer run a task"] / mine, mine / floor
    print(f"default Aer / ours             {faster:7.2f}   (at least {FASTER})")
    print(f"ours / (no-ops + one run)      {overhead:7.2f}   (at most {OVERHEAD})")
    print(f"tuned Aer / ours               {figures['tuned Aer run a task'] / mine:7.2f}")
    return faster >= FASTER and overhead <= OVERHEAD


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    # Parsl's own executor finds its programs there.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(prefix="hybridflow-") as name:
        folder = Path(name)
        site = folder / "site.toml"
        site.write_text(SITE)
        os.environ["HYBRIDFLOW_SITE"] = str(site)
        given = make_circuits(chosen.tasks)
        print(f"{len(given)} tasks, {QUBITS} qubits, {SHOTS} shots, {CORES} cores")
        with DataFlowKernel(config(folder, site)) as kernel:
            kept = report(measure(given, chosen.rounds, kernel))
    print("bounds kept" if kept else "BOUNDS BROKEN")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

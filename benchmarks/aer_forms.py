"""The Aer backend against hand-tuned Aer, on the same circuits in one run.

Ours is timed from ``start`` to ``result``: QPY read, simulated, samples packed. Aer's own run gets
circuit objects and leaves its samples as text (``memory=True``), with all experiments in parallel
and, for parameter sets, the faster of its two ways to bind. Both are asked in turns.

    python benchmarks/aer_forms.py [--circuits 1000] [--qubits 10] [--shots 1024] [--rounds 3]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit.library import efficient_su2
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit_aer import AerSimulator

from hybridflow import wire
from hybridflow.backends.aer import AerBackend
from hybridflow.backends.base import Backend
from hybridflow.backends.process import BackendProcess
from hybridflow.records import Batch, JobState, Primitive, Resource

CORES = len(os.sched_getaffinity(0))


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def bound_ansatz(count: int, qubits: int) -> list[QuantumCircuit]:
    """Return circuits of one structure, each with numbers of its own."""
    rng = np.random.default_rng(1)
    ansatz = efficient_su2(qubits, reps=2)
    circuits = [
        ansatz.assign_parameters(rng.uniform(0, 6, ansatz.num_parameters)) for _ in range(count)
    ]
    for circuit in circuits:
        circuit.measure_all()
    return circuits


def all_different(count: int, qubits: int) -> list[QuantumCircuit]:
    """Return circuits of about the same size, no two of one structure."""
    rng = np.random.default_rng(2)
    circuits = []
    for _ in range(count):
        circuit = QuantumCircuit(qubits)
        for _ in range(3):
            for qubit in range(qubits):
                getattr(circuit, str(rng.choice(["rx", "ry", "rz"])))(rng.uniform(0, 6), qubit)
            pairs = rng.permutation(qubits).tolist()
            for control, target in zip(pairs[::2], pairs[1::2], strict=False):
                circuit.cx(control, target)
        circuit.measure_all()
        circuits.append(circuit)
    return circuits


def feed_forward(count: int, qubits: int) -> list[QuantumCircuit]:
    """Return dynamic circuits, which Aer runs shot by shot."""
    rng = np.random.default_rng(3)
    circuits = []
    for _ in range(count):
        circuit = QuantumCircuit(qubits, qubits)
        for qubit in range(qubits):
            circuit.ry(rng.uniform(0, 6), qubit)
        circuit.measure(0, 0)
        with circuit.if_test((circuit.clbits[0], 1)):
            circuit.x(1)
        circuit.measure(range(1, qubits), range(1, qubits))
        circuits.append(circuit)
    return circuits


def packed(
    circuits: Sequence[QuantumCircuit], shots: int, *, values: Any = None, seeded: bool = False
) -> Batch:
    pubs = [SamplerPub.coerce((circuit, values), shots) for circuit in circuits]
    seeds = [number if seeded else None for number in range(len(pubs))]
    return Batch(primitive=Primitive.SAMPLER, pubs=wire.pack_pubs(pubs, seeds))


def ours(backend: Backend, batch: Batch) -> Callable[[], object]:
    def call() -> object:
        wire._load_qpy.cache_clear()  # as if the circuits had never been seen
        job_id = backend.start(batch, tag="benchmark")
        status = backend.status(job_id, wait=600)
        if status.state is not JobState.DONE:
            raise SystemExit(status.message)
        return backend.result(job_id)

    return call


def bare(circuits: Sequence[QuantumCircuit], shots: int, **options: Any) -> Callable[[], object]:
    simulator = AerSimulator(max_parallel_threads=CORES, max_parallel_experiments=CORES)

    def call() -> object:
        return simulator.run(list(circuits), shots=shots, memory=True, **options).result()

    return call


def compare(name: str, rounds: int, peers: Sequence[Callable[[], object]], call: Any) -> None:
    taken = [[seconds(each) for each in (call, *peers)] for _ in range(rounds)]
    mine, *theirs = (statistics.median(column) for column in zip(*taken, strict=True))
    print(f"{name:44} {mine:7.2f} s {min(theirs):7.2f} s {mine / min(theirs):7.2f}", flush=True)


def main() -> None:
    """Print one line a form: ours, hand-tuned Aer, the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("circuits", 1000), ("qubits", 10), ("shots", 1024), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    count, qubits, shots = chosen.circuits, chosen.qubits, chosen.shots
    backend = AerBackend()
    hosted = BackendProcess(Resource(name="hosted", backend="aer"), {})
    for each in (backend, hosted):
        each.acquire()
    print(f"{count} circuits, {qubits} qubits, {shots} shots, {CORES} cores")
    print(f"{'':44} {'ours':>9} {'Aer':>9} {'ratio':>7}")
    same, different = bound_ansatz(count, qubits), all_different(count, qubits)
    few = feed_forward(max(1, count // 20), qubits)
    ansatz = efficient_su2(qubits, reps=2)
    ansatz.measure_all()
    values = np.random.default_rng(4).uniform(0, 6, (count, ansatz.num_parameters))
    binds = [{p: values[:, n].tolist() for n, p in enumerate(ansatz.parameters)}]
    bindings = [
        bare([ansatz], shots, parameter_binds=binds, runtime_parameter_bind_enable=runtime)
        for runtime in (False, True)
    ]
    forms: list[tuple[str, list[Callable[[], object]], Backend, Batch]] = [
        ("one structure", [bare(same, shots)], backend, packed(same, shots)),
        ("one structure, in its own process", [bare(same, shots)], hosted, packed(same, shots)),
        (
            "one structure, every PUB seeded",
            [bare(same, shots)],
            backend,
            packed(same, shots, seeded=True),
        ),
        ("all structures different", [bare(different, shots)], backend, packed(different, shots)),
        (
            "one circuit, as many parameter sets",
            bindings,
            backend,
            packed([ansatz], shots, values=values),
        ),
        ("dynamic circuits (a 20th of them)", [bare(few, shots)], backend, packed(few, shots)),
    ]
    for name, peers, tested, batch in forms:
        compare(name, chosen.rounds, peers, ours(tested, batch))
    for each in (backend, hosted):
        each.release()


if __name__ == "__main__":
    main()

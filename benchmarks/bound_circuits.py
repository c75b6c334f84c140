"""Circuits that were bound before: one PUB of all, against a PUB each, and what that costs.

Requests with one bound circuit each are merged as the broker does it, run on Aer, and cut apart
again; with and without late binding, in turns. The cost is the client's, who tells what circuits
have in common, and is measured against packing a PUB without that. At most a quarter more for
packing, and the merged batch must take less time.

    python benchmarks/bound_circuits.py [--circuits 200] [--shots 100] [--rounds 5]
"""

import argparse
import statistics
import sys
from collections.abc import Sequence

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives.containers.sampler_pub import SamplerPub

from common import seconds, verdict
from hybridflow import wire
from hybridflow.backends.aer import AerBackend
from hybridflow.broker.merging import merge, split
from hybridflow.primitives.structure import skeleton, structure
from hybridflow.records import PackedPub, Primitive, Request

SIZES = ((4, 2), (10, 3), (12, 10))
MOST_COST = 1.25


def ansatz(qubits: int, layers: int) -> QuantumCircuit:
    """Return an ansatz as it stands on a device: rz, sx and cz."""
    angles = ParameterVector("angle", 2 * qubits * layers)
    rest = iter(angles)
    circuit = QuantumCircuit(qubits)
    for _ in range(layers):
        for qubit in range(qubits):
            circuit.rz(next(rest), qubit)
            circuit.sx(qubit)
            circuit.rz(next(rest), qubit)
        for qubit in range(qubits - 1):
            circuit.cz(qubit, qubit + 1)
    circuit.measure_all()
    return circuit


def packed(pubs: Sequence[SamplerPub], *, told: bool = True) -> list[PackedPub]:
    tell = (skeleton,) if told else ()
    return [wire.pack_pubs([pub], [None], structure, *tell)[0] for pub in pubs]


def run(backend: AerBackend, pubs: Sequence[PackedPub], *, late_binding: bool) -> int:
    """Merge, run and cut apart; return the number of bytes that the backend was sent."""
    requests = [
        Request(id=str(number), primitive=Primitive.SAMPLER, pubs=(pub,))
        for number, pub in enumerate(pubs)
    ]
    batch, cuts = merge(requests, [1.0] * len(requests), late_binding=late_binding)
    job_id = backend.start(batch, tag="")
    while not backend.status(job_id, wait=1.0).state.final:
        pass
    assert len(split(cuts, backend.result(job_id))) == len(pubs)
    return sum(len(pub.circuit) + len(pub.parameters or b"") for pub in batch.pubs)


def report(count: int, shots: int, rounds: int) -> bool:
    rng = np.random.default_rng(1)
    backend = AerBackend("aer")
    backend.acquire()
    kept = True
    print(f"{count} bound circuits, {shots} shots    together/each: time   bytes   packing")
    for qubits, layers in SIZES:
        circuit = ansatz(qubits, layers)
        times: dict[bool, list[float]] = {True: [], False: []}
        packing: dict[bool, list[float]] = {True: [], False: []}
        sent = {}
        for number in range(2 * rounds):
            late = bool(number % 2)
            angles = rng.uniform(0, 2 * np.pi, (count, circuit.num_parameters))
            pubs = [SamplerPub.coerce(circuit.assign_parameters(row), shots) for row in angles]
            packing[late].append(seconds(lambda: packed(pubs, told=late)))  # noqa: B023
            ready = packed(pubs)

            def go() -> None:
                sent[late] = run(backend, ready, late_binding=late)  # noqa: B023

            times[late].append(seconds(go))
        ratios = [
            statistics.median(kind[True]) / statistics.median(kind[False])
            for kind in (times, packing)
        ]
        print(
            f"{qubits:3} qubits, {len(circuit.data):4} gates{ratios[0]:26.2f}"
            f"{sent[True] / sent[False]:8.2f}{ratios[1]:10.2f}"
        )
        kept &= ratios[0] < 1 and ratios[1] <= MOST_COST
    backend.release()
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--circuits", type=int, default=200)
    parser.add_argument("--shots", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    return verdict(report(chosen.circuits, chosen.shots, chosen.rounds))


if __name__ == "__main__":
    sys.exit(main())

"""Circuits that were bound before, as one PUB: each gets what it would have got alone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.circuit.library import UnitaryGate
from qiskit.circuit.random import random_circuit
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import wire
from hybridflow.angles import numbers_of, opened
from hybridflow.backends.aer import AerBackend
from hybridflow.broker.core import Broker
from hybridflow.broker.merging import merge, split
from hybridflow.errors import HybridflowError, RequestError
from hybridflow.primitives.request import make_request
from hybridflow.primitives.structure import skeleton, structure
from hybridflow.records import Batch, PackedPub, PackedResult, Primitive, Reply, Request, Resource
from hybridflow.testing import FakeQPU

IN_ANOTHER_PROCESS = """
from test_late_binding import bound, sampled
print(sampled(bound(0.3, 0.4)).skeleton.hex())
"""


def bound(first: float, second: float, *, measure: bool = True) -> QuantumCircuit:
    circuit = QuantumCircuit(2, global_phase=first / 2)  # as a transpiler leaves it
    circuit.rx(first, 0)
    circuit.rz(0.25, 0)
    circuit.ry(second, 1)
    if measure:
        circuit.measure_all()
    return circuit


def sampled(circuit: QuantumCircuit, shots: int = 10, seed: int | None = None) -> PackedPub:
    pub = SamplerPub.coerce(circuit, shots)
    return wire.pack_pubs([pub], [seed], structure, skeleton)[0]


def estimated(circuit: QuantumCircuit, observables: Any) -> PackedPub:
    pub = EstimatorPub.coerce((circuit, observables), 0.0)
    return wire.pack_pubs([pub], [None], structure, skeleton)[0]


def requests(*pubs: PackedPub, primitive: Primitive = Primitive.SAMPLER) -> list[Request]:
    return [Request(id=str(i), primitive=primitive, pubs=(pub,)) for i, pub in enumerate(pubs)]


def merged(asked: list[Request], *, late_binding: bool = True) -> Any:
    return merge(asked, [1.0] * len(asked), late_binding=late_binding)


def run(batch: Batch) -> tuple[PackedResult, ...]:
    return run_on(FakeQPU("fake"), batch)


def run_on(device: Any, batch: Batch) -> tuple[PackedResult, ...]:
    device.acquire()
    try:
        job = device.start(batch, tag="t")
        assert device.status(job, wait=30).state.final
        return device.result(job)
    finally:
        device.release()


def with_delay(seconds: float) -> QuantumCircuit:
    circuit = bound(0.1, 0.2, measure=False)
    circuit.delay(seconds, 0, unit="s")
    circuit.measure_all()
    return circuit


def with_unitary(angle: float) -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    circuit.append(UnitaryGate(turn), [0])
    circuit.measure_all()
    return circuit


def test_the_angles_that_differ_become_parameters() -> None:
    asked = requests(*[sampled(bound(n, 0.5)) for n in (0.1, 0.2, 0.3)])
    batch, _ = merged(asked)
    (pub,) = batch.pubs
    assert pub.angles == (0,)
    assert pub.circuits == 3
    assert wire.array_from_bytes(pub.parameters).tolist() == [[0.1], [0.2], [0.3]]
    circuit = wire.circuit_of(pub)
    assert [item.params for item in circuit.data if item.params] == [
        [circuit.parameters[0]],
        [0.25],
        [0.5],
    ]


def test_samples_come_back_to_whom_they_belong() -> None:
    flips = [(0.0, 0.0), (np.pi, 0.0), (0.0, np.pi), (np.pi, np.pi), (0.0, 0.0)]
    batch, cuts = merged(requests(*[sampled(bound(*angles)) for angles in flips]))
    assert len(batch.pubs) == 1
    expected = ("00", "01", "10", "11", "00")
    for (part,), outcome in zip(split(cuts, run(batch)), expected, strict=True):
        data, metadata = wire.unpack_result(part)
        assert data.meas.get_counts() == {outcome: 10}
        assert metadata["shots"] == 10


def test_what_is_no_angle_stays_as_it_is() -> None:
    def made(angle: float) -> QuantumCircuit:
        circuit = QuantumCircuit(2)
        circuit.append(UnitaryGate([[0, 1], [1, 0]]), [1])
        circuit.barrier()
        circuit.cp(0.5, 0, 1)
        circuit.rx(angle, 0)
        circuit.reset(1)
        circuit.measure_all()
        return circuit

    batch, cuts = merged(requests(sampled(made(0.0)), sampled(made(np.pi))))
    assert [pub.angles for pub in batch.pubs] == [(1,)]
    parts = [wire.unpack_result(part)[0] for (part,) in split(cuts, run_on(AerBackend(), batch))]
    assert [part.meas.get_counts() for part in parts] == [{"00": 10}, {"01": 10}]


@pytest.mark.parametrize("observables", ["ZZ", ["ZZ", "XI", "IY"], [["ZI"], ["IX"]]])
def test_expectation_values_are_those_of_each_alone(observables: Any) -> None:
    rng = np.random.default_rng(1)
    pubs = [estimated(bound(*rng.uniform(0, 6, 2), measure=False), observables) for _ in range(3)]
    asked = requests(*pubs, primitive=Primitive.ESTIMATOR)
    batch, cuts = merged(asked)
    assert len(batch.pubs) == 1
    for (part,), one in zip(split(cuts, run(batch)), asked, strict=True):
        (alone,) = run(merged([one])[0])
        assert part.shape == alone.shape
        mine, theirs = (wire.array_from_bytes(p.arrays["evs"]) for p in (part, alone))
        assert mine == pytest.approx(theirs)


@pytest.mark.parametrize(
    "pubs",
    [
        [sampled(bound(0.1, 0.2)), sampled(bound(0.1, 0.2))],
        [sampled(bound(0.1, 0.2), shots=11), sampled(bound(0.3, 0.4))],
        [sampled(bound(0.1, 0.2), seed=7), sampled(bound(0.3, 0.4), seed=7)],
        [sampled(with_delay(1e-6)), sampled(with_delay(2e-6))],
        [sampled(with_unitary(0.1)), sampled(with_unitary(0.2))],
        [sampled(bound(0.1, 0.2)), sampled(bound(0.1, 0.2).reverse_bits())],
        [
            sampled(bound(0.1, 0.2)),
            msgspec.structs.replace(
                sampled(with_delay(1e-6)), skeleton=sampled(bound(0.1, 0.2)).skeleton
            ),
        ],
    ],
    ids=["same", "shots", "seed", "delay", "unitary", "circuit", "liar"],
)
def test_what_differs_in_more_than_angles_stays_apart(pubs: list[PackedPub]) -> None:
    batch, _ = merged(requests(*pubs))
    assert list(batch.pubs) == pubs


def test_nothing_is_bound_late_where_that_is_not_declared() -> None:
    asked = requests(sampled(bound(0.1, 0.2)), sampled(bound(0.3, 0.4)))
    assert len(merged(asked, late_binding=False)[0].pubs) == 2


def test_a_circuit_with_parameters_has_no_skeleton() -> None:
    circuit = QuantumCircuit(1)
    circuit.rx(Parameter("a"), 0)
    circuit.measure_all()
    assert skeleton(circuit, wire.circuit_to_qpy(circuit)) is None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_numbers_in_the_bytes_are_those_of_the_gates(seed: int) -> None:
    circuit = random_circuit(4, 8, max_operands=3, measure=True, seed=seed)
    written = wire.circuit_to_qpy(circuit)
    numbers = numbers_of(written)
    template, first = opened(wire.circuit_from_qpy(written), tuple(range(len(numbers))))
    assert first == tuple(numbers)
    assert template.num_parameters == len(numbers)
    assert template.assign_parameters(list(first)) == circuit


def test_values_that_are_not_the_circuits_are_refused() -> None:
    (pub,) = merged(requests(sampled(bound(0.1, 0.2)), sampled(bound(0.3, 0.4))))[0].pubs
    for wrong in ({"angles": (0, 1)}, {"angles": (0, 7)}):
        with pytest.raises(RequestError, match=r"angles|numbers"):
            wire.unpack_pub(msgspec.structs.replace(pub, **wrong), Primitive.SAMPLER)


def test_a_skeleton_is_the_same_in_every_process() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    mine = sampled(bound(0.1, 0.2)).skeleton
    assert mine is not None
    assert ran.stdout.strip() == mine.hex()


def test_tasks_with_bound_circuits_share_a_pub() -> None:
    device = FakeQPU("fake")
    broker = Broker(Resource(name="fake", backend="fake"), device)
    found: list[Reply | HybridflowError] = []
    for angle in (0.0, np.pi, 0.0, np.pi):
        pub = SamplerPub.coerce(bound(angle, np.pi), 20)
        asked = make_request(Primitive.SAMPLER, [pub], None, {}, late_binding=True)
        broker.submit(asked, found.append)
    broker.start()
    broker.drain(20)
    assert broker.join(30)
    assert [len(batch.pubs) for batch in device.batches] == [1]
    counts = [wire.unpack_result(reply.results[0])[0].meas.get_counts() for reply in found]
    assert counts == [{"10": 20}, {"11": 20}, {"10": 20}, {"11": 20}]

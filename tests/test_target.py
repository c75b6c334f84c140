"""Targets as data: what a snapshot keeps, and that transpiling for it is the same."""

import math

import pytest
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Gate, Parameter
from qiskit.circuit.library import RXGate, RZGate
from qiskit.transpiler import InstructionProperties, Target
from qiskit_aer import AerSimulator
from qiskit_ibm_runtime.fake_provider import FakeManilaV2, FakeTorino

from hybridflow import wire
from hybridflow.records import TargetSnapshot
from hybridflow.targets import snapshot_of, target_of

TARGETS = {
    "aer": lambda: AerSimulator().target,
    "torino": lambda: FakeTorino().target,
    "manila": lambda: FakeManilaV2().target,
}


def ghz(num_qubits: int) -> QuantumCircuit:
    circuit = QuantumCircuit(num_qubits)
    circuit.h(0)
    for qubit in range(1, num_qubits):
        circuit.cx(0, qubit)
    circuit.rx(0.3, 0)
    circuit.measure_all()
    return circuit


@pytest.mark.parametrize("name", TARGETS)
def test_a_snapshot_survives_the_way_there_and_back(name: str) -> None:
    snapshot = snapshot_of(TARGETS[name](), calibration="today")
    again = snapshot_of(target_of(snapshot), calibration="today")
    assert again == snapshot
    assert wire.decode(wire.encode(snapshot), TargetSnapshot) == snapshot


@pytest.mark.parametrize("name", TARGETS)
def test_names_qubits_durations_and_errors_are_kept(name: str) -> None:
    original = TARGETS[name]()
    copy = target_of(snapshot_of(original))
    assert set(copy.operation_names) == set(original.operation_names)
    assert (copy.num_qubits, copy.dt) == (original.num_qubits, original.dt)
    for operation in original.operation_names:
        if None in original[operation]:
            assert None in copy[operation]
            continue
        assert set(copy[operation]) == set(original[operation])
        for qubits, place in original[operation].items():
            if place is not None:
                kept = copy[operation][qubits]
                assert (kept.duration, kept.error) == (place.duration, place.error)


@pytest.mark.parametrize("name", ["torino", "manila"])
def test_transpiling_for_the_snapshot_is_transpiling_for_the_device(name: str) -> None:
    original = TARGETS[name]()
    copy = target_of(snapshot_of(original))
    circuit = ghz(5)
    here = transpile(circuit, target=copy, seed_transpiler=5)
    assert all(
        original.instruction_supported(
            item.operation.name, tuple(here.find_bit(qubit).index for qubit in item.qubits)
        )
        for item in here.data
        if item.operation.name != "barrier"
    )
    there = transpile(circuit, target=original, seed_transpiler=5)
    assert here.layout.final_index_layout() == there.layout.final_index_layout()
    assert here == there


def test_fixed_parameters_unknown_gates_and_no_bound_are_kept() -> None:
    target = Target()
    target.add_instruction(RXGate(math.pi / 2), name="rx_half")
    target.add_instruction(RZGate(Parameter("angle")))
    target.add_instruction(Gate("zap", 2, [Parameter("a"), 0.5]))
    snapshot = snapshot_of(target)
    assert snapshot.num_qubits is None
    copy = target_of(snapshot)
    half = copy.operation_from_name("rx_half")
    assert isinstance(half, RXGate)
    assert half.params == [math.pi / 2]
    zap = copy.operation_from_name("zap")
    assert (zap.num_qubits, zap.params[1]) == (2, 0.5)
    assert str(copy.operation_from_name("rz").params[0]) == "angle"
    assert snapshot_of(copy) == snapshot


def test_an_opaque_gate_keeps_its_places() -> None:
    target = Target(num_qubits=3)
    target.add_instruction(Gate("zap", 2, []), {(0, 2): InstructionProperties(1e-7, 0.1)})
    copy = target_of(snapshot_of(target))
    place = copy["zap"][(0, 2)]
    assert (place.duration, place.error) == (1e-7, 0.1)
    assert not copy.instruction_supported("zap", (2, 0))

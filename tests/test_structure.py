"""The structure of circuits: equal in every process, and only where the circuits do the same."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, transpile
from qiskit.circuit import Parameter, ParameterVector
from qiskit.circuit.library import UnitaryGate, efficient_su2
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.providers.fake_provider import GenericBackendV2

from hybridflow import wire
from hybridflow.primitives import structure as module
from hybridflow.primitives.structure import structure
from hybridflow.records import PackedPub

IN_ANOTHER_PROCESS = """
from test_structure import structures
print(*(found.hex() for found in structures()))
"""


def packed(circuit: QuantumCircuit) -> PackedPub:
    pub = SamplerPub.coerce((circuit, _values(circuit)), 10)
    return wire.pack_pubs([pub], [None], structure)[0]


def told(circuit: QuantumCircuit) -> bytes | None:
    return packed(circuit).structure


def _values(circuit: QuantumCircuit) -> Any:
    return np.zeros(circuit.num_parameters) if circuit.num_parameters else None


def ansatz() -> QuantumCircuit:
    circuit = efficient_su2(4, reps=2)
    circuit.measure_all()
    return circuit


def on_a_device() -> QuantumCircuit:
    device = GenericBackendV2(6, coupling_map=[[n, (n + 1) % 6] for n in range(6)], seed=1)
    return transpile(ansatz(), device, seed_transpiler=0)


def mixed() -> QuantumCircuit:
    circuit = QuantumCircuit(1, 1)
    total = sum((Parameter(name) * 2 for name in "bcdefg"), Parameter("a") * 3)
    circuit.rx(total, 0)
    circuit.measure(0, 0)
    return circuit


def custom(angle: float = 0.1) -> QuantumCircuit:
    inner = QuantumCircuit(1, name="mine")
    inner.rx(angle, 0)
    circuit = QuantumCircuit(1, 1)
    circuit.append(inner.to_gate(), [0])
    circuit.measure(0, 0)
    return circuit


def structures() -> list[bytes]:
    bound = on_a_device()
    bound = bound.assign_parameters(np.linspace(0, 1, bound.num_parameters))
    found = [told(circuit) for circuit in (ansatz(), on_a_device(), bound, mixed(), custom())]
    assert None not in found
    return [part for part in found if part is not None]


def test_the_structure_is_the_same_in_every_process() -> None:
    here = [found.hex() for found in structures()]
    assert len(set(here)) == len(here)
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.split() == here


def with_angle(angle: Any) -> QuantumCircuit:
    circuit = QuantumCircuit(1, 1)
    circuit.rx(angle, 0)
    circuit.measure(0, 0)
    return circuit


def with_register(name: str) -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    circuit.add_register(ClassicalRegister(1, name))
    circuit.measure(0, 0)
    return circuit


def with_unitary(matrix: Any) -> QuantumCircuit:
    circuit = QuantumCircuit(1, 1)
    circuit.append(UnitaryGate(matrix), [0])
    circuit.measure(0, 0)
    return circuit


def in_order(names: list[Any]) -> QuantumCircuit:
    circuit = QuantumCircuit(1, 1)
    for parameter in names:
        circuit.rx(parameter, 0)
    circuit.measure(0, 0)
    return circuit


DIFFERENT: list[Callable[[], QuantumCircuit]] = [
    lambda: with_angle(0.1),
    lambda: with_angle(0.1 + 1e-16),
    lambda: with_angle(Parameter("a")),
    lambda: with_angle(Parameter("b")),
    lambda: with_angle(2 * Parameter("a")),
    lambda: with_angle(Parameter("a") + Parameter("b")),
    lambda: with_angle(Parameter("a") - Parameter("b")),
    lambda: with_register("mine"),
    lambda: with_register("yours"),
    lambda: with_unitary(np.eye(2)),
    lambda: with_unitary(np.diag([1, -1])),
    lambda: custom(0.1),
    lambda: custom(0.2),
    # The same names; a vector's elements come by number, others by name: [2] or [10] first.
    lambda: in_order(list(ParameterVector("v", 11))),
    lambda: in_order([Parameter(f"v[{number}]") for number in range(11)]),
    lambda: in_order([sum(ParameterVector("v", 11))]),
    lambda: in_order([sum(Parameter(f"v[{number}]") for number in range(11))]),
]


def test_different_circuits_differ_and_equal_ones_do_not() -> None:
    found = [told(build()) for build in DIFFERENT]
    assert None not in found
    assert len(set(found)) == len(DIFFERENT)
    assert [told(build()) for build in DIFFERENT] == found


def test_name_and_metadata_do_not_count_and_metadata_stays_here() -> None:
    mine, yours = ansatz(), ansatz()
    mine.name, mine.metadata = "mine", {"for": "my eyes only"}
    yours.name = "another, and longer"
    assert told(mine) == told(yours)
    sent = packed(mine).circuit
    assert b"my eyes" not in sent
    assert wire.circuit_from_qpy(sent).name == "mine"
    assert mine.metadata == {"for": "my eyes only"}


def test_a_layout_stays_here() -> None:
    circuit = on_a_device()
    assert told(circuit) is not None
    assert circuit.layout is not None


def test_what_cannot_be_told_has_no_structure() -> None:
    circuit = QuantumCircuit(1, 1)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.x(0)
    circuit.measure(0, 0)
    assert told(circuit) is None


def test_qpy_of_an_unknown_form_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = told(with_angle(0.5))
    monkeypatch.setattr(module, "_VERSIONS", range(0))
    module._kept.cache_clear()
    slow = told(with_angle(0.5))
    assert slow is not None
    assert slow != usual
    module._kept.cache_clear()

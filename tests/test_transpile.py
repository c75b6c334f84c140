"""Transpiling without a slot, its cache on disk, and the digest that the cache rests on."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Clbit, Parameter, ParameterVector, Qubit
from qiskit.circuit.library import (
    PauliEvolutionGate,
    UnitaryGate,
    XGate,
    efficient_su2,
)
from qiskit.quantum_info import Clifford, Operator, SparsePauliOp
from qiskit.transpiler import Target

import hybridflow as hf
from hybridflow import environment
from hybridflow.errors import CircuitError, InputError, SiteError, TooLargeError
from hybridflow.primitives import transpiler
from hybridflow.primitives.cache import DiskCache
from hybridflow.primitives.digest import circuit_digest
from hybridflow.primitives.isa import is_isa

SITE = """
[qpu.line]
backend = "fake"
num_qubits = 5
basis_gates = ["rz", "sx", "x", "cz"]
coupling = [[0, 1], [1, 2], [2, 3], [3, 4]]

[qpu.pair]
backend = "fake"
num_qubits = 2
basis_gates = ["rz", "sx", "x", "cx"]
coupling = [[0, 1]]
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hybridflow" / "transpiled"


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    monkeypatch.setenv(environment.SITE, str(file))
    return file


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the circuits that were really transpiled."""
    names: list[str] = []
    original = transpiler.Transpiler._transpiled

    def counted(self: transpiler.Transpiler, circuit: QuantumCircuit) -> QuantumCircuit:
        names.append(circuit.name)
        return original(self, circuit)

    monkeypatch.setattr(transpiler.Transpiler, "_transpiled", counted)
    return names


def ring(name: str = "ring") -> QuantumCircuit:
    circuit = QuantumCircuit(4, name=name, metadata={"of": name})
    a, b = Parameter("a"), Parameter("b")
    for qubit in range(4):
        circuit.rx(a * (qubit + 1), qubit)
        circuit.cx(qubit, (qubit + 1) % 4)
    circuit.ry(2 * b - a, 0)
    return circuit


def same_unitary(made: QuantumCircuit, original: QuantumCircuit, values: dict[str, float]) -> bool:
    one = Operator.from_circuit(made.assign_parameters(values))
    wide = QuantumCircuit(made.num_qubits)
    wide.compose(original.assign_parameters(values), range(original.num_qubits), inplace=True)
    # from_circuit undoes the layout; what is left over are idle qubits.
    return bool(one.equiv(Operator(wide)))


# --- what transpile() gives ----------------------------------------------------------------------


def test_target_is_qiskits() -> None:
    line = hf.target()
    assert isinstance(line, Target)
    assert line.num_qubits == 5
    assert line.instruction_supported("cz", (1, 0))
    assert not line.instruction_supported("cz", (0, 2))
    assert hf.target("pair").num_qubits == 2


def test_a_transpiled_circuit_is_isa_and_does_the_same(compilations: list[str]) -> None:
    original = ring()
    for _ in range(2):  # anew, and from the cache
        made = hf.transpile(original)
        assert is_isa(made, hf.target())
        assert same_unitary(made, original, {"a": 0.3, "b": 1.1})
        assert made.layout is not None
        assert made.layout.final_index_layout() is not None
    assert compilations == ["ring"]


def test_a_list_gives_a_list(compilations: list[str]) -> None:
    made = hf.transpile([ring("one"), ring("two")], "line")
    assert [circuit.name for circuit in made] == ["one", "two"]
    assert [circuit.metadata for circuit in made] == [{"of": "one"}, {"of": "two"}]
    assert compilations == ["one"]


def test_what_comes_from_the_cache_has_the_callers_own_parameters(compilations: list[str]) -> None:
    hf.transpile(ring())
    original = ring()  # equal names, new identities
    made = hf.transpile(original)
    assert compilations == ["ring"]
    bound = made.assign_parameters({parameter: 0.5 for parameter in original.parameters})
    assert bound.num_parameters == 0


def test_vectors_of_parameters_keep_their_order(compilations: list[str]) -> None:
    def circuit() -> QuantumCircuit:
        made = QuantumCircuit(2)
        for number, element in enumerate(ParameterVector("v", 12)):
            made.ry(element, number % 2)
            made.cx(0, 1)
        return made

    hf.transpile(circuit())
    original = circuit()
    made = hf.transpile(original)
    assert len(compilations) == 1
    assert list(made.parameters) == list(original.parameters)


def test_one_cannot_spoil_what_another_gets() -> None:
    original = ring()
    first = hf.transpile(original)
    stored = hf.transpile(original)
    assert stored == first
    stored.data.clear()
    assert hf.transpile(original) == first


@pytest.mark.parametrize(
    "changed",
    [
        {"resource": "line", "optimization_level": 0},
        {"resource": "line", "seed": 5},
        {"resource": "line", "initial_layout": [3, 2, 1, 0]},
    ],
    ids=["level", "seed", "layout"],
)
def test_another_call_is_another_entry(compilations: list[str], changed: dict[str, Any]) -> None:
    hf.transpile(ring(), "line")
    hf.transpile(ring(), **changed)
    assert len(compilations) == 2
    hf.transpile(ring(), **changed)
    assert len(compilations) == 2


def test_another_target_is_another_entry(compilations: list[str], site: Path) -> None:
    circuit = QuantumCircuit(2)
    circuit.cx(0, 1)
    hf.transpile(circuit, "line")
    hf.transpile(circuit, "pair")
    site.write_text(SITE.replace('"cz"', '"ecr"'))
    assert "ecr" in hf.transpile(circuit, "line", initial_layout=[0, 1]).count_ops()
    assert len(compilations) == 3


def test_without_a_seed_nothing_is_cached(compilations: list[str], cache: Path) -> None:
    hf.transpile(ring(), seed=None)
    hf.transpile(ring(), seed=None)
    assert len(compilations) == 2
    assert not cache.exists()


def test_control_flow_is_transpiled_and_not_cached(compilations: list[str]) -> None:
    circuit = QuantumCircuit(2, 1)
    circuit.h(0)
    circuit.measure(0, 0)
    # The fake device has no branches: this is what an error of Qiskit's looks like.
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.x(1)
    for _ in range(2):
        with pytest.raises(CircuitError, match="cannot be transpiled for resource 'line'"):
            hf.transpile(circuit)
    assert len(compilations) == 2


def test_wrong_calls() -> None:
    with pytest.raises(TooLargeError, match=r"'wide' has 6 qubits; resource 'line' has 5"):
        hf.transpile(QuantumCircuit(6, name="wide"))
    with pytest.raises(InputError, match=r"no option 'levle'; allowed are: optimization_level"):
        hf.transpile(ring(), levle=3)
    with pytest.raises(InputError, match="option of transpile"):
        hf.transpile(ring(), optimization_level=7)
    with pytest.raises(InputError, match="option of transpile"):
        hf.transpile(ring(), routing_method="astrology")
    with pytest.raises(SiteError, match="'moon'"):
        hf.transpile(ring(), "moon")


def test_the_built_in_site_needs_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.SITE)
    made = hf.transpile(ring())
    assert is_isa(made, hf.target())


def test_inside_a_slot_the_broker_describes_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    from desk import Desk

    from hybridflow import slot
    from hybridflow.testing.fake_qpu import FakeOptions

    desk = Desk(FakeOptions(num_qubits=3))
    here = slot.Slot(resource="desk", backend="fake", origin=slot.Origin.SITE, folder="/nowhere")
    monkeypatch.setattr(slot, "current_slot", lambda: here)
    monkeypatch.setattr(slot, "connect", lambda resource=None: desk)
    assert hf.target().num_qubits == 3
    assert hf.target("line").num_qubits == 5  # another resource than the slot's: the site's
    desk.close()


# --- the cache on disk ---------------------------------------------------------------------------


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_damaged_entry_is_ignored_and_written_anew(compilations: list[str], cache: Path) -> None:
    original = ring()
    good = hf.transpile(original)
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1] + bytes([whole[-1] ^ 1]), b"x" * 4096):
        entry.write_bytes(damaged)
        assert hf.transpile(original) == good
        assert entry.read_bytes() != damaged
    assert len(compilations) == 5
    assert hf.transpile(original) == good
    assert len(compilations) == 5


def test_entries_are_private(cache: Path) -> None:
    hf.transpile(ring())
    assert cache.stat().st_mode & 0o777 == 0o700
    assert all(entry.stat().st_mode & 0o077 == 0 for entry in entries(cache))


def test_names_and_metadata_stay_out_of_the_cache(cache: Path) -> None:
    hf.transpile(ring("a-secret-name"))
    assert b"a-secret-name" not in entries(cache)[0].read_bytes()


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    compilations: list[str], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file stands where the folder should be")
    assert is_isa(hf.transpile(ring()), hf.target())
    assert is_isa(hf.transpile(ring()), hf.target())
    assert len(compilations) == 2
    assert "cannot be written" in caplog.text


def test_the_cache_forgets_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "small", max_bytes=3000)
    for number, key in enumerate("abc"):
        cache.put(key, bytes(900))
        past = time.time() - 100 + number
        os.utime(tmp_path / "small" / key, (past, past))
    assert cache.get("a") == bytes(900)  # used: now the youngest
    cache.put("d", bytes(900))
    assert [cache.get(key) is not None for key in "abcd"] == [True, False, True, True]
    assert not list((tmp_path / "small").glob(".new-*"))


def test_many_writers_of_one_entry(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "shared", max_bytes=20_000)
    seen: list[bytes | None] = []

    def work(number: int) -> None:
        for turn in range(30):
            cache.put(f"key-{turn % 3}", bytes([turn % 3]) * 5000)
            seen.append(cache.get(f"key-{turn % 3}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {found for found in seen if found is not None} <= {bytes([n]) * 5000 for n in range(3)}
    assert len(seen) == 120


# --- the digest ----------------------------------------------------------------------------------

DIGEST = """
from qiskit.circuit.library import efficient_su2
from hybridflow.primitives.digest import circuit_digest
circuit = efficient_su2(3, reps=2)
circuit.measure_all()
print(circuit_digest(circuit).hex())
"""


def test_the_digest_is_the_same_in_every_process() -> None:
    circuit = efficient_su2(3, reps=2)
    circuit.measure_all()
    here = circuit_digest(circuit)
    assert here is not None
    runs = [
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert runs == [here.hex()] * 2


def one(build: Any) -> QuantumCircuit:
    circuit = QuantumCircuit(2, 2)
    build(circuit)
    return circuit


def custom(angle: float) -> Any:
    inner = QuantumCircuit(1, name="mine")
    inner.rx(angle, 0)
    return inner.to_gate()


def evolution(pauli: str) -> Any:
    return PauliEvolutionGate(SparsePauliOp(pauli), time=0.3)


A = Parameter("a")
DIFFERENT = [
    lambda c: None,
    lambda c: c.x(0),
    lambda c: c.x(1),
    lambda c: c.cx(0, 1),
    lambda c: c.cx(1, 0),
    lambda c: c.append(XGate().control(1, ctrl_state=0), [0, 1]),
    lambda c: c.append(XGate(label="slow"), [0]),
    lambda c: c.rx(0.1, 0),
    lambda c: c.rx(0.1 + 1e-16, 0),
    lambda c: c.rx(1, 0),
    lambda c: c.rx(A, 0),
    lambda c: c.rx(Parameter("b"), 0),
    lambda c: c.rx(2 * A, 0),
    lambda c: c.rx(2.0000000000000004 * A, 0),
    lambda c: c.rx(A + 1e-9, 0),
    lambda c: c.rx(A.sin(), 0),
    lambda c: c.measure(0, 0),
    lambda c: c.measure(0, 1),
    lambda c: c.barrier(0),
    lambda c: c.barrier(0, 1),
    lambda c: c.delay(100, 0, "ns"),
    lambda c: c.delay(100, 0, "dt"),
    lambda c: c.append(UnitaryGate(np.eye(2)), [0]),
    lambda c: c.append(UnitaryGate(np.diag([1, -1])), [0]),
    lambda c: c.append(custom(0.1), [0]),
    lambda c: c.append(custom(0.2), [0]),
    lambda c: c.append(evolution("XX"), [0, 1]),
    lambda c: c.append(evolution("ZZ"), [0, 1]),
    lambda c: setattr(c, "global_phase", 0.1),
    lambda c: c.add_register(ClassicalRegister(1, "more")),
    lambda c: c.add_register(QuantumRegister(1, "more")),
    lambda c: c.add_bits([Qubit()]),
    lambda c: c.add_bits([Clbit()]),
    lambda c: (c.x(0), c.z(0)),
    lambda c: (c.z(0), c.x(0)),
]


def test_different_circuits_have_different_digests() -> None:
    digests = [circuit_digest(one(build)) for build in DIFFERENT]
    assert None not in digests
    assert len(set(digests)) == len(DIFFERENT)


def test_equal_circuits_have_equal_digests() -> None:
    again = [circuit_digest(one(build)) for build in DIFFERENT]
    assert again == [circuit_digest(one(build)) for build in DIFFERENT]
    assert circuit_digest(ring("x")) == circuit_digest(ring("y"))


def branching() -> QuantumCircuit:
    circuit = QuantumCircuit(1, 1)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.x(0)
    return circuit


def variable() -> QuantumCircuit:
    from qiskit.circuit.classical import types

    circuit = QuantumCircuit(1)
    circuit.add_input("flag", types.Bool())
    return circuit


def opaque() -> QuantumCircuit:
    from qiskit.circuit import Gate

    return one(lambda c: c.append(Gate("opaque", 1, []), [0]))


@pytest.mark.parametrize(
    "circuit",
    [
        branching(),
        variable(),
        opaque(),
        one(lambda c: c.append(Clifford(XGate()), [0])),
    ],
    ids=["control flow", "variables", "opaque", "no instruction"],
)
def test_what_cannot_be_told_exactly_has_no_digest(circuit: QuantumCircuit) -> None:
    assert circuit_digest(circuit) is None

"""What a circuit is, seen once: static or dynamic, which qubits matter, what is written where.

A circuit is *static* if nothing but unitary gates happens before its measurements. Its outcomes
are then drawn from the probabilities of one state, however many shots, seeds and PUBs there are;
anything else is run shot by shot by Aer. The numbers in a static circuit's gates are told apart
from its *structure*, so that circuits that differ in nothing else are simulated as one.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction, Parameter
from qiskit.circuit.library import get_standard_gate_name_mapping

__all__ = ["Plan", "Register", "make_plan"]

_INVISIBLE = frozenset({"barrier", "delay", "global_phase"})
_UNITARY = (
    frozenset(get_standard_gate_name_mapping())
    | {"unitary", "diagonal", "pauli", "multiplexer", "mcx", "mcp", "mcphase", "mcx_gray"}
) - {"measure", "reset", "delay", "global_phase"}
_CLIFFORD = frozenset(
    {"id", "x", "y", "z", "h", "s", "sdg", "sx", "sxdg", "cx", "cy", "cz", "swap", "ecr", "pauli"}
    | {"measure", "reset", *_INVISIBLE}
)


@dataclass(frozen=True)
class Register:
    """A classical register: its name, and the indices of its bits in the circuit."""

    name: str
    bits: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A circuit, looked at.

    Attributes
    ----------
    circuit
        The circuit; shared, not to be changed.
    active
        Indices of the qubits that anything acts on; in the same order, the qubits of :meth:`bare`.
    static
        Whether nothing but unitary gates comes before the measurements.
    clifford
        Whether a stabilizer simulation can run it.
    sources
        For each classical bit the index (in the circuit) of the qubit whose measurement it holds,
        if the circuit is static; None for a bit that no measurement writes.
    written
        Indices of the classical bits that a measurement may write.
    structure
        What two static circuits have in common that differ in numbers only; None if the circuit
        cannot be told apart into structure and numbers.
    numbers
        Those numbers, in the order of the gates.
    """

    circuit: QuantumCircuit
    active: tuple[int, ...]
    static: bool
    clifford: bool
    sources: tuple[int | None, ...]
    written: tuple[int, ...]
    structure: Hashable | None
    numbers: tuple[float, ...]

    @property
    def name(self) -> str:
        """The circuit's name."""
        return str(self.circuit.name)

    @property
    def num_active(self) -> int:
        """Number of qubits that anything acts on."""
        return len(self.active)

    @cached_property
    def registers(self) -> tuple[Register, ...]:
        """The circuit's classical registers, which may share bits."""
        circuit = self.circuit
        return tuple(
            Register(register.name, tuple(circuit.find_bit(bit).index for bit in register))
            for register in circuit.cregs
        )

    @cached_property
    def outcome_qubits(self) -> tuple[int, ...]:
        """The measured qubits (places in `active`), in the order of the bits that hold them."""
        place = {qubit: number for number, qubit in enumerate(self.active)}
        measured = dict.fromkeys(qubit for qubit in self.sources if qubit is not None)
        return tuple(place[qubit] for qubit in measured)

    @cached_property
    def outcome_places(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """For each classical bit its place in an outcome of the measured qubits; -1: none."""
        measured = dict.fromkeys(qubit for qubit in self.sources if qubit is not None)
        place: dict[int | None, int] = {qubit: number for number, qubit in enumerate(measured)}
        return np.array([place.get(qubit, -1) for qubit in self.sources], dtype=np.int64)

    @cached_property
    def outcome_is_memory(self) -> bool:
        """Whether an outcome's bits are the classical bits, one for one and in order."""
        return bool(np.array_equal(self.outcome_places, np.arange(self.circuit.num_clbits)))

    def bare(self, parameters: Sequence[Parameter] | None = None) -> QuantumCircuit:
        """Return the gates alone, on the active qubits; only for a static circuit.

        Parameters
        ----------
        parameters
            To stand in the places of :attr:`numbers`.
        """
        qubits = [self.circuit.qubits[index] for index in self.active]
        gates = [item for item in self.circuit.data if item.name in _UNITARY_OR_INITIALIZE]
        if parameters is not None:
            rest = iter(parameters)
            gates = [_with_parameters(item, rest) for item in gates]
        return QuantumCircuit.from_instructions(gates, qubits=qubits, name=self.circuit.name)


_UNITARY_OR_INITIALIZE = _UNITARY | {"initialize"}


def _with_parameters(item: CircuitInstruction, parameters: Any) -> CircuitInstruction:
    if not item.params:
        return item
    operation = item.operation.copy()
    operation.params = [next(parameters) for _ in item.params]
    return item.replace(operation=operation)


class _Walk:
    """One pass over a circuit's instructions."""

    def __init__(self, circuit: QuantumCircuit) -> None:
        self.index = {bit: number for number, bit in enumerate(circuit.qubits)}
        self.clbit_index = {bit: number for number, bit in enumerate(circuit.clbits)}
        self.static = True
        self.clifford = True
        self.touched: set[int] = set()
        self.measured: set[int] = set()
        self.sources: dict[int, int] = {}
        self.written: set[int] = set()
        self.structure: list[tuple[str, tuple[int, ...]]] = []
        self.numbers: list[float] = []
        self.numeric = True
        for item in circuit.data:
            self._look(item)

    def _look(self, item: CircuitInstruction) -> None:
        name = item.name
        if name in _INVISIBLE:
            return
        qubits = tuple([self.index[qubit] for qubit in item.qubits])
        if name == "measure":
            self._measure(qubits[0], self.clbit_index[item.clbits[0]])
            return
        if not self.measured.isdisjoint(qubits):
            self.static = False
        if name == "reset" and self.touched.isdisjoint(qubits):
            return  # a qubit starts in zero
        if name in _UNITARY:
            self._gate(name, qubits, item.params)
        elif name == "initialize" and self.touched.isdisjoint(qubits):
            self.numeric = self.clifford = False
        else:
            self.static = False
            self.clifford = self.clifford and name in _CLIFFORD
            # Control flow: whatever it may write is written.
            self.written.update(self.clbit_index[bit] for bit in _measured_bits(item))
        self.touched.update(qubits)

    def _gate(self, name: str, qubits: tuple[int, ...], params: Sequence[Any]) -> None:
        if name not in _CLIFFORD:
            self.clifford = False
        self.structure.append((name, qubits))
        for value in params:
            if type(value) is float or type(value) is int:
                self.numbers.append(value)
            else:
                self.numeric = False

    def _measure(self, qubit: int, bit: int) -> None:
        self.touched.add(qubit)
        self.measured.add(qubit)
        self.sources[bit] = qubit
        self.written.add(bit)


def _measured_bits(item: CircuitInstruction) -> set[Any]:
    found: set[Any] = set()
    for block in getattr(item.operation, "blocks", ()):
        outer = dict(zip(block.clbits, item.clbits, strict=False))
        for inner in block.data:
            bits = inner.clbits if inner.name == "measure" else _measured_bits(inner)
            found.update(outer[bit] for bit in bits if bit in outer)
    return found


def make_plan(circuit: QuantumCircuit) -> Plan:
    """Look at a circuit."""
    walk = _Walk(circuit)
    sources = tuple(walk.sources.get(bit) for bit in range(circuit.num_clbits))
    numeric = walk.static and walk.numeric and not circuit.num_parameters
    active = tuple(sorted(walk.touched))
    return Plan(
        circuit=circuit,
        active=active,
        static=walk.static,
        clifford=walk.clifford,
        sources=sources,
        written=tuple(sorted(walk.written)),
        structure=(active, sources, tuple(walk.structure)) if numeric else None,
        numbers=tuple(walk.numbers) if numeric else (),
    )

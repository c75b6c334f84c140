"""A circuit's structure as a digest that is the same in every process.

QPY bytes will not do: they hold a random identity for each parameter. Here a parameter is its name.
What cannot be told exactly (control flow, classical variables, operations without a definition) has
no digest: better not to cache than to hand out somebody else's circuit.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import (
    Barrier,
    Delay,
    Instruction,
    Measure,
    Parameter,
    ParameterExpression,
    Reset,
)
from qiskit.circuit.library import UnitaryGate

__all__ = ["circuit_digest"]

_EXACT = (Barrier, Delay, Measure, Reset, UnitaryGate)  # told by their parameters alone
_STANDARD_GATES = "qiskit.circuit.library.standard_gates."
_PROBES = 2


class _Unknown(Exception):
    """The circuit holds something that this module cannot tell exactly."""


def circuit_digest(circuit: QuantumCircuit, *, layout: bool = True) -> bytes | None:
    """Return the digest of a circuit's instructions, registers and global phase.

    Name and metadata of the circuit do not count. None if the circuit cannot be told exactly; one
    that has been transpiled for a device cannot, unless its `layout` does not count either.
    """
    digest = hashlib.blake2b(digest_size=32)
    if layout and circuit.layout is not None:
        return None
    try:
        for part in _circuit_parts(circuit):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    except _Unknown:
        return None
    return digest.digest()


def _circuit_parts(circuit: QuantumCircuit) -> Iterator[bytes]:
    if circuit.num_identifiers:
        raise _Unknown
    yield from _text(circuit.num_qubits, circuit.num_clbits)
    for register in (*circuit.qregs, *circuit.cregs):
        places = [circuit.find_bit(bit).index for bit in register]
        yield from _text(type(register).__name__, register.name, places)
    yield from _value_parts(circuit.global_phase)
    for instruction in circuit.data:
        yield from _text(
            [circuit.find_bit(bit).index for bit in instruction.qubits],
            [circuit.find_bit(bit).index for bit in instruction.clbits],
        )
        yield from _operation_parts(instruction.operation)


def _operation_parts(operation: Any) -> Iterator[bytes]:
    if not isinstance(operation, Instruction):
        raise _Unknown
    kind = operation.base_class
    yield from _text(
        kind.__module__,
        kind.__qualname__,
        operation.name,
        operation.label,
        getattr(operation, "unit", None),
        getattr(operation, "ctrl_state", None),
        operation.num_qubits,
        operation.num_clbits,
    )
    for value in operation.params:
        yield from _value_parts(value)
    if kind not in _EXACT and not kind.__module__.startswith(_STANDARD_GATES):
        # Other operations may hold more than their parameters (an operator, say): what they do is
        # told by what they are made of.
        if operation.definition is None:
            raise _Unknown
        yield b"definition"
        yield from _circuit_parts(operation.definition)


def _value_parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Parameter):
        yield from _text("parameter", value.name)
    elif isinstance(value, ParameterExpression):
        yield from _expression_parts(value)
    elif isinstance(value, int | float | complex | str | np.number):
        yield from _text(type(value).__name__, value)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield from _text(value.dtype.str, value.shape)
        yield value.tobytes()
    else:
        raise _Unknown


def _expression_parts(expression: ParameterExpression) -> Iterator[bytes]:
    # The text of an expression rounds its numbers, so its value at some points is added.
    names = sorted(parameter.name for parameter in expression.parameters)
    yield from _text("expression", names, str(expression))
    for probe in range(_PROBES):
        values = {parameter: _point(parameter.name, probe) for parameter in expression.parameters}
        yield from _text(complex(expression.bind(values)))


def _point(name: str, probe: int) -> float:
    word = hashlib.blake2b(f"{probe} {name}".encode(), digest_size=6).digest()
    return 0.1 + int.from_bytes(word, "little") / 2**48


def _text(*values: object) -> Iterator[bytes]:
    for value in values:
        yield repr(value).encode()

"""The numbers in a circuit's gates: found in its QPY, and opened to be parameters.

A broker makes one PUB of circuits that differ in those numbers only, without opening any circuit:
it takes them from the bytes. The backend opens the circuit of the first, and puts parameters there.
"""

import re
from typing import TYPE_CHECKING, Any

from hybridflow.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    from qiskit import QuantumCircuit

    Floats = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["numbers_of", "opened", "without_numbers"]

_NUMBER = re.compile(rb"f\0{7}\x08(.{8})", re.DOTALL)  # its type, the length of what follows
_VERSION_AT = 6
_BIG_ENDIAN_SINCE = 18


def without_numbers(qpy: bytes) -> bytes:
    """Return the bytes of a circuit, or of the part of one, without its gates' numbers."""
    return _NUMBER.sub(b"", qpy)


def numbers_of(qpy: bytes) -> "Floats":
    """Return the numbers in the gates of a circuit, in their order."""
    import numpy as np

    order = ">f8" if qpy[_VERSION_AT] >= _BIG_ENDIAN_SINCE else "<f8"
    return np.frombuffer(b"".join(_NUMBER.findall(qpy)), order).astype(np.float64)


def opened(
    circuit: "QuantumCircuit", angles: tuple[int, ...]
) -> "tuple[QuantumCircuit, tuple[float, ...]]":
    """Return a circuit with parameters in the places of some numbers, and those numbers.

    Parameters
    ----------
    circuit
        The circuit; it is not changed.
    angles
        Which numbers, counted in the order of the gates.

    Raises
    ------
    RequestError
        If it does not have so many.
    """
    from qiskit.circuit import Parameter

    names = {place: f"angle_{column:08d}" for column, place in enumerate(angles)}
    found: dict[int, float] = {}
    number = -1
    template = circuit.copy()
    for place, item in enumerate(circuit.data):
        values = list(item.params)
        before = len(found)
        for index, value in enumerate(values):
            number += isinstance(value, float)
            if isinstance(value, float) and number in names:
                found[number] = value
                values[index] = Parameter(names[number])
        if len(found) > before:
            operation = item.operation.to_mutable()
            operation.params = values
            template.data[place] = item.replace(operation=operation)
    if len(found) != len(angles):
        raise RequestError(f"a circuit has {number + 1} numbers, not those that are asked for")
    return template, tuple(found[place] for place in angles)

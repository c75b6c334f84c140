"""Counts, as any ``Result`` has them, to shots in a circuit's classical registers.

``get_counts()`` is what all vendors implement; ``memory=True``, on which Qiskit's own
``BackendSamplerV2`` relies, some ignore, and all its shots are then zeros. What the counts do not
keep is the order of the shots: they are mixed, so that the first hundred are a sample, too.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridflow.errors import CircuitError, VendorJobError

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.primitives import BitArray

__all__ = ["Counts", "Shots", "bits_of", "check_registers", "counts_of", "shots_of"]

Counts = Mapping[int, int]
"""How often each value of all classical bits came, the circuit's first bit being the lowest."""

Shots = np.ndarray[Any, np.dtype[np.uint8]]


def check_registers(circuit: "QuantumCircuit") -> None:
    """Refuse a circuit whose counts would not tell which bit is whose.

    Raises
    ------
    CircuitError
        If a classical bit is in no register, or in several.
    """
    if sum(register.size for register in circuit.cregs) != circuit.num_clbits:
        raise CircuitError(
            f"the circuit {circuit.name!r} has classical bits in no register, or in several: a "
            "backend that gives counts cannot tell them apart; give each bit one register"
        )


def counts_of(raw: Mapping[Any, Any], num_bits: int) -> Counts:
    """Return a vendor's counts as numbers.

    Parameters
    ----------
    raw
        Counts by bitstring (with or without blanks between registers), by hexadecimal text or by
        number.
    num_bits
        The circuit's classical bits.

    Raises
    ------
    VendorJobError
        If they do not fit the circuit.
    """
    counts: dict[int, int] = {}
    for key, count in raw.items():
        value = _value(key, num_bits)
        if not 0 <= value < 2**num_bits or int(count) != count or count < 0:
            raise _strange(key, count, num_bits)
        counts[value] = counts.get(value, 0) + int(count)
    if not sum(counts.values()):
        raise VendorJobError("the vendor's result of a circuit has no counts")
    return counts


def _value(key: Any, num_bits: int) -> int:
    if isinstance(key, int):
        return key
    bits = str(key).replace(" ", "")
    try:
        if bits[:2].lower() == "0x":
            return int(bits, 16)
        if len(bits) == num_bits:
            return int(bits, 2)
    except ValueError:
        pass  # said below
    raise _strange(key, "", num_bits)


def _strange(key: Any, count: object, num_bits: int) -> VendorJobError:
    return VendorJobError(
        f"the vendor's counts do not fit a circuit with {num_bits} classical bits: {key!r} {count}"
    )


def shots_of(
    counts: Sequence[Counts], num_bits: int, shape: tuple[int, ...], seed: int | None
) -> Shots:
    """Return shots of all classical bits, packed: an array of shape (*shape, shots, bytes).

    Parameters
    ----------
    counts
        Of each binding of a PUB.
    num_bits
        The circuit's classical bits.
    shape
        Shape of the PUB.
    seed
        Of the order of the shots.

    Raises
    ------
    VendorJobError
        If one binding has more shots than another.
    """
    from qiskit.primitives import BitArray

    numbers = {sum(found.values()) for found in counts}
    if len(numbers) != 1:
        raise VendorJobError(
            f"the bindings of one PUB came back with different numbers of shots: {sorted(numbers)}"
        )
    rng = np.random.default_rng(seed)
    rows = [
        rng.permutation(BitArray.from_counts(dict(found), num_bits).array, axis=0)
        for found in counts
    ]
    return np.stack(rows).reshape(*shape, numbers.pop(), -1)


def bits_of(shots: Shots, circuit: "QuantumCircuit") -> "dict[str, BitArray]":
    """Return the bits of each classical register of a circuit."""
    from qiskit.primitives import BitArray

    every = BitArray(shots, circuit.num_clbits)
    return {
        register.name: every.slice_bits([circuit.find_bit(bit).index for bit in register])
        for register in circuit.cregs
    }

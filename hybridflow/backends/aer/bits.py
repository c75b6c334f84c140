"""Shots as bits: packed as Qiskit's ``BitArray`` packs them, big-endian, eight bits a byte.

*Memory* is what a circuit's classical bits hold: an array (…, shots, bytes) over all of them, the
first classical bit rightmost. *Bits* are its columns, one byte a bit, the first bit first.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["memory_from_hex", "memory_from_outcomes", "num_bytes", "pack", "select", "unpack"]

Bits = np.ndarray[Any, np.dtype[np.uint8]]

_from_hex = functools.partial(int, base=16)


def num_bytes(num_bits: int) -> int:
    """Return how many bytes hold so many bits."""
    return -(-num_bits // 8)


def unpack(memory: Bits, num_bits: int) -> Bits:
    """Return bits, one a byte, the first bit first: shape (…, num_bits)."""
    return np.ascontiguousarray(np.unpackbits(memory, axis=-1)[..., ::-1][..., :num_bits])


def pack(bits: Bits) -> Bits:
    """Return memory; the inverse of :func:`unpack`."""
    missing = -bits.shape[-1] % 8
    padding = [(0, 0)] * (bits.ndim - 1) + [(missing, 0)]
    return np.packbits(np.pad(bits[..., ::-1], padding), axis=-1)


def select(memory: Bits, num_bits: int, chosen: Sequence[int]) -> Bits:
    """Return the memory of a register: some of the `num_bits` bits, in the order given."""
    if tuple(chosen) == tuple(range(num_bits)):
        return memory
    return pack(unpack(memory, num_bits)[..., list(chosen)])


def memory_from_outcomes(
    outcomes: "np.ndarray[Any, np.dtype[np.int64]]",
    places: "np.ndarray[Any, np.dtype[np.int64]]",
    direct: bool,
) -> Bits:
    """Return the memory of outcomes, which are numbers.

    Parameters
    ----------
    outcomes
        One number a shot.
    places
        For each classical bit its place in the number; -1: the bit is zero.
    direct
        Whether the number is the memory.
    """
    if direct:
        width = num_bytes(len(places))
        return outcomes.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - width :]
    bits = (outcomes[:, np.newaxis] >> np.maximum(places, 0)) & (places >= 0)
    return pack(bits.astype(np.uint8))


def memory_from_hex(texts: Sequence[str], num_bits: int) -> Bits:
    """Return the memory that Aer gives as hexadecimal text, one a shot."""
    width = num_bytes(num_bits)
    if num_bits <= 64:
        numbers = np.fromiter(map(_from_hex, texts), dtype=np.uint64, count=len(texts))
        return numbers.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - width :]
    data = b"".join(int(text, 16).to_bytes(width, "big") for text in texts)
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, width)

"""The bit arrays of results count as Qiskit's do, in the same order."""

import numpy as np
import pytest
from numpy.typing import NDArray
from qiskit.primitives import BitArray

from hybridflow.bit_array import CountedBitArray


def packed(shape: tuple[int, ...], bits: int) -> NDArray[np.uint8]:
    """Return random shots, also with bits that are none: a backend may leave some there."""
    size = -(-bits // 8)
    return np.random.default_rng(7).integers(0, 256, (*shape, size), dtype=np.uint8)


@pytest.mark.parametrize("bits", [1, 2, 7, 8, 9, 24, 127])
@pytest.mark.parametrize("shape", [(1,), (500,), (3, 100), (2, 3, 50), (0,), (2, 0)])
def test_counts_are_qiskits(shape: tuple[int, ...], bits: int) -> None:
    array = packed(shape, bits)
    ours, theirs = CountedBitArray(array, bits), BitArray(array, bits)
    assert list(ours.get_counts().items()) == list(theirs.get_counts().items())
    assert ours.get_int_counts() == theirs.get_int_counts()
    for loc in np.ndindex(*shape[:-1]):
        assert list(ours.get_counts(loc).items()) == list(theirs.get_counts(loc).items())
    assert ours == theirs


def test_an_index_instead_of_a_tuple() -> None:
    array = packed((3, 100), 5)
    assert CountedBitArray(array, 5).get_counts(1) == BitArray(array, 5).get_counts(1)


def test_no_bits() -> None:
    array = packed((2, 4), 0)
    assert CountedBitArray(array, 0).get_counts(1) == BitArray(array, 0).get_counts(1)


def test_an_array_that_is_not_contiguous() -> None:
    array = packed((40, 6), 20).swapaxes(0, 1)
    assert CountedBitArray(array, 20).get_counts() == BitArray(array, 20).get_counts()

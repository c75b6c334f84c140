"""Arrays as ``.npy``, NumPy's own format, and back: what results and parameter values travel as.

NumPy writes an array's header as Python source, and parses it as such, which takes longer than the
rest of a small array. Headers are few: here each is written once and read once. What is not a plain
array of numbers goes NumPy's own way.
"""

import functools
import io
import math
import os
import threading
from typing import TYPE_CHECKING, Any

from hybridflow.errors import RequestError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["array_from_bytes", "array_to_bytes"]

_NUMBERS = "biufc"
_MAGIC = b"\x93NUMPY\x01\x00"
_BEGIN = len(_MAGIC) + 2  # then comes the header, as long as the last two bytes say
_literals = threading.Lock()


def _renew_after_fork() -> None:
    global _literals  # another thread of the parent may hold it
    _literals = threading.Lock()


os.register_at_fork(after_in_child=_renew_after_fork)


def array_to_bytes(array: "Array") -> bytes:
    """Return an array in NumPy's ``.npy`` format, see :mod:`numpy.lib.format`."""
    import numpy as np

    array = np.asarray(array, order="C")
    if array.dtype.kind in _NUMBERS:
        return _header(array.dtype, array.shape) + array.tobytes()
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@functools.lru_cache(maxsize=256)
def _header(dtype: "np.dtype[Any]", shape: tuple[int, ...]) -> bytes:
    from numpy.lib import format as npy

    about = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, about)
    return buffer.getvalue()


def array_from_bytes(data: bytes) -> "Array":
    """Return the array in `data`, which must be ``.npy`` without pickled objects.

    Raises
    ------
    RequestError
        If it is not.
    """
    try:
        array = _plain(data)
        return _any(data) if array is None else array
    except Exception as error:  # a header is read as Python source: whatever that may raise
        raise RequestError(f"an array could not be read: {error}") from error


def _plain(data: bytes) -> "Array | None":
    import numpy as np

    if data[: len(_MAGIC)] != _MAGIC:
        return None
    begin = _BEGIN + int.from_bytes(data[len(_MAGIC) : _BEGIN], "little")
    told = _told(data[:begin])
    if told is None:
        return None
    dtype, shape = told
    return np.frombuffer(data, dtype, math.prod(shape), begin).reshape(shape).copy()


@functools.lru_cache(maxsize=256)
def _told(header: bytes) -> "tuple[np.dtype[Any], tuple[int, ...]] | None":
    # None where NumPy had better read the array by itself.
    from numpy.lib import format as npy

    buffer = io.BytesIO(header)
    npy.read_magic(buffer)
    # A header is a literal, and CPython 3.11 reads literals in one thread at a time only: in
    # several, "AST constructor recursion depth mismatch" (python/cpython#106905).
    with _literals:
        shape, by_columns, dtype = npy.read_array_header_1_0(buffer)
    plain = dtype.kind in _NUMBERS and not by_columns and all(length > 0 for length in shape)
    return (dtype, shape) if plain else None


def _any(data: bytes) -> "Array":
    import numpy as np

    with _literals:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)

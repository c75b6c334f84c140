"""Records in a file that may be torn at its end, or damaged: a marker, a length, a checksum each.

A record is found again after a damaged one by its marker. What cannot be read at the end of a file
is torn (its writer was killed, the machine lost power, or is just writing); anywhere else it is
damage.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Damage", "Frame", "frame", "frames"]

_MARKER = b"\xf5hfl"
_HEAD = struct.Struct("<4sII")
_SEED = 0x68666C77  # so that zeros, which a lost block leaves, are no record
_LONGEST = 2**28


class Frame(NamedTuple):
    """A record, and where the next one begins."""

    payload: bytes
    end: int


class Damage(NamedTuple):
    """Bytes that are no record; `torn`: nothing readable comes after them."""

    begin: int
    end: int
    torn: bool


def frame(payload: bytes) -> bytes:
    """Return a record as it stands in a file."""
    return _HEAD.pack(_MARKER, len(payload), zlib.crc32(payload, _SEED)) + payload


def frames(data: bytes) -> Iterator[Frame | Damage]:
    """Return what stands in a file, in order."""
    begin = 0
    while begin < len(data):
        found = _at(data, begin)
        if found is None:
            end = _next(data, begin)
            yield Damage(begin, end, torn=end == len(data))
            begin = end
        else:
            yield found
            begin = found.end


def _at(data: bytes, begin: int) -> Frame | None:
    if len(data) - begin < _HEAD.size:
        return None
    marker, length, check = _HEAD.unpack_from(data, begin)
    end = begin + _HEAD.size + length
    if marker != _MARKER or length > _LONGEST or end > len(data):
        return None
    payload = data[begin + _HEAD.size : end]
    return Frame(payload, end) if zlib.crc32(payload, _SEED) == check else None


def _next(data: bytes, begin: int) -> int:
    while (begin := data.find(_MARKER, begin + 1)) >= 0:
        if _at(data, begin) is not None:
            return begin
    return len(data)

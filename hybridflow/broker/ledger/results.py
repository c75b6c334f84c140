"""The results of vendor jobs: a file each, whole or not at all.

A file begins with a marker, the length and the checksum of what follows; it may be of any size.
"""

import contextlib
import logging
import os
import struct
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hybridflow.broker.ledger.folders import make_folder, sync_folder
from hybridflow.errors import LedgerError
from hybridflow.records import Reply

__all__ = ["read_replies", "results_file", "write_replies"]

_log = logging.getLogger(__name__)
_FOLDER = "results"
_MARKER = b"\xf5hfr"
_HEAD = struct.Struct("<4sQI")
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[Reply]] = msgspec.msgpack.Decoder(list[Reply])


def results_file(ledger: Path, tag: str) -> Path:
    """Return where the results of a vendor job are."""
    return ledger / _FOLDER / f"{tag}.msgpack"


def write_replies(ledger: Path, tag: str, replies: Sequence[Reply], *, durable: bool) -> None:
    """Store the replies of a vendor job's requests, in order.

    Raises
    ------
    LedgerError
        If that failed.
    """
    file = results_file(ledger, tag)
    try:
        _write(file, _encoder.encode(replies), durable)
    except OSError as error:
        raise LedgerError(f"{file} cannot be written: {error.strerror or error}") from error
    except (ValueError, OverflowError) as error:  # msgpack has no arrays of more than 4 GiB
        raise LedgerError(f"the results cannot be written: {error}", transient=False) from error


def _write(file: Path, payload: bytes, durable: bool) -> None:
    make_folder(file.parent, durable=durable)
    unfinished = file.with_name(f".{file.stem}.{uuid.uuid4().hex[:8]}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(_HEAD.pack(_MARKER, len(payload), zlib.crc32(payload)))
            stream.write(payload)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(unfinished, file)
        if durable:
            sync_folder(file.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            unfinished.unlink()
        raise


def read_replies(ledger: Path, tag: str) -> list[Reply]:
    """Return the replies of a vendor job's requests, in order.

    Raises
    ------
    LedgerError
        If they cannot be read: the message says why.
    """
    file = results_file(ledger, tag)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LedgerError(f"the results in {file} cannot be read: {error.strerror}") from error
    payload = memoryview(data)[_HEAD.size :]
    if data[: _HEAD.size] != _HEAD.pack(_MARKER, len(payload), zlib.crc32(payload)):
        raise LedgerError(f"the results in {file} are damaged: their checksum is wrong")
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise LedgerError(f"the results in {file} are of another version: {error}") from error

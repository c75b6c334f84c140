"""The results of vendor jobs: a file each, whole or not at all, with a checksum."""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hybridflow.broker.ledger.appender import sync_folder
from hybridflow.broker.ledger.frames import Frame, frame, frames
from hybridflow.errors import LedgerError
from hybridflow.records import Reply

__all__ = ["read_replies", "results_file", "write_replies"]

_log = logging.getLogger(__name__)
_FOLDER = "results"
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[Reply]] = msgspec.msgpack.Decoder(list[Reply])


def results_file(ledger: Path, tag: str) -> Path:
    """Return where the results of a vendor job are."""
    return ledger / _FOLDER / f"{tag}.msgpack"


def write_replies(ledger: Path, tag: str, replies: Sequence[Reply], *, durable: bool) -> None:
    """Store the replies of a vendor job's requests, in order.

    Raises
    ------
    OSError
        If that failed.
    """
    file = results_file(ledger, tag)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    unfinished = file.with_name(f".{tag}.{os.getpid()}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(frame(_encoder.encode(replies)))
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
    first = next(iter(frames(data)), None)
    if not isinstance(first, Frame) or first.end != len(data):
        raise LedgerError(f"the results in {file} are damaged: their checksum is wrong")
    try:
        return _decoder.decode(first.payload)
    except msgspec.DecodeError as error:
        raise LedgerError(f"the results in {file} are of another version: {error}") from error

"""One broker's file of a ledger: appended to by its process alone, durable when it must be.

Steps are gathered and written together. When writing fails (a full disk, a folder that is gone),
what was not known to be durable is kept and goes into a new file at the next attempt, since nobody
can say what has become of the end of the old one: a step that then stands in both counts once.
"""

import logging
import os
from pathlib import Path

from hybridflow.broker.ledger.folders import make_folder, sync_folder
from hybridflow.broker.ledger.frames import frame
from hybridflow.broker.ledger.steps import Closed, Opened, Step, encode
from hybridflow.errors import LedgerError

__all__ = ["Appender"]

_log = logging.getLogger(__name__)
_OPENED_EVERY = 4096
"""Bytes after which a file says once more whose it is: without that, the rest is worth nothing."""


class Appender:
    """Appends steps to files of one owner.

    Parameters
    ----------
    folder
        The ledger's folder; made when the first step is written, in a run's folder that is there.
    opened
        The first step of each file.
    durable
        Whether a commit that asks for it withstands the machine's power loss, too.
    """

    def __init__(self, folder: Path, opened: Opened, *, durable: bool = True) -> None:
        self._folder = folder
        self._opened = opened
        self._durable = durable
        self._descriptor = -1
        self._number = 0
        self._pending = bytearray()
        self._written = 0
        self._since_opened = 0

    @property
    def size(self) -> int:
        """Bytes that were added and not written yet."""
        return len(self._pending) - self._written

    @property
    def is_begun(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self._number or self._pending)

    def add(self, step: Step) -> None:
        """Take a step, to be written with the next commit."""
        if self._since_opened > _OPENED_EVERY or isinstance(step, Closed):
            self._pending += frame(encode(self._opened))
            self._since_opened = 0
        data = frame(encode(step))
        self._pending += data
        self._since_opened += len(data)

    def commit(self, *, durable: bool) -> None:
        """Write what was added; `durable`: and have it on the disk before this returns.

        Raises
        ------
        LedgerError
            If that failed; it is tried again with the next commit.
        """
        try:
            self._write()
            if durable and self._durable:
                os.fsync(self._descriptor)
            if durable or not self._durable:
                self._pending.clear()
                self._written = 0
        except OSError as error:
            self._abandon()
            raise LedgerError(
                f"the ledger in {self._folder} cannot be written: {error.strerror or error}; "
                "make room, or make the folder writable, and try again",
                resource=self._opened.resource,
            ) from error

    def _write(self) -> None:
        if self._descriptor < 0:
            self._open()
        while self._written < len(self._pending):
            self._written += os.write(self._descriptor, self._pending[self._written :])
        if os.fstat(self._descriptor).st_nlink == 0:
            raise FileNotFoundError(0, "its file was removed")

    def _open(self) -> None:
        make_folder(self._folder, durable=self._durable)
        self._number += 1
        name = f"{self._opened.owner.name}.{self._number}.log"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self._descriptor = os.open(self._folder / name, flags, 0o600)
        self._pending[:0] = frame(encode(self._opened))
        if self._durable:
            sync_folder(self._folder)

    def _abandon(self) -> None:
        self._written = 0
        if self._descriptor >= 0:
            try:
                os.close(self._descriptor)
            except OSError as error:
                _log.warning("a file of the ledger in %s: %s", self._folder, error)
        self._descriptor = -1

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

"""Bytes on disk by key: whole or not at all, never damaged, never more than a bound.

Several processes may use one folder at a time. Losing it costs time and nothing else: a folder that
cannot be read or written is as good as an empty one.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["DiskCache"]

_log = logging.getLogger(__name__)
_CHECK_BYTES = 16


class DiskCache:
    """A folder of entries; the longest unused ones go when it grows over its bound.

    Parameters
    ----------
    folder
        Made when the first entry is written, readable by its owner alone.
    max_bytes
        Bound of all entries together.
    """

    def __init__(self, folder: Path, *, max_bytes: int = 256 * 2**20) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def get(self, key: str) -> bytes | None:
        """Return an entry; None if there is none, or if it is damaged."""
        file = self._folder / key
        try:
            content = file.read_bytes()
            os.utime(file)
        except OSError:
            return None
        check, data = content[:_CHECK_BYTES], content[_CHECK_BYTES:]
        return data if check == _check(data) else None

    def put(self, key: str, data: bytes) -> None:
        """Write an entry, over one that may be there."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(key, _check(data) + data)
            self._shrink()
        except OSError as error:
            _log.warning("the cache in %s cannot be written: %s", self._folder, error)

    def _write(self, key: str, content: bytes) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(name, self._folder / key)
        except BaseException:
            os.unlink(name)
            raise

    def _shrink(self) -> None:
        entries = list(self._entries())
        total = sum(status.st_size for status, _ in entries)
        for status, path in sorted(entries, key=lambda entry: entry[0].st_mtime):
            if total <= self._max_bytes:
                return
            Path(path).unlink(missing_ok=True)
            total -= status.st_size

    def _entries(self) -> Iterator[tuple[os.stat_result, str]]:
        with os.scandir(self._folder) as found:
            for entry in found:
                with contextlib.suppress(FileNotFoundError):  # another process has removed it
                    yield entry.stat(), entry.path


def _check(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECK_BYTES).digest()

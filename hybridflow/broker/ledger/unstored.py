"""Results that could not be stored when they came: kept in memory, and stored as soon as can be."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from hybridflow.broker.ledger import steps as s
from hybridflow.broker.ledger.results import write_replies
from hybridflow.errors import LedgerError
from hybridflow.records import Reply

__all__ = ["Unstored"]

_log = logging.getLogger(__name__)
_MOST_BYTES = 256 * 2**20


class Unstored:
    """The replies of vendor jobs that are not on the disk.

    After the broker's end they could only be asked of the vendor. What is more than 256 MiB is let
    go, the oldest first.

    Parameters
    ----------
    ledger
        The ledger's folder.
    """

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._kept: dict[str, tuple[s.Stored, Sequence[Reply]]] = {}
        self._bytes = 0

    def keep(self, stored: s.Stored, replies: Sequence[Reply]) -> None:
        """Keep the replies of a vendor job; `stored` is the step that could not be taken."""
        self._kept[stored.tag] = stored, list(replies)
        self._bytes += _size(replies)
        while self._bytes > _MOST_BYTES and len(self._kept) > 1:
            tag = next(iter(self._kept))
            _log.error("the results of vendor job %s are let go: no room", self._kept[tag][0].id)
            self._drop(tag)

    def get(self, tag: str) -> Sequence[Reply] | None:
        """Return the replies of a vendor job, if they are here."""
        found = self._kept.get(tag)
        return found[1] if found else None

    def store(self) -> Iterator[s.Stored]:
        """Try once more; return the steps that can be taken now."""
        for tag, (stored, replies) in list(self._kept.items()):
            try:
                write_replies(self._ledger, tag, replies, durable=True)
            except LedgerError as error:
                _log.warning("vendor job %s: %s", stored.id, error)
                if error.transient:
                    return  # nor is there room for the others
                continue
            self._drop(tag)
            yield stored

    def _drop(self, tag: str) -> None:
        _, replies = self._kept.pop(tag)
        self._bytes -= _size(replies)


def _size(replies: Sequence[Reply]) -> int:
    return sum(
        len(data)
        for reply in replies
        for result in reply.results
        for data in result.arrays.values()
    )

"""The files of a ledger, read from where they were left: also while they are written.

What is damaged is left out and named; a torn end is looked at again, since its writer may just be
at work.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from hybridflow.broker.ledger.frames import Damage, frames
from hybridflow.broker.ledger.steps import VERSION, Closed, Opened, Step, decode
from hybridflow.errors import LedgerError

__all__ = ["Flaw", "Reader", "Source"]

_log = logging.getLogger(__name__)


class Flaw(NamedTuple):
    """Something in a file that cannot be read."""

    file: Path
    begin: int
    end: int
    torn: bool

    def __str__(self) -> str:
        if self.torn:
            return f"{self.file}: torn at byte {self.begin}: the last {self.end - self.begin} bytes"
        return f"{self.file}: damaged from byte {self.begin} to {self.end}"


class Source:
    """A file of a ledger, as far as it was read.

    Attributes
    ----------
    file
        Where it is.
    opened
        Its first step; None as long as that cannot be read.
    closed
        Whether its owner has said that nothing comes any more.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.opened: Opened | None = None
        self.closed = False
        self.damaged: list[Flaw] = []
        self.torn: Flaw | None = None
        self._offset = 0

    @property
    def order(self) -> tuple[float, str, int]:
        """What files are sorted by: when their broker began, and their number among its files."""
        name, number, _ = self.file.name.rsplit(".", 2)
        return (self.opened.time if self.opened else 0.0, name, int(number))

    def news(self) -> list[Step]:
        """Return the steps that have come since it was last read."""
        try:
            with self.file.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            self.closed = True  # compacted: the same stands in another file
            return []
        begin, end, steps = self._offset, self._offset, []
        self.torn = None
        for found in frames(data):
            if isinstance(found, Damage):
                self._note(Flaw(self.file, begin + found.begin, begin + found.end, found.torn))
                continue
            end = begin + found.end
            steps.append(self._step(found.payload))
        self._offset = end
        return steps

    def _note(self, flaw: Flaw) -> None:
        if flaw.torn:
            self.torn = flaw
        else:
            self.damaged.append(flaw)
            _log.warning("%s", flaw)

    def _step(self, payload: bytes) -> Step:
        try:
            step = decode(payload)
        except msgspec.DecodeError as error:
            raise LedgerError(
                f"{self.file} holds a step that this version of hybridflow does not know "
                f"({error}): use the version that wrote it, or a newer one",
                transient=False,
            ) from error
        if isinstance(step, Opened):
            if step.version > VERSION:
                raise LedgerError(
                    f"{self.file} was written by a newer hybridflow (version {step.version} of the "
                    f"ledger, here {VERSION}): use that one",
                    transient=False,
                )
            self.opened = step
        elif isinstance(step, Closed):
            self.closed = True
        return step


class Reader:
    """Reads all files of a ledger but those of one owner.

    Parameters
    ----------
    folder
        The ledger's folder; it need not be there.
    but
        Name of the owner whose files are left out.
    """

    def __init__(self, folder: Path, *, but: str = "") -> None:
        self._folder = folder
        self._but = but
        self._sources: dict[str, Source] = {}

    @property
    def sources(self) -> list[Source]:
        """The files, in the order in which they were opened."""
        return sorted(self._sources.values(), key=lambda source: source.order)

    def news(self) -> Iterator[tuple[Opened, Step]]:
        """Return each step that has come since it was last asked, with the first of its file.

        Raises
        ------
        LedgerError
            If a file can be read by a newer version only; or, after the steps of all others, if
            one cannot be read now: then the next call begins where this one had to stop.
        """
        found, failed = [], None
        for source in self._open_ones():
            try:
                found.append((source, source.news()))
            except OSError as error:
                failed = error
        for source, steps in sorted(found, key=lambda item: item[0].order):
            for step in steps:
                if source.opened is not None:
                    yield source.opened, step
        if failed is not None:
            raise LedgerError(
                f"the ledger in {self._folder} cannot be read: {failed.strerror}"
            ) from failed

    def _open_ones(self) -> list[Source]:
        for file in self._folder.glob("*.*.log"):
            if file.name.rsplit(".", 2)[0] != self._but and file.name not in self._sources:
                self._sources[file.name] = Source(file)
        return [source for source in self._sources.values() if not source.closed]

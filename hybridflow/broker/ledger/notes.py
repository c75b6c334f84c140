"""What is known of a run, kept up to date: this broker's steps are written, all others' are read.

What cannot be written or read is said in the log, once, and goes on to be tried.
"""

import logging
import math
import time
from collections.abc import Collection, Iterable

from hybridflow.broker.ledger import steps as s
from hybridflow.broker.ledger.appender import Appender
from hybridflow.broker.ledger.owner import JobEnded, Owner, has_ended, is_over
from hybridflow.broker.ledger.reader import Reader
from hybridflow.broker.ledger.state import State
from hybridflow.errors import LedgerError

__all__ = ["PATIENCE_SECONDS", "Notes"]

_log = logging.getLogger(__name__)
_MOST_BUFFERED = 2**20

PATIENCE_SECONDS = 600.0
"""How long a broker of which nobody can say whether it has ended is waited for, since it wrote."""


class Notes:
    """A broker's part of the ledger, and what the parts of all brokers come to.

    Parameters
    ----------
    opened
        The first step of this broker's file, with its owner.
    appender
        Writes it.
    reader
        Reads those of the others.
    job_ended
        Asked whether the Slurm job of a broker on another machine has ended.

    Attributes
    ----------
    opened
        The same.
    state
        What is known.
    read_at
        When the others' steps were read last (``time.monotonic``).
    heard
        When something that each other broker has written was read last.
    """

    def __init__(
        self, opened: s.Opened, appender: Appender, reader: Reader, job_ended: JobEnded
    ) -> None:
        self.opened = opened
        self.state = State(opened.owner.session, self._is_over)
        self.read_at = 0.0
        self.heard: dict[str, float] = {}
        self._begun_at = math.inf
        self._owner = opened.owner
        self._appender = appender
        self._reader = reader
        self._job_ended = job_ended
        self._complaint = ""

    # Written

    def note(self, step: s.Step) -> None:
        """Take a step of this broker's; it is written with the next commit."""
        self.state.apply(self.opened, step)
        self._appender.add(step)
        if self._appender.size > _MOST_BUFFERED:
            self.commit(durable=False)

    def commit(self, *, durable: bool) -> None:
        """Write what was noted; what cannot be written now is kept, and said in the log."""
        try:
            self._appender.commit(durable=durable)
        except LedgerError as error:
            self.complain(error)

    def insist(self) -> None:
        """Write what was noted, durably.

        Raises
        ------
        LedgerError
            If that fails.
        """
        self._appender.commit(durable=True)

    def complain(self, error: LedgerError) -> None:
        """Say in the log what is wrong with the ledger: once, and not for each step."""
        if str(error) != self._complaint:
            _log.error("%s", error)
        self._complaint = str(error)

    def close(self) -> None:
        """Write what is left, and say that nothing comes any more."""
        if not self._appender.is_begun:
            return  # nothing has happened
        self.note(s.Closed())
        self.commit(durable=True)
        self._appender.close()

    # Read

    def read(self, *, strict: bool = False) -> None:
        """Take in what other brokers have written meanwhile.

        Raises
        ------
        LedgerError
            If `strict`, and it never can be read.
        """
        self.read_at = time.monotonic()
        try:
            for opened, step in self._reader.news():
                self.heard[opened.owner.name] = self.read_at
                if self.read_at > self._begun_at:
                    self.state.heard_of(opened.owner)
                self.state.apply(opened, step)
        except LedgerError as error:
            if strict and not error.transient:
                raise
            self.complain(error)

    def read_all(self) -> None:
        """Take in everything that there is: what has ended is not looked at again.

        Raises
        ------
        LedgerError
            If it never can be read.
        """
        self.read(strict=True)
        # What comes no more need not be looked for: of those that had ended when it was read last.
        ended = [
            source
            for source in self._reader.sources
            if source.opened is not None and self.has_ended(source.opened.owner)
        ]
        self.read()
        self._begun_at = self.read_at
        for source in ended:
            source.closed = True
        for source in self._reader.sources:
            if source.damaged and source.opened is None:
                _log.error(
                    "nobody can read whose %s is: what stands in it does not count, and may be "
                    "paid for once more; `hybridflow ledger verify` has all damage",
                    source.file,
                )

    # Other brokers

    @property
    def has_rivals(self) -> bool:
        """Whether another broker of the run is at work, as far as is known."""
        return any(not source.closed for source in self._reader.sources)

    def has_ended(self, owner: Owner) -> bool | None:
        """Whether another broker has ended; None if nobody can say."""
        if owner.name in self.state.closed:
            return True
        return has_ended(owner, self._owner, self._job_ended)

    def have_ended(self, brokers: Collection[s.Opened]) -> bool | None:
        """Whether all of these brokers have ended; None if nobody can say."""
        ended = [self.has_ended(opened.owner) for opened in brokers]
        if False in ended:
            return False
        return None if None in ended else True

    def is_silent(self, names: Iterable[str], since: float) -> bool:
        """Whether brokers have written nothing for so long that they are given up."""
        heard = (self.heard.get(name, -math.inf) for name in names)
        return time.monotonic() >= max(since, *heard) + PATIENCE_SECONDS

    def _is_over(self, owner: Owner) -> bool:
        known = is_over(owner, self._owner)
        if known is not None:
            return known
        # Nobody can say (it was begun on another machine): what writes goes on. What has not
        # written since this broker began is over: a run that goes on gets what was paid for.
        heard = self.heard.get(owner.name, -math.inf)
        if heard <= self._begun_at or self.has_ended(owner):
            return True
        return self.is_silent([owner.name], heard)

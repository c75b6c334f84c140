"""Requests that came in: what the journal has is given at once, the rest waits for its turn.

::

    request ──► the journal has its results ───────────────────────────► reply
           ├──► a vendor job under way has it ────────► attached to that job, until it has ended
           ├──► one with the same key waits already ──► behind that one, until it goes out, or fails
           └──► none of these ────────────────────────► the fair order

A request that can go elsewhere, to another resource of its route, is declined instead: one that
only claims what was paid for, where nothing was; and those that wait while the vendor takes none.
"""

import weakref
from collections.abc import Iterable

from hybridflow.broker.entry import Entry
from hybridflow.broker.fair import FairOrder
from hybridflow.broker.gather import Gather
from hybridflow.broker.journal import Journal
from hybridflow.broker.outcomes import Outcomes
from hybridflow.broker.queue import Queue
from hybridflow.errors import DeclinedError, HybridflowError
from hybridflow.records import JobState, Reply

__all__ = ["Intake"]


class Intake:
    """Lets requests through to the order in which they wait.

    Parameters
    ----------
    queue, journal, order, gather, outcomes
        Where requests come from, who knows them, where they wait, who counts the callers, and who
        tells the requests' owners.
    """

    def __init__(
        self, queue: Queue, journal: Journal, order: FairOrder, gather: Gather, outcomes: Outcomes
    ) -> None:
        self._gather = gather
        self._queue = queue
        self._journal = journal
        self._order = order
        self._outcomes = outcomes
        self._attached: dict[str, list[Entry]] = {}
        self._first_of: weakref.WeakValueDictionary[bytes, Entry] = weakref.WeakValueDictionary()
        self._behind: list[tuple[Entry, Entry]] = []

    def turn(self) -> None:
        """Take in what has happened at the door."""
        # Who has died first: a task that is run once more may be among those who come, and gets
        # what its first attempt held.
        arrivals = self._queue.arrivals()
        has_news = self._queue.has_news
        for entry in self._queue.abandoned() if has_news else ():
            self._journal.abandoned(entry)
        for client in self._queue.gone() if has_news else ():
            self._journal.gone(client)
        self._admit(arrivals)
        for entry in self._queue.cancelled() if has_news else ():
            self._order.remove(entry)
            self._journal.cancelled(entry)

    def follow(self) -> bool:
        """Ask anew for the requests whose first has gone out or has failed; say if there were any.

        The first is the one with the same key that came before them.
        """
        behind, self._behind = self._behind, []
        for entry, first in behind:
            if first.state is JobState.QUEUED:
                self._behind.append((entry, first))
            else:
                self._admit([entry])
        return len(self._behind) < len(behind)

    def ended(self, tag: str) -> None:
        """Ask anew for the requests that were attached to a vendor job: it has ended."""
        self._admit(self.attached(tag))

    def awaits(self, tag: str) -> bool:
        """Whether a request that is attached to a vendor job still wants its results."""
        return any(not entry.state.final for entry in self._attached.get(tag, ()))

    def attached(self, tag: str) -> list[Entry]:
        """Take out the requests that are attached to a vendor job."""
        return self._attached.pop(tag, [])

    def decline(self, entries: Iterable[Entry], why: HybridflowError) -> list[Entry]:
        """Give back those that can go elsewhere, and all that wait and can; return the others."""
        entries = list(entries)
        movable = [entry for entry in entries if entry.request.insist == "try"]
        self.turn()
        waiting = [entry for entry in self._order if entry.request.insist == "try"]
        for entry in waiting:
            self._order.remove(entry)
        declined = DeclinedError(f"{why} (nothing was begun)", resource=why.resource)
        self._outcomes.fail([*movable, *waiting], declined)
        return [entry for entry in entries if entry.request.insist != "try"]

    def _admit(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.state.final:
                continue
            try:
                if entry.request.insist == "claim" and not self._may_claim(entry):
                    self._queue.settle(entry, _unknown(entry))
                    continue
                claimed = self._journal.admit(entry)
            except HybridflowError as error:
                self._outcomes.fail([entry], error)
                continue
            if claimed is None:
                self._wait(entry)
            elif isinstance(claimed, Reply):
                self._outcomes.reply(entry, claimed)
            else:
                self._attached.setdefault(claimed.tag, []).append(entry)

    def _may_claim(self, entry: Entry) -> bool:
        # Also what one with the same key will get that waits here.
        return self._journal.knows(entry) or self._first_waiting(entry) is not None

    def _wait(self, entry: Entry) -> None:
        first = self._first_waiting(entry)
        if first is not None:
            self._behind.append((entry, first))
            return
        if entry.request.insist == "claim":
            self._outcomes.fail([entry], _unknown(entry))
            return
        if entry.identity:
            self._first_of[entry.identity] = entry
        self._order.add(entry)
        self._gather.came(entry.request.client, entry.arrived)

    def _first_waiting(self, entry: Entry) -> Entry | None:
        # The one with the same key that came before this one, and has no outcome yet.
        first = self._first_of.get(entry.identity) if entry.identity else None
        return None if first is None or first is entry or first.state.final else first


def _unknown(entry: Entry) -> DeclinedError:
    return DeclinedError(f"nothing of request {entry.request.id} was paid for here")

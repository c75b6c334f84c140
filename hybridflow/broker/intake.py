"""Requests that came in: what the journal has is given at once, the rest waits for its turn.

A request that can go elsewhere, to another resource of its route, is declined instead: one that
only claims what was paid for, where nothing was; and those that wait while the vendor takes none.
"""

from collections.abc import Iterable

from hybridflow.broker.entry import Entry
from hybridflow.broker.fair import FairOrder
from hybridflow.broker.gather import Gather
from hybridflow.broker.journal import Journal
from hybridflow.broker.outcomes import Outcomes
from hybridflow.broker.queue import Queue
from hybridflow.errors import DeclinedError, HybridflowError
from hybridflow.records import Reply

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

    def turn(self) -> None:
        """Take in what has happened at the door."""
        self._admit(self._queue.arrivals())
        if not self._queue.has_news:
            return
        for entry in self._queue.cancelled():
            self._order.remove(entry)
            self._journal.cancelled(entry)
        for entry in self._queue.abandoned():
            self._journal.abandoned(entry)
        for client in self._queue.gone():
            self._journal.gone(client)

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
                if entry.request.insist == "claim" and not self._journal.knows(entry):
                    self._queue.settle(entry, _unknown(entry))
                    continue
                claimed = self._journal.admit(entry)
            except HybridflowError as error:
                self._outcomes.fail([entry], error)
                continue
            if claimed is None and entry.request.insist == "claim":
                self._outcomes.fail([entry], _unknown(entry))
            elif claimed is None:
                self._order.add(entry)
                self._gather.came(entry.request.client, entry.arrived)
            elif isinstance(claimed, Reply):
                self._outcomes.reply(entry, claimed)
            else:
                self._attached.setdefault(claimed.tag, []).append(entry)


def _unknown(entry: Entry) -> DeclinedError:
    return DeclinedError(f"nothing of request {entry.request.id} was paid for here")

"""Who gets which result: the places of equal requests, and the attempts at tasks that hold them.

A *place* is a request's part of a vendor job. The attempt that was given it holds it; what nobody
holds goes to the next equal request, the oldest first::

            hold                attempt failed, or has died: release
    free  ────────►  held  ──────────────────────────────────────────► free
                       │ attempt ended well: settle
                       └──► settled: only for the same task, if its engine runs it once more
"""

import bisect
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hybridflow.records import ClientInfo

if TYPE_CHECKING:
    from hybridflow.broker.ledger.known import Job

__all__ = ["Place", "Pool", "attempt_of"]


def attempt_of(client: ClientInfo) -> str:
    """Return the attempt that a request belongs to; outside a task it is the process."""
    return client.attempt or f"{client.host}:{client.namespace}:{client.pid}:{client.born}"


class Place:
    """A request's part of a vendor job.

    Attributes
    ----------
    job, index
        Which part of which.
    pool
        The places of equal requests.
    client
        Who was given it; None if nobody.
    """

    __slots__ = ("_number", "client", "index", "job", "pool")

    def __init__(self, job: "Job", index: int, pool: "Pool", number: int) -> None:
        self.job = job
        self.index = index
        self.pool = pool
        self.client: ClientInfo | None = None
        self._number = number

    def __lt__(self, other: "Place") -> bool:
        return self._number < other._number


class Pool:
    """The places of equal requests."""

    __slots__ = ("_count", "_free", "_held", "_settled")

    def __init__(self) -> None:
        self._count = 0
        self._free: list[Place] = []
        self._held: dict[str, dict[Place, None]] = {}
        self._settled: dict[str, dict[Place, None]] = {}

    def add(self, job: "Job", index: int) -> Place:
        """Return a new place, which nobody holds."""
        place = Place(job, index, self, self._count)
        self._count += 1
        self._free.append(place)
        return place

    def hold(self, place: Place, client: ClientInfo) -> None:
        """Give a place to an attempt."""
        self.drop(place)
        place.client = client
        self._held.setdefault(attempt_of(client), {})[place] = None

    def drop(self, place: Place) -> None:
        """Take a place out: it is worth nothing, or goes elsewhere."""
        if place.client is not None:
            for places in (
                self._held.get(attempt_of(place.client)),
                self._settled.get(place.client.engine_task),
            ):
                if places is not None:
                    places.pop(place, None)
            if not self._held.get(attempt_of(place.client), True):
                del self._held[attempt_of(place.client)]
            place.client = None
        at = bisect.bisect_left(self._free, place)
        if at < len(self._free) and self._free[at] is place:
            del self._free[at]

    def release(self, attempt: str) -> None:
        """Let go of what an attempt holds."""
        for place in list(self._held.get(attempt, ())):
            self.free(place)

    def free(self, place: Place) -> None:
        """Let go of a place."""
        self.drop(place)
        bisect.insort(self._free, place)

    def settle(self, attempt: str) -> None:
        """Note that an attempt has ended well: what it holds is for the same task alone."""
        for place in self._held.pop(attempt, {}):
            if place.client is not None and place.client.engine_task:
                self._settled.setdefault(place.client.engine_task, {})[place] = None

    def holders(self) -> list[ClientInfo]:
        """Return who holds places: a client of each attempt that has not settled."""
        firsts = (next(iter(places)).client for places in self._held.values())
        return [client for client in firsts if client is not None]

    def _of_task(self, task: str) -> list[ClientInfo]:
        return [holder for holder in self.holders() if holder.engine_task == task]

    def offers(self, client: ClientInfo) -> Iterator[Place]:
        """Return the places that a request may claim: its task's earlier attempts' come first."""
        attempt, task = attempt_of(client), client.engine_task
        if task:
            yield from sorted(self._settled.get(task, ()))
            for holder in map(attempt_of, self._of_task(task)):
                if holder != attempt:
                    yield from sorted(self._held[holder])
        yield from list(self._free)

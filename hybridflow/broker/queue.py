"""The waiting room: requests from any thread come in, the dispatcher takes them out.

Every change of a request's state happens here, under one lock: a request is settled exactly once,
by its result, its error or its cancellation, whichever comes first. Waiting requests stand in order
of arrival, and once more by what they can share a vendor job with.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterable

from hybridflow.broker.entry import Entry
from hybridflow.broker.pending import copy_of
from hybridflow.errors import (
    HybridflowError,
    RequestCancelledError,
    ResourceError,
    TooLargeError,
)
from hybridflow.records import ClientInfo, JobState, Reply

__all__ = ["Queue"]


class Queue:
    """Requests that are under way, waiting or running; safe to use from several threads.

    Parameters
    ----------
    name
        Name of the resource, for messages.
    max_bytes
        Payload that may be under way at a time.
    """

    def __init__(self, name: str, max_bytes: int) -> None:
        self._name = name
        self._max_bytes = max_bytes
        self._bytes = 0
        self._changed = threading.Condition()
        self._waiting: OrderedDict[Entry, None] = OrderedDict()
        self._groups: dict[Hashable, OrderedDict[Entry, None]] = {}
        self._running: set[Entry] = set()
        self._stirred = False
        self._closed: HybridflowError | None = None
        self._deadline = math.inf

    def put(self, entry: Entry) -> None:
        """Let a request in.

        Raises
        ------
        TooLargeError
            If it alone is larger than the queue.
        ResourceError
            If the queue is full, or closed (with the error that closed it); both are transient.
        """
        with self._changed:
            if self._closed is not None:
                raise copy_of(self._closed)
            self._check_room(entry.size)
            self._bytes += entry.size
            self._waiting[entry] = None
            self._groups.setdefault(entry.group, OrderedDict())[entry] = None
            self._changed.notify()

    def _check_room(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLargeError(
                f"the request has {size:,} bytes, the queue of {self._name!r} holds "
                f"{self._max_bytes:,}: split it into several requests",
                resource=self._name,
            )
        if self._bytes + size > self._max_bytes:
            raise ResourceError(
                f"the queue of {self._name!r} is full: {self._bytes:,} of {self._max_bytes:,} "
                f"bytes are taken and the request has {size:,}: try again when others are done",
                transient=True,
                resource=self._name,
            )

    def take(self, max_pubs: int | None, max_bytes: int) -> list[Entry]:
        """Take the oldest waiting request and what may go with it; mark them as running.

        The requests are taken in order of arrival, up to the first that is over a limit: it will be
        the head of the next batch.
        """
        with self._changed:
            if not self._waiting:
                return []
            taken: list[Entry] = []
            pubs = size = 0
            for entry in self._groups[next(iter(self._waiting)).group]:
                pubs += len(entry.request.pubs)
                size += entry.size
                if taken and ((max_pubs and pubs > max_pubs) or size > max_bytes):
                    break
                taken.append(entry)
            for entry in taken:
                self._remove(entry)
                entry.state = JobState.RUNNING
            self._running.update(taken)
            return taken

    def _remove(self, entry: Entry) -> None:
        del self._waiting[entry]
        group = self._groups[entry.group]
        del group[entry]
        if not group:
            del self._groups[entry.group]

    def settle(self, entry: Entry, outcome: Reply | HybridflowError) -> bool:
        """Deliver a request's outcome, unless it already has one; say whether it was delivered."""
        with self._changed:
            if entry.state.final:
                return False
            if entry.state is JobState.QUEUED:
                self._remove(entry)
            self._running.discard(entry)
            entry.state = _state_after(outcome)
            self._bytes -= entry.size
            if entry.state is JobState.CANCELLED:
                self._stir()
        entry.deliver(outcome)
        return True

    def cancel(self, entry: Entry) -> bool:
        """Settle a request as cancelled; False if it has already ended."""
        return self.settle(
            entry,
            RequestCancelledError(
                f"request {entry.request.id} to {self._name!r} was cancelled", resource=self._name
            ),
        )

    def fail(self, entries: Iterable[Entry], error: HybridflowError) -> None:
        """Settle requests with an error, each with a copy of its own."""
        for entry in entries:
            self.settle(entry, copy_of(error))

    def fail_all(self, error: HybridflowError) -> None:
        """Settle everything that is under way with an error."""
        with self._changed:
            under_way = [*self._running, *self._waiting]
        self.fail(under_way, error)

    def clients(self) -> list[ClientInfo]:
        """Return who waits, once for each request."""
        with self._changed:
            return [entry.request.client for entry in self._waiting]

    def wait(self, timeout: float, *, more_than: int | None = None) -> None:
        """Wait until a request was cancelled, the queue was closed or more than so many wait."""
        timeout = min(timeout, self._deadline - time.monotonic())

        def news() -> bool:
            return self._stirred or (more_than is not None and len(self._waiting) > more_than)

        with self._changed:
            if timeout > 0:
                self._changed.wait_for(news, None if timeout == math.inf else timeout)
            self._stirred = False

    def _stir(self) -> None:
        self._stirred = True
        self._changed.notify()

    def close(self, error: HybridflowError, seconds: float) -> None:
        """Take no more requests: `error` is the answer. What is here has `seconds` to end."""
        with self._changed:
            if self._closed is None:
                self._closed = error
            self._deadline = min(self._deadline, time.monotonic() + seconds)
            self._stir()

    @property
    def closed(self) -> bool:
        """Whether no more requests are taken."""
        return self._closed is not None

    @property
    def overdue(self) -> bool:
        """Whether the time that :meth:`close` gave has passed."""
        return time.monotonic() >= self._deadline

    def __len__(self) -> int:
        """Return the number of waiting requests."""
        return len(self._waiting)


def _state_after(outcome: Reply | HybridflowError) -> JobState:
    if isinstance(outcome, Reply):
        return JobState.DONE
    return JobState.CANCELLED if isinstance(outcome, RequestCancelledError) else JobState.FAILED

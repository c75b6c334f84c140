"""The door of the waiting room: requests come in from any thread, their outcomes go out.

Every change of a request's state happens here, under one lock: a request is settled exactly once,
by its result, its error or its cancellation, whichever comes first. In which order requests go is
the dispatcher's own business (``fair.py``): it fetches here what has arrived.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import TypeVar

from hybridflow.broker.entry import Entry
from hybridflow.broker.pending import copy_of
from hybridflow.errors import (
    HybridflowError,
    QueueFullError,
    RequestCancelledError,
    TooLargeError,
)
from hybridflow.records import ClientInfo, JobState, Reply

__all__ = ["Queue"]

_T = TypeVar("_T")


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
        self._work = 0.0
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._freed = threading.Condition(lock)
        self._under_way: set[Entry] = set()
        self._arrived: deque[Entry] = deque()
        self._cancelled: deque[Entry] = deque()
        self._abandoned: deque[Entry] = deque()
        self._gone: deque[ClientInfo] = deque()
        self._stirred = False
        self._closed: HybridflowError | None = None
        self._deadline = math.inf

    # -- in ------------------------------------------------------------------------------------

    def put(self, entry: Entry, *, wait: bool = False) -> None:
        """Let a request in; `wait`, if need be, until there is room for it.

        Raises
        ------
        TooLargeError
            If it alone is larger than the queue.
        QueueFullError
            If the queue is full.
        HybridflowError
            If it is closed: the error that closed it.
        """
        with self._changed:
            while wait and self._closed is None and not self._fits(entry.size):
                self._freed.wait()
            if self._closed is not None:
                raise copy_of(self._closed)
            self._check_room(entry.size)
            self._bytes += entry.size
            self._work += entry.work
            self._under_way.add(entry)
            self._arrived.append(entry)
            self._changed.notify()

    def _check_room(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLargeError(
                f"the request has {size:,} bytes, the queue of {self._name!r} holds "
                f"{self._max_bytes:,}: split it into several requests",
                resource=self._name,
            )
        if self._bytes + size > self._max_bytes:
            raise QueueFullError(
                f"the queue of {self._name!r} is full: {self._bytes:,} of {self._max_bytes:,} "
                f"bytes are taken and the request has {size:,}: try again when others are done",
                resource=self._name,
            )

    def _fits(self, size: int) -> bool:
        # What never will is not waited for.
        return size > self._max_bytes or self._bytes + size <= self._max_bytes

    @property
    def room(self) -> int:
        """Bytes of payload that would be let in."""
        return self._max_bytes - self._bytes

    @property
    def load(self) -> tuple[int, float]:
        """How many requests are under way, and what they ask of the device in all."""
        return len(self._under_way), self._work

    # -- for the dispatcher --------------------------------------------------------------------

    def arrivals(self) -> list[Entry]:
        """Return what has come in since it was last asked."""
        return _emptied(self._arrived)

    @property
    def has_news(self) -> bool:
        """Whether requests were cancelled or abandoned, or processes have died."""
        return bool(self._cancelled or self._abandoned or self._gone)

    def cancelled(self) -> list[Entry]:
        """Return what was cancelled since it was last asked."""
        return _emptied(self._cancelled)

    def abandoned(self) -> list[Entry]:
        """Return what was abandoned while it ran since it was last asked."""
        return _emptied(self._abandoned)

    def gone(self) -> list[ClientInfo]:
        """Return the processes that have died since it was last asked."""
        return _emptied(self._gone)

    def run(self, entries: Iterable[Entry]) -> list[Entry]:
        """Mark requests as running; return those that were not cancelled meanwhile."""
        with self._changed:
            wanted = [entry for entry in entries if entry.state is JobState.QUEUED]
            for entry in wanted:
                entry.state = JobState.RUNNING
            return wanted

    # -- out -----------------------------------------------------------------------------------

    def settle(self, entry: Entry, outcome: Reply | HybridflowError) -> bool:
        """Deliver a request's outcome, unless it already has one; say whether somebody got it."""
        with self._changed:
            if entry.state.final:
                return False
            self._under_way.discard(entry)
            entry.state = _state_after(outcome)
            self._bytes -= entry.size
            self._work = self._work - entry.work if self._under_way else 0.0
            self._freed.notify_all()
            if entry.state is JobState.CANCELLED:
                self._cancelled.append(entry)
                self._stir()
            is_heard = entry.deliver is not _nobody
        entry.deliver(outcome)
        return is_heard

    def cancel(self, entry: Entry) -> bool:
        """Settle a request as cancelled; False if it has already ended."""
        return self.settle(
            entry,
            RequestCancelledError(
                f"request {entry.request.id} to {self._name!r} was cancelled", resource=self._name
            ),
        )

    def abandon(self, entry: Entry) -> None:
        """Note that nobody waits for a request: it is cancelled, unless a vendor job has it."""
        with self._changed:
            if entry.state is JobState.RUNNING:
                entry.deliver = _nobody
                self._abandoned.append(entry)
                self._stir()
                return
        self.cancel(entry)

    def part(self, client: ClientInfo) -> None:
        """Note that a process has died."""
        with self._changed:
            self._gone.append(client)
            self._stir()

    def fail_all(self, error: HybridflowError) -> None:
        """Settle everything that is under way with an error, each with a copy of its own."""
        with self._changed:
            under_way = list(self._under_way)
        for entry in under_way:
            self.settle(entry, copy_of(error))

    # -- time ----------------------------------------------------------------------------------

    def wait(self, timeout: float, *, arrivals: bool = False) -> None:
        """Wait until a request was cancelled, the queue was closed or a request has come in."""
        timeout = min(timeout, self._deadline - time.monotonic())

        def news() -> bool:
            return self._stirred or (arrivals and bool(self._arrived))

        with self._changed:
            if timeout > 0:
                self._changed.wait_for(news, None if timeout == math.inf else timeout)
            self._stirred = False

    def stir(self) -> None:
        """Wake who waits: something else has changed."""
        with self._changed:
            self._stir()

    def _stir(self) -> None:
        self._stirred = True
        self._changed.notify()

    def close(self, error: HybridflowError, seconds: float) -> None:
        """Take no more requests: `error` is the answer. What is here has `seconds` to end."""
        with self._changed:
            if self._closed is None:
                self._closed = error
                self._freed.notify_all()
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

    @property
    def empty(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way


def _nobody(outcome: Reply | HybridflowError) -> None:
    pass


def _emptied(found: deque[_T]) -> list[_T]:
    # Others append meanwhile: each turn takes what is there, and no more.
    return [found.popleft() for _ in range(len(found))]


def _state_after(outcome: Reply | HybridflowError) -> JobState:
    if isinstance(outcome, Reply):
        return JobState.DONE
    return JobState.CANCELLED if isinstance(outcome, RequestCancelledError) else JobState.FAILED

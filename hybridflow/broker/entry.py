"""A request on its way through the broker, with who is told of its outcome."""

import time
from collections.abc import Callable, Hashable

from hybridflow.errors import HybridflowError
from hybridflow.records import JobState, PackedPub, Reply, Request

__all__ = ["Deliver", "Entry", "request_bytes"]

Deliver = Callable[[Reply | HybridflowError], None]
"""Gets a request's outcome, once, in any thread; it must not block and must not raise."""


def _pub_bytes(pub: PackedPub) -> int:
    return len(pub.circuit) + len(pub.parameters or b"") + len(pub.observables or b"")


def request_bytes(request: Request) -> int:
    """Return how many bytes of payload a request holds in memory."""
    return sum(map(_pub_bytes, request.pubs))


class Entry:
    """A request on its way through the broker.

    Attributes
    ----------
    request
        The request.
    group
        Requests of equal group may share a vendor job; None: it stands alone.
    work
        What it asks of the device, in the unit of :mod:`hybridflow.broker.estimate`.
    size
        Bytes of payload.
    arrived
        When it came in (``time.monotonic``).
    state
        Its state; only the queue changes it.
    identity
        What its journal names it by, where its sender has given it a key: requests of equal
        identity get the same results. Empty: it has no key, or there is no journal.
    """

    __slots__ = (
        "__weakref__",
        "arrived",
        "deliver",
        "group",
        "identity",
        "request",
        "size",
        "state",
        "work",
    )

    def __init__(
        self, request: Request, group: Hashable, deliver: Deliver, work: float = 0.0
    ) -> None:
        self.request = request
        self.group = group
        self.deliver = deliver
        self.work = work
        self.size = request_bytes(request)
        self.arrived = time.monotonic()
        self.state = JobState.QUEUED
        self.identity = b""

"""What the dispatcher has in hand: work that goes out together, and vendor jobs that run it."""

import time
import uuid

import msgspec

from hybridflow.broker.entry import Entry
from hybridflow.broker.merging import Cut

__all__ = ["Limits", "VendorJob", "Work"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a broker.

    Attributes
    ----------
    queue_bytes
        Payload that may be under way at a time.
    batch_bytes
        Payload of one batch; a larger request goes alone.
    attempts
        How often a lost backend is acquired again, and a vendor that does not answer is asked.
    backoff_seconds
        Pause before the second attempt; it doubles from one to the next, up to 5 seconds.
    patience_seconds
        Time that a vendor which does not answer is asked for about a durable job, which goes on
        there meanwhile.
    poll_seconds
        Least and most time between two looks at a vendor job; in between, 2 % of its age.
    deadline
        Unix time at which the slot ends: no vendor job is started that would run on then.
    """

    queue_bytes: int = 512 * 2**20
    batch_bytes: int = 64 * 2**20
    attempts: int = 5
    backoff_seconds: float = 0.1
    patience_seconds: float = 60.0
    poll_seconds: tuple[float, float] = (0.002, 1.0)
    deadline: float | None = None


class Work:
    """Requests that go out together; `losses`: how often the backend was lost under them."""

    __slots__ = ("entries", "losses")

    def __init__(self, entries: list[Entry], losses: int = 0) -> None:
        self.entries = entries
        self.losses = losses

    @property
    def wanted(self) -> list[Entry]:
        """The requests that have no outcome yet."""
        return [entry for entry in self.entries if not entry.state.final]

    def halves(self) -> "list[Work]":
        """Return the work in two parts."""
        middle = len(self.entries) // 2
        return [
            Work(self.entries[:middle], self.losses),
            Work(self.entries[middle:], self.losses),
        ]


class VendorJob:
    """Work that was given to the backend.

    Attributes
    ----------
    work
        Its requests; none, if an earlier broker has started it.
    cuts
        Each request's part of it.
    tag
        What it can be found by, where the vendor can.
    id
        The vendor's id; None while it is not known.
    """

    __slots__ = ("cuts", "id", "started", "stopped", "tag", "work")

    def __init__(
        self, work: Work, cuts: tuple[Cut, ...], *, tag: str = "", id: str | None = None
    ) -> None:
        self.work = work
        self.cuts = cuts
        self.tag = tag or uuid.uuid4().hex
        self.id = id
        self.started = time.monotonic()
        self.stopped = False

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

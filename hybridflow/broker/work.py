"""What the dispatcher has in hand: work that goes out together, and vendor jobs that run it."""

import math
import time
import uuid

import msgspec

from hybridflow.broker.entry import Entry
from hybridflow.broker.merging import Cut

__all__ = ["Backoff", "Limits", "VendorJob", "Work"]

_LONGEST_PAUSE = 5.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a broker.

    Attributes
    ----------
    queue_bytes
        Payload that may be under way at a time.
    batch_bytes
        Payload of one batch; a larger request goes alone.
    ageing_seconds
        Waiting that a step of priority is worth.
    attempts
        How often a vendor that does not answer, or refuses for now, is asked at least.
    backoff_seconds
        Pause before the second attempt; it doubles from one to the next, up to 5 seconds.
    patience_seconds
        Time after which such a vendor is given up: one that takes no jobs for now, that does not
        answer about a durable job (it goes on there meanwhile), or cannot be acquired again.
    poll_seconds
        Least and most time between two looks at a vendor job; in between, 2 % of its age.
    deadline
        Unix time at which the slot ends: no vendor job is started that would run on then.
    """

    queue_bytes: int = 512 * 2**20
    batch_bytes: int = 64 * 2**20
    ageing_seconds: float = 60.0
    attempts: int = 5
    backoff_seconds: float = 0.1
    patience_seconds: float = 600.0
    poll_seconds: tuple[float, float] = (0.002, 1.0)
    deadline: float | None = None


class Backoff:
    """Pauses between attempts, each twice as long as the one before."""

    __slots__ = ("_attempts", "_since", "_until")

    def __init__(self) -> None:
        self._attempts = 0
        self._since = self._until = -math.inf

    def failed(self, limits: Limits) -> None:
        """Note a failed attempt: the next one has to wait."""
        now = time.monotonic()
        self._since = now if not self._attempts else self._since
        pause = limits.backoff_seconds * 2 ** min(self._attempts, 30)
        self._attempts += 1
        self._until = now + min(_LONGEST_PAUSE, pause)

    def succeeded(self) -> None:
        """Note that an attempt did not fail."""
        self._attempts = 0
        self._until = -math.inf

    def begin_anew(self) -> None:
        """Forget the failed attempts, but not the pause before the next one."""
        self._attempts = 0

    @property
    def rest(self) -> float:
        """Seconds until the next attempt; 0 if it may be made now."""
        return max(0.0, self._until - time.monotonic())

    @property
    def attempts(self) -> int:
        """Attempts that have failed, one after the other."""
        return self._attempts

    @property
    def lasted(self) -> float:
        """Seconds since the first of them."""
        return time.monotonic() - self._since if self._attempts else 0.0

    def hopeless(self, limits: Limits, seconds: float) -> bool:
        """Whether there were enough attempts, for so many seconds."""
        return self._attempts >= limits.attempts and self.lasted >= seconds


class Work:
    """Requests that go out together.

    Attributes
    ----------
    entries
        The requests.
    losses
        How often the backend was lost under them.
    refusals
        How often the vendor would not have them for now.
    """

    __slots__ = ("entries", "losses", "refusals")

    def __init__(self, entries: list[Entry], losses: int = 0) -> None:
        self.entries = entries
        self.losses = losses
        self.refusals = Backoff()

    @property
    def wanted(self) -> list[Entry]:
        """The requests that have no outcome yet."""
        return [entry for entry in self.entries if not entry.state.final]

    @property
    def load(self) -> float:
        """What they ask of the device in all; see :mod:`hybridflow.broker.estimate`."""
        return math.fsum(entry.work for entry in self.entries)

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
    pubs
        Number of its PUBs.
    load
        What it asks of the device.
    started
        When it was started (``time.monotonic``).
    stopped
        Whether the vendor was told to end it.
    given_up
        Whether its requests have failed since the vendor does not say, or not readably, what came
        of it. It was paid for, and may yet be heard of.
    silence
        How long the vendor has not answered about it.
    """

    __slots__ = (
        "cuts",
        "given_up",
        "id",
        "load",
        "pubs",
        "silence",
        "started",
        "stopped",
        "tag",
        "work",
    )

    def __init__(
        self, work: Work, cuts: tuple[Cut, ...], *, tag: str = "", id: str | None = None
    ) -> None:
        self.work = work
        self.cuts = cuts
        self.tag = tag or uuid.uuid4().hex
        self.id = id
        self.pubs = max((1 + part.pub for cut in cuts for part in cut.parts), default=0)
        self.load = work.load
        self.started = time.monotonic()
        self.stopped = False
        self.given_up = False
        self.silence = Backoff()

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    @property
    def unwanted(self) -> bool:
        """Whether nobody waits for it any more; one without requests is wanted by its run."""
        return bool(self.work.entries) and not self.work.wanted

    def give_up(self) -> None:
        """Let go of its requests, which have failed, and begin to ask anew."""
        self.work = Work([], self.work.losses)
        self.given_up = True
        self.silence.begin_anew()

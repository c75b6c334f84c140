"""A vendor job and a request, as far as a ledger's steps have told of them."""

from enum import StrEnum

from hybridflow.broker.ledger import steps as s
from hybridflow.broker.ledger.pool import Place
from hybridflow.errors import ErrorRecord
from hybridflow.records import Usage

__all__ = ["Job", "JobPhase", "RequestPhase", "RequestRecord"]


class JobPhase(StrEnum):
    """How far a vendor job has come."""

    INTENDED = "intended"
    STARTED = "started"
    UNCERTAIN = "uncertain"
    RESOLVED = "resolved"
    STORED = "stored"
    VOID = "void"


class RequestPhase(StrEnum):
    """How far a request has come."""

    ADMITTED = "admitted"
    SENT = "sent"
    CLAIMED = "claimed"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RequestRecord:
    """A request: what came in, and what has become of it.

    Attributes
    ----------
    admitted, opened
        What came in, and at which broker: the beginning of its file.
    phase
        How far it has come.
    place
        Where its results come from.
    reused
        Whether that was paid for by another request.
    error
        Why it failed.
    """

    __slots__ = ("admitted", "error", "opened", "phase", "place", "reused")

    def __init__(self, admitted: s.Admitted, opened: s.Opened) -> None:
        self.admitted = admitted
        self.opened = opened
        self.phase = RequestPhase.ADMITTED
        self.place: Place | None = None
        self.reused = False
        self.error: ErrorRecord | None = None


class Job:
    """A vendor job.

    Attributes
    ----------
    tag, id
        What it can be found by, and the vendor's id of it, if that is known.
    intended_by, brokers
        Whose job it is: the beginnings of the files of who has intended it, and taken it over.
    is_written_off
        Whether a person has said that the vendor does not have it.
    phase
        How far it has come.
    usage
        What it has cost.
    error
        Why it has no results.
    places
        Its requests' parts.
    requests
        Who was given one of them: its own requests, and those that have claimed one.
    """

    __slots__ = (
        "brokers",
        "error",
        "id",
        "intended",
        "intended_by",
        "is_written_off",
        "phase",
        "places",
        "requests",
        "usage",
    )

    def __init__(self, intended: s.Intended, opened: s.Opened) -> None:
        self.intended = intended
        self.intended_by = opened
        self.brokers = [opened]
        self.is_written_off = False
        self.phase = JobPhase.INTENDED
        self.id: str | None = None
        self.usage = Usage()
        self.error: ErrorRecord | None = None
        self.places: list[Place] = []
        self.requests: list[RequestRecord] = []

    @property
    def tag(self) -> str:
        """What it can be found by, where the vendor can."""
        return self.intended.tag

    @property
    def opened(self) -> s.Opened:
        """The beginning of the file of who has it now, as far as is known."""
        return self.brokers[-1]

    @property
    def is_open(self) -> bool:
        """Whether it may run at the vendor, as far as is known."""
        return self.phase in (JobPhase.INTENDED, JobPhase.STARTED)

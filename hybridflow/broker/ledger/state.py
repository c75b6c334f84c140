"""What a ledger's steps come to: vendor jobs, the requests in them, and which results are taken.

Who holds a result counts for as long as this execution of the workflow lasts (a *session*): the
results of an earlier one are free, and claimed again in order. Steps may come twice, and from
several files: each counts once.
"""

from enum import StrEnum

from hybridflow.broker.ledger import steps as s
from hybridflow.broker.ledger.pool import Place, Pool
from hybridflow.errors import ErrorRecord
from hybridflow.records import Usage

__all__ = ["Job", "JobPhase", "RequestPhase", "RequestRecord", "State"]


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
    admitted, session
        What came in, and in which execution of the workflow.
    phase
        How far it has come.
    place
        Where its results come from.
    reused
        Whether that was paid for by another request.
    error
        Why it failed.
    """

    __slots__ = ("admitted", "error", "phase", "place", "reused", "session")

    def __init__(self, admitted: s.Admitted, session: str) -> None:
        self.admitted = admitted
        self.session = session
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
    opened
        Whose job it is: the beginning of the file of who has intended it, or taken it over.
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

    __slots__ = ("error", "id", "intended", "opened", "phase", "places", "requests", "usage")

    def __init__(self, intended: s.Intended, opened: s.Opened) -> None:
        self.intended = intended
        self.opened = opened
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
    def is_open(self) -> bool:
        """Whether it may run at the vendor, as far as is known."""
        return self.phase in (JobPhase.INTENDED, JobPhase.STARTED)


class State:
    """All that is known of a run's requests and vendor jobs.

    Parameters
    ----------
    session
        The execution of the workflow whose holds count; those of others are over.

    Attributes
    ----------
    jobs
        Vendor jobs by tag, in the order in which they were intended.
    requests
        Requests by id.
    pools
        Places of equal requests, by digest.
    closed
        Names of the brokers that have said that they end.
    booked
        QPU seconds, by resource and the broker that has booked them.
    """

    def __init__(self, session: str) -> None:
        self.jobs: dict[str, Job] = {}
        self.requests: dict[str, RequestRecord] = {}
        self.pools: dict[bytes, Pool] = {}
        self.closed: set[str] = set()
        self.booked: dict[str, dict[str, float]] = {}
        self._session = session

    def apply(self, opened: s.Opened, step: s.Step) -> None:
        """Take a step, from the file that begins with `opened`."""
        match step:
            case s.Admitted():
                self.requests.setdefault(step.request, RequestRecord(step, opened.owner.session))
            case s.Intended():
                self._intend(opened, step)
            case s.Claimed():
                self._claim(step)
            case s.Delivered() | s.Failed() | s.Cancelled():
                self._settle(step)
            case s.Released(attempt=attempt):
                self.release(attempt)
            case s.Closed():
                self.closed.add(opened.owner.name)
            case s.Opened():
                pass
            case _:
                self._move(opened, step)

    def _intend(self, opened: s.Opened, step: s.Intended) -> None:
        if step.tag in self.jobs:
            return
        job = self.jobs[step.tag] = Job(step, opened)
        for index, request_id in enumerate(step.requests):
            request = self.requests.get(request_id)
            if request is None:
                continue  # its record is damaged
            pool = self.pools.setdefault(request.admitted.digest, Pool())
            place = pool.add(job, index)
            job.places.append(place)
            self._give(request, place, RequestPhase.SENT)

    def _give(self, request: RequestRecord, place: Place, phase: RequestPhase) -> None:
        request.place, request.phase = place, phase
        place.job.requests.append(request)
        # What has a key is everybody's who knows it.
        if request.session == self._session and request.admitted.key is None:
            place.pool.hold(place, request.admitted.client)

    def _claim(self, step: s.Claimed) -> None:
        request, job = self.requests.get(step.request), self.jobs.get(step.tag)
        if request is None or job is None:
            return
        for place in job.places:
            if place.index == step.place and place is not request.place:
                request.reused = True
                self._give(request, place, RequestPhase.CLAIMED)

    def _settle(self, step: s.Delivered | s.Failed | s.Cancelled) -> None:
        request = self.requests.get(step.request)
        if request is None:
            return
        if isinstance(step, s.Delivered):
            request.phase = RequestPhase.DELIVERED
            return
        if isinstance(step, s.Failed):
            request.phase, request.error = RequestPhase.FAILED, step.error
        else:
            request.phase = RequestPhase.CANCELLED
        place = request.place
        if place is not None and place.client is request.admitted.client:
            place.pool.free(place)

    def release(self, attempt: str) -> None:
        """Let go of all that an attempt holds."""
        for pool in self.pools.values():
            pool.release(attempt)

    def _move(
        self,
        opened: s.Opened,
        step: s.Started | s.Stored | s.Voided | s.Doubted | s.Resolved,
    ) -> None:
        job = self.jobs.get(step.tag)
        if job is None or job.phase in (JobPhase.STORED, JobPhase.VOID):
            return
        match step:
            case s.Started():
                job.phase, job.id, job.opened = JobPhase.STARTED, step.id, opened
            case s.Stored():
                job.phase, job.id = JobPhase.STORED, step.id
                self._book(job, step.usage, opened)
            case s.Voided():
                job.phase, job.error, job.id = JobPhase.VOID, step.error, step.id or job.id
                self._book(job, step.usage, opened)
            case s.Doubted():
                job.phase = JobPhase.UNCERTAIN
            case s.Resolved():
                job.phase = JobPhase.RESOLVED
        if job.phase in (JobPhase.VOID, JobPhase.RESOLVED):
            self._forget(job)

    def _book(self, job: Job, usage: Usage, opened: s.Opened) -> None:
        job.usage = usage
        by_broker = self.booked.setdefault(opened.resource, {})
        name = opened.owner.name
        by_broker[name] = by_broker.get(name, 0.0) + usage.qpu_seconds

    def _forget(self, job: Job) -> None:
        for place in job.places:
            place.pool.drop(place)
        for request in job.requests:
            if request.place is None or request.place.job is not job:
                continue
            request.place = None
            if request.phase in (RequestPhase.SENT, RequestPhase.CLAIMED):
                request.phase = RequestPhase.ADMITTED

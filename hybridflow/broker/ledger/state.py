"""What a ledger's steps come to: vendor jobs, the requests in them, and which results are taken.

Who holds a result counts for as long as that execution of the workflow lasts (a *session*): the
results of one that has ended are free, and claimed again in order. Steps may come twice, and from
several files: each counts once. A step that is read before what it is about, which stands in
another file, waits for that.
"""

from collections.abc import Callable

from hybridflow.broker.ledger import steps as s
from hybridflow.broker.ledger.known import Job, JobPhase, RequestPhase, RequestRecord
from hybridflow.broker.ledger.owner import Owner
from hybridflow.broker.ledger.pool import Place, Pool, attempt_of
from hybridflow.records import ClientInfo, Usage

__all__ = ["State"]


_WITHOUT_RESULTS = (JobPhase.VOID, JobPhase.RESOLVED)
_FINAL = (JobPhase.STORED, JobPhase.VOID)


def _is_person(opened: s.Opened) -> bool:
    return not opened.owner.session


class State:
    """All that is known of a run's requests and vendor jobs.

    Parameters
    ----------
    session
        The execution of the workflow whose holds count.
    is_over
        Whether the execution that a broker belongs to is over.

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
        QPU seconds, by resource and the broker that has booked them, or has estimated what a
        vendor job of its own that is open or uncertain will take.
    """

    def __init__(self, session: str, is_over: Callable[[Owner], bool] = lambda owner: True) -> None:
        self.jobs: dict[str, Job] = {}
        self.requests: dict[str, RequestRecord] = {}
        self.pools: dict[bytes, Pool] = {}
        self.closed: set[str] = set()
        self.booked: dict[str, dict[str, float]] = {}
        self._session = session
        self._is_over = is_over
        self._over: set[str] = set()
        self._others: dict[str, tuple[Owner, list[tuple[Place, ClientInfo]]]] = {}
        self._released: set[str] = set()
        self._early: dict[str, list[tuple[s.Opened, s.Step]]] = {}
        self._behind: dict[str, str] = {}

    def apply(self, opened: s.Opened, step: s.Step) -> None:
        """Take a step, from the file that begins with `opened`."""
        match step:
            case s.Admitted():
                self._admit(opened, step)
            case s.Intended():
                self._intend(opened, step)
            case s.Claimed():
                self._claim(opened, step)
            case s.Delivered() | s.Failed() | s.Cancelled():
                self._settle(opened, step)
            case s.Released(attempt=attempt):
                self.release(attempt)
            case s.Closed():
                self.closed.add(opened.owner.name)
            case s.Opened():
                pass
            case _:
                self._move(opened, step)

    # Steps that are read before what they are about

    def _wait_for(self, name: str, opened: s.Opened, step: s.Step) -> None:
        # `name` is a request's id or a vendor job's tag; what is damaged is waited for in vain.
        self._early.setdefault(name, []).append((opened, step))
        if isinstance(step, s.Claimed):
            self._behind[step.request] = name

    def _replay(self, name: str) -> None:
        for opened, step in self._early.pop(name, ()):
            # A request that was sent meanwhile had found nothing in what it had claimed before.
            if not isinstance(step, s.Claimed) or self._behind.pop(step.request, "") == name:
                self.apply(opened, step)

    # Requests

    def _admit(self, opened: s.Opened, step: s.Admitted) -> None:
        request = self.requests.get(step.request)
        if request is None:
            self.requests[step.request] = RequestRecord(step, opened)
            self._replay(step.request)
        else:  # it came again, after its broker had died
            request.opened = opened

    def _intend(self, opened: s.Opened, step: s.Intended) -> None:
        job = self.jobs.get(step.tag)
        if job is None:
            job = self.jobs[step.tag] = Job(step, opened)
            self._book(opened, step.seconds)
        known = {place.index for place in job.places}
        for index, request_id in enumerate(step.requests):
            request = self.requests.get(request_id)
            if request is None:
                self._wait_for(request_id, opened, step)
            elif index not in known:
                self._place(request, job, index)
        self._replay(step.tag)

    def _place(self, request: RequestRecord, job: Job, index: int) -> None:
        pool = self.pools.setdefault(request.admitted.digest, Pool())
        place = pool.add(job, index)
        job.places.append(place)
        self._behind.pop(request.admitted.request, None)
        if job.phase in _WITHOUT_RESULTS:
            pool.drop(place)
        else:
            self._give(request, place, RequestPhase.SENT)

    def _give(self, request: RequestRecord, place: Place, phase: RequestPhase) -> None:
        request.place, request.phase = place, phase
        place.job.requests.append(request)
        client = request.admitted.client
        # What has a key is everybody's who knows it.
        if request.admitted.key is not None or attempt_of(client) in self._released:
            return
        owner = request.opened.owner
        if owner.session != self._session:
            if self._was_over(owner):
                return
            self._others[owner.name][1].append((place, client))
        place.pool.hold(place, client)

    def _claim(self, opened: s.Opened, step: s.Claimed) -> None:
        request, job = self.requests.get(step.request), self.jobs.get(step.tag)
        if request is None or job is None:
            self._wait_for(step.tag if request else step.request, opened, step)
            return
        place = next((place for place in job.places if place.index == step.place), None)
        if place is None and step.place < len(job.intended.requests):
            self._wait_for(job.intended.requests[step.place], opened, step)
        elif place is not None and place is not request.place and job.phase not in _WITHOUT_RESULTS:
            request.reused = True
            self._give(request, place, RequestPhase.CLAIMED)

    def _settle(self, opened: s.Opened, step: s.Delivered | s.Failed | s.Cancelled) -> None:
        request = self.requests.get(step.request)
        if request is None or step.request in self._behind:
            self._wait_for(self._behind.get(step.request, step.request), opened, step)
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

    # Who holds what no more

    @property
    def others(self) -> list[Owner]:
        """Brokers of other executions whose holds count, since these were not over."""
        return [owner for owner, _ in self._others.values()]

    def look_at_others(self) -> bool:
        """Whether one of these executions is over by now, so that what was held is free."""
        over = [owner for owner in self.others if self._is_over(owner)]
        for owner in over:
            self._end(owner)
        return bool(over)

    def heard_of(self, owner: Owner) -> None:
        """Note that a broker has written once more: it may not be over, though it seemed so."""
        self._over.discard(owner.name)

    def _was_over(self, owner: Owner) -> bool:
        if owner.name not in self._over and owner.name not in self._others:
            if self._is_over(owner):
                self._over.add(owner.name)
            else:
                self._others[owner.name] = (owner, [])
        return owner.name in self._over

    def _end(self, owner: Owner) -> None:
        self._over.add(owner.name)
        _, held = self._others.pop(owner.name, (owner, ()))
        for place, client in held:
            if place.client is client:
                place.pool.free(place)

    def release(self, attempt: str) -> None:
        """Let go of all that an attempt holds, or will be said to have held: it has ended."""
        self._released.add(attempt)
        for pool in self.pools.values():
            pool.release(attempt)

    # Vendor jobs

    def _move(
        self,
        opened: s.Opened,
        step: s.Started | s.Stored | s.Voided | s.Doubted | s.Resolved,
    ) -> None:
        job = self.jobs.get(step.tag)
        if job is None:
            self._wait_for(step.tag, opened, step)
            return
        if job.phase in _FINAL:
            return
        match step:
            case s.Started():
                self._start(job, step, opened)
            case s.Stored():
                self._store(job, step, opened)
            case s.Voided():
                job.phase, job.error, job.id = JobPhase.VOID, step.error, step.id or job.id
                self._bill(job, step.usage, opened)
                self._forget(job)
            case s.Doubted():
                if job.phase is JobPhase.INTENDED:
                    job.phase = JobPhase.UNCERTAIN
            case s.Resolved():
                self._resolve(job, opened)

    def _resolve(self, job: Job, opened: s.Opened) -> None:
        job.phase = JobPhase.RESOLVED
        self._forget(job)
        if _is_person(opened) and not job.is_written_off:  # who has seen that it is not there
            self._unbook(job)
            job.is_written_off = True

    def _start(self, job: Job, step: s.Started, opened: s.Opened) -> None:
        job.id = step.id
        if _is_person(opened):
            job.brokers = [opened]
        elif all(known.owner.name != opened.owner.name for known in job.brokers):
            job.brokers.append(opened)
        if job.phase is not JobPhase.RESOLVED:
            job.phase = JobPhase.STARTED

    def _store(self, job: Job, step: s.Stored, opened: s.Opened) -> None:
        was_given_up = job.phase is JobPhase.RESOLVED
        job.phase, job.id = JobPhase.STORED, step.id
        self._bill(job, step.usage, opened)
        if was_given_up:
            self._take_back(job)

    def _take_back(self, job: Job) -> None:
        # It was there after all, and is paid for.
        for place in job.places:
            request = self.requests[job.intended.requests[place.index]]
            place.pool.free(place)
            if request.place is None:
                self._give(request, place, request.phase)

    def _bill(self, job: Job, usage: Usage, opened: s.Opened) -> None:
        job.usage = usage
        self._unbook(job)
        self._book(opened, usage.qpu_seconds)

    def _unbook(self, job: Job) -> None:
        if not job.is_written_off:
            self._book(job.intended_by, -job.intended.seconds)

    def _book(self, opened: s.Opened, seconds: float) -> None:
        by_broker = self.booked.setdefault(opened.resource, {})
        name = opened.owner.name
        by_broker[name] = by_broker.get(name, 0.0) + seconds

    def _forget(self, job: Job) -> None:
        for place in job.places:
            place.pool.drop(place)
        for request in job.requests:
            if request.place is None or request.place.job is not job:
                continue
            request.place = None
            if request.phase in (RequestPhase.SENT, RequestPhase.CLAIMED):
                request.phase = RequestPhase.ADMITTED

"""The journal of one broker: :class:`LedgerJournal`, from the dispatcher's steps to the ledger.

::

    dispatcher ──steps──► LedgerJournal ──► appender.py   this broker's file
                             │    ▲   └───► results.py    a file for each vendor job's results
              reader.py ─────┴──► state.py, pool.py       what all brokers of the run have noted
              outcomes.py                                 which attempts at tasks have failed

What cannot be written is said in the log. A result that was paid for is delivered all the same; a
vendor job that costs something is not started unless the intent is on the disk.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hybridflow.broker.entry import Entry
from hybridflow.broker.journal import Attached, Claimed, LeftBehind
from hybridflow.broker.ledger import steps as s
from hybridflow.broker.ledger.advice import uncertain, what_to_do
from hybridflow.broker.ledger.appender import Appender
from hybridflow.broker.ledger.compaction import compact
from hybridflow.broker.ledger.folders import check_folder
from hybridflow.broker.ledger.identity import digest, form_of
from hybridflow.broker.ledger.known import Job, JobPhase, RequestRecord
from hybridflow.broker.ledger.outcomes import Outcomes
from hybridflow.broker.ledger.owner import JobEnded, Owner, has_ended, is_over, nobody_knows
from hybridflow.broker.ledger.pool import Place, attempt_of
from hybridflow.broker.ledger.reader import Reader
from hybridflow.broker.ledger.results import read_replies, write_replies
from hybridflow.broker.ledger.state import State
from hybridflow.broker.work import VendorJob
from hybridflow.errors import (
    BackendLostError,
    ErrorRecord,
    HybridflowError,
    LedgerError,
    UncertainError,
)
from hybridflow.kernel import process_born
from hybridflow.records import ClientInfo, Reply, Request, Resource, Usage

__all__ = ["LedgerJournal"]

_log = logging.getLogger(__name__)
_MOST_BUFFERED = 2**20
_LOOK_SECONDS = 0.2
_PATIENCE_SECONDS = 600.0
"""How long a broker of which nobody can say whether it has ended is waited for, since it wrote."""


class LedgerJournal:
    """Keeps a broker's requests and vendor jobs in the ledger of its run.

    Parameters
    ----------
    run
        The run's folder.
    resource
        What the broker drives.
    owner
        This process.
    free
        Whether to run a request again costs nothing: then only the machine's power loss can lose a
        step, and a ledger that cannot be written stops nothing.
    job_ended
        Asked whether the Slurm job of a broker on another machine has ended.
    """

    keeps = True

    def __init__(
        self,
        run: Path,
        resource: Resource,
        owner: Owner,
        *,
        free: bool = False,
        job_ended: JobEnded = nobody_knows,
    ) -> None:
        self._run = run
        self._folder = run / "ledger"
        self._resource = resource
        self._form = form_of(resource)
        self._owner = owner
        self._free = free
        self._job_ended = job_ended
        self._opened = s.Opened(
            version=s.VERSION, owner=owner, resource=resource.name, backend=resource.backend
        )
        self._appender = Appender(self._folder, self._opened, durable=not free)
        self._reader = Reader(self._folder, but=owner.name)
        self._outcomes = Outcomes(run)
        self._state = State(owner.session, self._is_over)
        self._under_way: set[str] = set()
        self._awaited: dict[str, float] = {}
        self._silent: set[str] = set()
        self._heard: dict[str, float] = {}
        self._unstored: dict[str, Sequence[Reply]] = {}
        self._complaint = ""
        self._read_at = 0.0
        self._check_folder()
        compact(self._folder, self._has_ended)
        self._refresh(strict=True)
        self._finish_reading()
        self._free_the_dead()

    def _check_folder(self) -> None:
        # What stands in it is given out as results, and tells whether something is paid for.
        try:
            check_folder(self._folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LedgerError(
                f"the ledger in {self._folder} cannot be trusted: {error.strerror}; move it away, "
                "or name another folder for the run",
                transient=False,
            ) from error

    # -- requests ------------------------------------------------------------------------------

    def admit(self, entry: Entry) -> Claimed | None:
        """Take note of a request; return what it need not be paid for again.

        Raises
        ------
        UncertainError
            If it may have been paid for, which a person has to look up.
        """
        self._read_for(entry)
        request = entry.request
        known = self._state.requests.get(request.id)
        if known is None or known.opened is not self._opened:
            self._admit(request)
        for place in self._offers(request, entry.arrived):
            found = self._take(request, place)
            if found is not None:
                return found
        return None

    @property
    def has_places(self) -> bool:
        """Whether the run knows any results or vendor jobs, of whichever resource."""
        return bool(self._state.pools)

    def knows(self, entry: Entry) -> bool:
        """Whether there is something that a request may claim.

        Raises
        ------
        LedgerError
            If the run's ledger was written by a newer version.
        """
        self._read_for(entry)
        key = digest(entry.request, self._form)
        places = self._pooled(key, entry.request, entry.arrived)
        return next(places, None) is not None

    def _read_for(self, entry: Entry) -> None:
        if entry.arrived > self._read_at:
            self._refresh(strict=True)

    def _admit(self, request: Request) -> None:
        self._note(
            s.Admitted(
                request=request.id,
                digest=digest(request, self._form),
                client=request.client,
                key=request.key,
                pubs=len(request.pubs),
                circuits=sum(pub.circuits for pub in request.pubs),
                shots=sum(pub.circuits * (pub.shots or 0) for pub in request.pubs),
            )
        )

    def _offers(self, request: Request, arrived: float) -> Iterator[Place]:
        record = self._state.requests[request.id]
        if record.place is not None:  # it was sent before, and asks again
            yield record.place
        yield from self._pooled(record.admitted.digest, request, arrived)

    def _pooled(self, key: bytes, request: Request, arrived: float) -> Iterator[Place]:
        pool = self._state.pools.get(key)
        if pool is None:
            return
        for holder in pool.holders():
            if attempt_of(holder) == attempt_of(request.client):
                continue
            ended_well = self._outcomes.ended_well(holder, arrived)
            if ended_well:
                pool.settle(attempt_of(holder))
            elif ended_well is False:
                self._release(holder)
        yield from pool.offers(request.client)
        if self._state.look_at_others():
            yield from pool.offers(request.client)

    def _take(self, request: Request, place: Place) -> Claimed | None:
        job = place.job
        if job.phase is JobPhase.UNCERTAIN:
            self._decide(job)
            return None
        found: Claimed
        if job.phase is JobPhase.STORED:
            reply = self._reply(place)
            if reply is None:
                return None
            found = reply
        elif job.is_open and (job.tag in self._under_way or self._await(job)):
            found = Attached(tag=job.tag)
        else:
            return None
        record = self._state.requests[request.id]
        return found if record.place is place or self._claim(record, place) else None

    def _claim(self, record: RequestRecord, place: Place) -> bool:
        # Where another broker of the run is at work, it may just be claiming the same. Both write
        # before they look, so that at least one of them sees it; whoever does goes without.
        request = record.admitted
        rivals = request.key is None and any(not source.closed for source in self._reader.sources)
        self._note(s.Claimed(request=request.request, tag=place.job.tag, place=place.index))
        self._commit(durable=rivals)
        if not rivals:
            return True
        self._refresh()
        if place.client is request.client:
            return True
        record.place = None
        return False

    def _reply(self, place: Place) -> Reply | None:
        tag = place.job.tag
        try:
            replies = self._unstored.get(tag) or read_replies(self._folder, tag)
            return replies[place.index]
        except (LedgerError, IndexError) as error:
            _log.error("results of vendor job %s are lost: %s", place.job.id, error)
            place.pool.drop(place)
            return None

    def _await(self, job: Job) -> bool:
        # Whether another broker's job is to be waited for: it stores the results, or is taken over.
        if self._free:
            return False
        if job.tag in self._silent and self._is_left(job) is None:
            self._decide(job)
            return False
        self._awaited.setdefault(job.tag, time.monotonic())
        return True

    def _decide(self, job: Job) -> None:
        rule = self._resource.on_uncertain
        if rule == "repeat":
            _log.warning("vendor job with tag %s is uncertain: it may be paid for twice", job.tag)
            self._note(s.Resolved(tag=job.tag))
            return
        raise UncertainError(uncertain(job, self._run, rule == "ask"))

    def delivered(self, entry: Entry) -> None:
        """Note that a request was given its reply."""
        self._note(s.Delivered(request=entry.request.id))

    def failed(self, entry: Entry, error: HybridflowError) -> None:
        """Note that a request was given an error."""
        self._note(s.Failed(request=entry.request.id, error=ErrorRecord.of(error)))

    def cancelled(self, entry: Entry) -> None:
        """Note that a request was cancelled."""
        self._note(s.Cancelled(request=entry.request.id))

    def abandoned(self, entry: Entry) -> None:
        """Note that the process that made a request has died before it had the outcome."""
        self._note(s.Cancelled(request=entry.request.id, died=True))

    def gone(self, client: ClientInfo) -> None:
        """Note that a process has died: what its unfinished attempts hold is free."""
        for holder in self._holders():
            same = (holder.host, holder.pid) == (client.host, client.pid)
            if same and not self._outcomes.ended_well(holder, time.monotonic()):
                self._release(holder)

    def _holders(self) -> list[ClientInfo]:
        found = {
            attempt_of(holder): holder
            for pool in self._state.pools.values()
            for holder in pool.holders()
        }
        return list(found.values())

    def _release(self, holder: ClientInfo) -> None:
        self._note(s.Released(attempt=attempt_of(holder)))

    # -- vendor jobs ---------------------------------------------------------------------------

    def intend(self, job: VendorJob, seconds: float = 0.0) -> None:
        """Note that the vendor is about to be asked for a job.

        Raises
        ------
        LedgerError
            If that cannot be made durable.
        """
        requests = tuple(entry.request.id for entry in job.work.entries)
        self._note(s.Intended(tag=job.tag, requests=requests, cuts=job.cuts, seconds=seconds))
        try:
            self._appender.commit(durable=True)
        except LedgerError as error:
            if not self._free:
                self._note(s.Voided(tag=job.tag, error=ErrorRecord.of(error)))
                raise
            self._complain(error)
        self._under_way.add(job.tag)

    def started(self, job: VendorJob) -> None:
        """Note the vendor's id."""
        assert job.id is not None
        self._note(s.Started(tag=job.tag, id=job.id))
        self._commit(durable=True)

    def stored(self, job: VendorJob, replies: Sequence[Reply], usage: Usage) -> None:
        """Keep the replies of a vendor job, and book what it has cost."""
        assert job.id is not None
        self._under_way.discard(job.tag)
        try:
            write_replies(self._folder, job.tag, replies, durable=not self._free)
        except LedgerError as error:
            # Here they are known; after the broker's end they can only be asked of the vendor.
            if not self._free:
                self._unstored[job.tag] = list(replies)
            _log.error(
                "the results of vendor job %s cannot be stored and are delivered only: %s",
                job.id,
                error,
            )
            self._state.apply(self._opened, s.Stored(tag=job.tag, id=job.id, usage=usage))
            return
        self._note(s.Stored(tag=job.tag, id=job.id, usage=usage))
        self._commit(durable=True)

    def void(self, job: VendorJob, error: HybridflowError, usage: Usage) -> None:
        """Note that a vendor job has no results."""
        self._under_way.discard(job.tag)
        record = ErrorRecord.of(error)
        self._note(s.Voided(tag=job.tag, id=job.id, error=record, usage=usage))
        self._commit(durable=True)

    def uncertain(self, job: VendorJob) -> str:
        """Note that nobody can say whether a job was started, and return what a person can do."""
        self._under_way.discard(job.tag)
        self._note(s.Doubted(tag=job.tag))
        if self._resource.on_uncertain == "repeat":
            self._note(s.Resolved(tag=job.tag))
        self._commit(durable=True)
        return what_to_do(self._run, job.tag)

    # -- other brokers -------------------------------------------------------------------------

    def left_behind(self) -> Sequence[LeftBehind]:
        """Return the vendor jobs of brokers that have ended, to be taken over."""
        found = []
        for job in list(self._state.jobs.values()):
            if not self._is_mine(job) or not self._is_orphan(job):
                continue
            if self._free:
                lost = ErrorRecord.of(BackendLostError("its simulator has ended"))
                self._note(s.Voided(tag=job.tag, id=job.id, error=lost))
            else:
                found.append(self._take_over(job))
        return found

    def _is_mine(self, job: Job) -> bool:
        # A name may be given to another device; its vendor would not know the job.
        opened = job.opened
        return (opened.resource, opened.backend) == (self._resource.name, self._resource.backend)

    def _take_over(self, job: Job) -> LeftBehind:
        self._under_way.add(job.tag)
        return LeftBehind(tag=job.tag, id=job.id, cuts=job.intended.cuts)

    @property
    def awaits(self) -> bool:
        """Whether requests wait for vendor jobs of other brokers."""
        return bool(self._awaited)

    def elsewhere(self) -> Sequence[str | LeftBehind]:
        """Return what has come of them: the tags of those that ended, and those left behind."""
        found: list[str | LeftBehind] = []
        if not self._awaited or time.monotonic() < self._read_at + _LOOK_SECONDS:
            return found
        self._refresh()
        for tag in list(self._awaited):
            job = self._state.jobs[tag]
            is_left = self._is_left(job) if job.is_open else None
            if is_left:
                found.append(self._take_over(job))
            elif not job.is_open or (is_left is None and self._has_gone_silent(job)):
                found.append(tag)
            else:
                continue
            del self._awaited[tag]
        return found

    def _has_gone_silent(self, job: Job) -> bool:
        heard = (self._heard.get(opened.owner.name, 0.0) for opened in job.brokers)
        if time.monotonic() < max(self._awaited[job.tag], *heard) + _PATIENCE_SECONDS:
            return False
        self._silent.add(job.tag)
        return True

    def _is_orphan(self, job: Job) -> bool:
        if not job.is_open or job.tag in self._under_way:
            return False
        ended = self._is_left(job)
        if ended is None:
            _log.warning(
                "vendor job %s of broker %s on %s is not taken over: nobody can say whether that "
                "broker has ended",
                job.id or f"with tag {job.tag}",
                job.opened.owner.name,
                job.opened.owner.host,
            )
        return bool(ended)

    def _is_left(self, job: Job) -> bool | None:
        ended = [self._has_ended(opened.owner) for opened in job.brokers]
        if False in ended:
            return False
        return None if None in ended else True

    def _is_over(self, owner: Owner) -> bool:
        # A run that goes on gets what was paid for, also where nobody can say.
        return is_over(owner, self._owner) is not False

    def _has_ended(self, owner: Owner) -> bool | None:
        return owner.name in self._state.closed or has_ended(owner, self._owner, self._job_ended)

    def booked(self) -> float:
        """Return the QPU seconds that this run's other brokers have booked on this resource.

        What they have under way, and what is uncertain, counts as it was estimated.
        """
        self._refresh()
        by_broker = self._state.booked.get(self._resource.name, {})
        return sum(seconds for name, seconds in by_broker.items() if name != self._owner.name)

    def _refresh(self, *, strict: bool = False) -> None:
        self._read_at = time.monotonic()
        try:
            for opened, step in self._reader.news():
                self._heard[opened.owner.name] = self._read_at
                self._state.apply(opened, step)
        except LedgerError as error:
            if strict and not error.transient:
                raise
            self._complain(error)

    def _finish_reading(self) -> None:
        # What comes no more need not be looked for: of those that had ended when it was read last.
        ended = [
            source
            for source in self._reader.sources
            if source.opened is not None and self._has_ended(source.opened.owner)
        ]
        self._refresh()
        for source in ended:
            source.closed = True
        for source in self._reader.sources:
            if source.damaged and source.opened is None:
                _log.error(
                    "nobody can read whose %s is: what stands in it does not count, and may be "
                    "paid for once more; `hybridflow ledger verify` has all damage",
                    source.file,
                )

    def _free_the_dead(self) -> None:
        # This broker takes the place of one whose clients may have died meanwhile.
        for holder in self._holders():
            here = holder.host == self._owner.host
            if here and holder.namespace in (0, self._owner.namespace) and _has_died(holder):
                self._release(holder)

    # -- writing -------------------------------------------------------------------------------

    def close(self) -> None:
        """Write what is left, and say that nothing comes any more."""
        if not self._appender.is_begun:
            return  # nothing has happened
        self._note(s.Closed())
        self._commit(durable=True)
        self._appender.close()

    def _note(self, step: s.Step) -> None:
        self._state.apply(self._opened, step)
        self._appender.add(step)
        if self._appender.size > _MOST_BUFFERED:
            self._commit(durable=False)

    def _commit(self, *, durable: bool) -> None:
        try:
            self._appender.commit(durable=durable)
        except LedgerError as error:
            self._complain(error)

    def _complain(self, error: LedgerError) -> None:
        # Once, and not for each of a simulator's jobs.
        if str(error) != self._complaint:
            _log.error("%s", error)
        self._complaint = str(error)


def _has_died(client: ClientInfo) -> bool:
    born = process_born(client.pid)
    return born is None or (client.born != 0 and born != client.born)

"""Which request gets results that were paid for already: those whose attempt has failed or died.

Where another broker of the run is at work, it may just be claiming the same. Both write before they
look, so that at least one of them sees it; whoever does goes without.
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from hybridflow.broker.journal import Attached, Claimed
from hybridflow.broker.ledger import steps as s
from hybridflow.broker.ledger.advice import uncertain
from hybridflow.broker.ledger.custody import Custody
from hybridflow.broker.ledger.known import Job, JobPhase, RequestRecord
from hybridflow.broker.ledger.notes import Notes
from hybridflow.broker.ledger.outcomes import Outcomes
from hybridflow.broker.ledger.owner import Owner
from hybridflow.broker.ledger.pool import Place, attempt_of
from hybridflow.broker.ledger.results import read_replies
from hybridflow.broker.ledger.unstored import Unstored
from hybridflow.errors import LedgerError, UncertainError
from hybridflow.kernel import process_born
from hybridflow.records import ClientInfo, OnUncertain, Reply, Request

__all__ = ["Claims"]

_log = logging.getLogger(__name__)


class Claims:
    """Gives out what is there for a request.

    Parameters
    ----------
    run
        The run's folder.
    notes, custody
        What is known of it, and who looks after its vendor jobs.
    on_uncertain
        What becomes of a request that may have been paid for.
    unstored
        Replies that are not on the disk.
    """

    def __init__(
        self,
        run: Path,
        notes: Notes,
        custody: Custody,
        on_uncertain: OnUncertain,
        unstored: Unstored,
    ) -> None:
        self._unstored = unstored
        self._run = run
        self._notes = notes
        self._custody = custody
        self._on_uncertain = on_uncertain
        self._outcomes = Outcomes(run)

    # What there is for a request

    def claim(self, request: Request, arrived: float) -> Claimed | None:
        """Return what a request that was admitted need not be paid for again.

        Raises
        ------
        UncertainError
            If it may have been paid for, which a person has to look up.
        """
        for place in self._offers(request, arrived):
            found = self._take(request, place)
            if found is not None:
                return found
        return None

    def has_offers(self, key: bytes, request: Request, arrived: float) -> bool:
        """Whether there is something for a request with this digest; it need not be admitted."""
        return next(self._pooled(key, request, arrived), None) is not None

    def _offers(self, request: Request, arrived: float) -> Iterator[Place]:
        record = self._notes.state.requests[request.id]
        if record.place is not None:  # it was sent before, and asks again
            yield record.place
        yield from self._pooled(record.admitted.digest, request, arrived)

    def _pooled(self, key: bytes, request: Request, arrived: float) -> Iterator[Place]:
        pool = self._notes.state.pools.get(key)
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
        if self._notes.state.look_at_others():
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
        elif job.is_open and (self._custody.has(job.tag) or self._await(job)):
            found = Attached(tag=job.tag)
        else:
            return None
        record = self._notes.state.requests[request.id]
        return found if record.place is place or self._claim(record, place) else None

    def _claim(self, record: RequestRecord, place: Place) -> bool:
        request = record.admitted
        rivals = request.key is None and self._notes.has_rivals
        self._notes.note(s.Claimed(request=request.request, tag=place.job.tag, place=place.index))
        self._notes.commit(durable=rivals)
        if not rivals:
            return True
        self._notes.read()
        if place.client is request.client:
            return True
        record.place = None
        return False

    def _reply(self, place: Place) -> Reply | None:
        tag = place.job.tag
        try:
            replies = self._unstored.get(tag) or read_replies(self._run / "ledger", tag)
            return replies[place.index]
        except (LedgerError, IndexError) as error:
            _log.error("results of vendor job %s are lost: %s", place.job.id, error)
            place.pool.drop(place)
            return None

    def _await(self, job: Job) -> bool:
        if self._custody.is_silent(job):
            self._decide(job)
            return False
        return self._custody.await_(job)

    def _decide(self, job: Job) -> None:
        if self._on_uncertain == "repeat":
            _log.warning("vendor job with tag %s is uncertain: it may be paid for twice", job.tag)
            self._notes.note(s.Resolved(tag=job.tag))
            return
        raise UncertainError(uncertain(job, self._run, self._on_uncertain == "ask"))

    # What is nobody's any more

    def gone(self, client: ClientInfo) -> None:
        """Note that a process has died: what its unfinished attempts hold is free."""
        for holder in self._holders():
            same = (holder.host, holder.pid) == (client.host, client.pid)
            if same and not self._outcomes.ended_well(holder, time.monotonic()):
                self._release(holder)

    def free_the_dead(self, owner: Owner) -> None:
        """Free what clients of this machine hold that have died before this broker began."""
        for holder in self._holders():
            here = holder.host == owner.host
            if here and holder.namespace in (0, owner.namespace) and _has_died(holder):
                self._release(holder)

    def _holders(self) -> list[ClientInfo]:
        found = {
            attempt_of(holder): holder
            for pool in self._notes.state.pools.values()
            for holder in pool.holders()
        }
        return list(found.values())

    def _release(self, holder: ClientInfo) -> None:
        self._notes.note(s.Released(attempt=attempt_of(holder)))


def _has_died(client: ClientInfo) -> bool:
    born = process_born(client.pid)
    return born is None or (client.born != 0 and born != client.born)

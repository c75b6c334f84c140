"""The journal of one broker: :class:`LedgerJournal`, from the dispatcher's steps to the ledger.

::

    dispatcher ──steps──► LedgerJournal ─┬──► claims.py    which request gets what is there already
                                │        └──► custody.py   who looks after which vendor job
                                │                 │
                                ▼                 ▼
                unstored.py ► results.py      notes.py     what is known: written, and read
                          a file for each         ├──► appender.py   this broker's file
                          vendor job's results    ├──► reader.py     those of all others
                                                  └──► state.py      what all that comes to

What cannot be written is said in the log. A result that was paid for is delivered all the same; a
vendor job that costs something is not started unless the intent is on the disk.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from hybridflow.broker.entry import Entry
from hybridflow.broker.journal import Claimed, LeftBehind
from hybridflow.broker.ledger import steps as s
from hybridflow.broker.ledger.advice import what_to_do
from hybridflow.broker.ledger.appender import Appender
from hybridflow.broker.ledger.claims import Claims
from hybridflow.broker.ledger.compaction import compact
from hybridflow.broker.ledger.custody import Custody
from hybridflow.broker.ledger.folders import check_folder
from hybridflow.broker.ledger.identity import digest, form_of
from hybridflow.broker.ledger.notes import Notes
from hybridflow.broker.ledger.owner import JobEnded, Owner, nobody_knows
from hybridflow.broker.ledger.reader import Reader
from hybridflow.broker.ledger.results import write_replies
from hybridflow.broker.ledger.unstored import Unstored
from hybridflow.broker.work import VendorJob
from hybridflow.errors import ErrorRecord, HybridflowError, LedgerError
from hybridflow.records import ClientInfo, Reply, Request, Resource, Usage

__all__ = ["LedgerJournal"]

_log = logging.getLogger(__name__)


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
        opened = s.Opened(
            version=s.VERSION, owner=owner, resource=resource.name, backend=resource.backend
        )
        appender = Appender(self._folder, opened, durable=not free)
        reader = Reader(self._folder, but=owner.name)
        self._notes = Notes(opened, appender, reader, job_ended)
        self._custody = Custody(self._notes, free=free)
        self._unstored = Unstored(self._folder)
        self._claims = Claims(
            run, self._notes, self._custody, resource.on_uncertain, self._unstored
        )
        self._check_folder()
        compact(self._folder, self._notes.has_ended)
        self._notes.read_all()
        self._claims.free_the_dead(owner)

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
        known = self._notes.state.requests.get(request.id)
        if known is None or known.opened is not self._notes.opened:
            self._admit(request)
        if request.key is not None:
            entry.identity = self._notes.state.requests[request.id].admitted.digest
        return self._claims.claim(request, entry.arrived)

    @property
    def has_places(self) -> bool:
        """Whether the run knows any results or vendor jobs, of whichever resource."""
        return bool(self._notes.state.pools)

    def knows(self, entry: Entry) -> bool:
        """Whether there is something that a request may claim.

        Raises
        ------
        LedgerError
            If the run's ledger was written by a newer version.
        """
        self._read_for(entry)
        key = digest(entry.request, self._form)
        if entry.request.key is not None:
            entry.identity = key
        return self._claims.has_offers(key, entry.request, entry.arrived)

    def _read_for(self, entry: Entry) -> None:
        if entry.arrived > self._notes.read_at:
            self._notes.read(strict=True)

    def _admit(self, request: Request) -> None:
        self._notes.note(
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

    def delivered(self, entry: Entry) -> None:
        """Note that a request was given its reply."""
        self._notes.note(s.Delivered(request=entry.request.id))

    def failed(self, entry: Entry, error: HybridflowError) -> None:
        """Note that a request was given an error."""
        self._notes.note(s.Failed(request=entry.request.id, error=ErrorRecord.of(error)))

    def cancelled(self, entry: Entry) -> None:
        """Note that a request was cancelled."""
        self._notes.note(s.Cancelled(request=entry.request.id))

    def abandoned(self, entry: Entry) -> None:
        """Note that the process that made a request has died before it had the outcome."""
        self._notes.note(s.Cancelled(request=entry.request.id, died=True))

    def gone(self, client: ClientInfo) -> None:
        """Note that a process has died: what its unfinished attempts hold is free."""
        self._claims.gone(client)

    # -- vendor jobs ---------------------------------------------------------------------------

    def intend(self, job: VendorJob, seconds: float = 0.0) -> None:
        """Note that the vendor is about to be asked for a job.

        Raises
        ------
        LedgerError
            If that cannot be made durable.
        """
        requests = tuple(entry.request.id for entry in job.work.entries)
        self._notes.note(s.Intended(tag=job.tag, requests=requests, cuts=job.cuts, seconds=seconds))
        try:
            self._notes.insist()
        except LedgerError as error:
            if not self._free:
                self._notes.note(s.Voided(tag=job.tag, error=ErrorRecord.of(error)))
                raise
            self._notes.complain(error)
        self._custody.take(job.tag)

    def started(self, job: VendorJob) -> None:
        """Note the vendor's id."""
        assert job.id is not None
        self._notes.note(s.Started(tag=job.tag, id=job.id))
        self._notes.commit(durable=True)

    def stored(self, job: VendorJob, replies: Sequence[Reply], usage: Usage) -> None:
        """Keep the replies of a vendor job, and book what it has cost."""
        assert job.id is not None
        self._custody.leave(job.tag)
        stored = s.Stored(tag=job.tag, id=job.id, usage=usage)
        try:
            write_replies(self._folder, job.tag, replies, durable=not self._free)
        except LedgerError as error:
            if not self._free:
                self._unstored.keep(stored, replies)
            _log.error(
                "the results of vendor job %s cannot be stored and are delivered only: %s",
                job.id,
                error,
            )
            self._notes.state.apply(self._notes.opened, stored)
            return
        self._notes.note(stored)
        self._store_the_unstored()
        self._notes.commit(durable=True)

    def _store_the_unstored(self) -> None:
        for late in self._unstored.store():
            self._notes.note(late)

    def void(self, job: VendorJob, error: HybridflowError, usage: Usage) -> None:
        """Note that a vendor job has no results."""
        self._custody.leave(job.tag)
        record = ErrorRecord.of(error)
        self._notes.note(s.Voided(tag=job.tag, id=job.id, error=record, usage=usage))
        self._notes.commit(durable=True)

    def uncertain(self, job: VendorJob) -> str:
        """Note that nobody can say whether a job was started, and return what a person can do."""
        self._custody.leave(job.tag)
        self._notes.note(s.Doubted(tag=job.tag))
        if self._resource.on_uncertain == "repeat":
            self._notes.note(s.Resolved(tag=job.tag))
        self._notes.commit(durable=True)
        return what_to_do(self._run, job.tag)

    # -- other brokers -------------------------------------------------------------------------

    def left_behind(self) -> Sequence[LeftBehind]:
        """Return the vendor jobs of brokers that have ended, to be taken over."""
        return self._custody.left_behind()

    @property
    def awaits(self) -> bool:
        """Whether requests wait for vendor jobs of other brokers."""
        return self._custody.awaits

    def elsewhere(self) -> Sequence[str | LeftBehind]:
        """Return what has come of them: the tags of those that ended, and those left behind."""
        return self._custody.news()

    def booked(self) -> float:
        """Return the QPU seconds that this run's other brokers have booked on this resource.

        What they have under way, and what is uncertain, counts as it was estimated.
        """
        self._notes.read()
        by_broker = self._notes.state.booked.get(self._resource.name, {})
        return sum(seconds for name, seconds in by_broker.items() if name != self._owner.name)

    def close(self) -> None:
        """Write what is left, and say that nothing comes any more."""
        self._store_the_unstored()
        self._notes.close()

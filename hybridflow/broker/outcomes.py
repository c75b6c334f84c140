"""What comes of requests and vendor jobs: told to the owners, the journal and the run's events."""

import time
from collections.abc import Iterable, Sequence

from hybridflow.broker.allowance import Allowance
from hybridflow.broker.entry import Entry
from hybridflow.broker.gather import Gather
from hybridflow.broker.journal import Journal
from hybridflow.broker.pending import copy_of
from hybridflow.broker.queue import Queue
from hybridflow.broker.vendor import Vendor
from hybridflow.broker.work import VendorJob
from hybridflow.errors import HybridflowError
from hybridflow.events import EventLog, VendorJobEnded, VendorJobStarted
from hybridflow.records import (
    Capabilities,
    PackedResult,
    Provenance,
    Reply,
    Resource,
    Usage,
)

__all__ = ["Outcomes"]


class Outcomes:
    """Tells everyone concerned, in the order that the journal asks for.

    Attributes
    ----------
    calibration
        The target's calibration, for the results to say.
    """

    def __init__(
        self,
        resource: Resource,
        capabilities: Capabilities,
        *,
        queue: Queue,
        journal: Journal,
        gather: Gather,
        allowance: Allowance,
        vendor: Vendor,
        log: EventLog,
    ) -> None:
        self.calibration = ""
        self._resource = resource
        self._capabilities = capabilities
        self._queue = queue
        self._journal = journal
        self._gather = gather
        self._allowance = allowance
        self._vendor = vendor
        self._events = log

    def started(self, job: VendorJob) -> None:
        """Tell that a vendor job has its id."""
        assert job.id is not None
        self._journal.started(job)
        entries = job.work.entries
        self._gather.left(entry.request.client for entry in entries)
        self._events.emit(
            VendorJobStarted(
                resource=self._resource.name,
                vendor_job_id=job.id,
                requests=len(job.cuts),
                pubs=job.pubs,
                tasks=tuple(sorted({entry.request.client.task for entry in entries} - {""})),
            )
        )

    def done(self, job: VendorJob, parts: Sequence[tuple[PackedResult, ...]]) -> None:
        """Store the results of a vendor job, then give each request its part."""
        known = self.book(job)
        usage = known or Usage()
        self._gather.ended(job.age)
        if known is not None:
            self._allowance.learn(job, usage)
        replies = [self._reply(job, place, part, usage) for place, part in enumerate(parts)]
        self._journal.stored(job, replies, usage)
        for entry, reply in zip(job.work.entries, replies, strict=False):  # of an earlier broker's
            self._gather.served(entry.request.client)
            self.reply(entry, reply)

    def _reply(
        self, job: VendorJob, place: int, part: tuple[PackedResult, ...], usage: Usage
    ) -> Reply:
        assert job.id is not None
        entries = job.work.entries
        provenance = Provenance(
            resource=self._resource.name,
            backend=self._resource.backend,
            simulator=self._capabilities.simulator,
            vendor_job_id=job.id,
            batch_requests=len(job.cuts),
            batch_pubs=job.pubs,
            queue_seconds=job.started - entries[place].arrived if entries else 0.0,
            run_seconds=job.age,
            qpu_seconds=job.cuts[place].share * usage.qpu_seconds,
            calibration=self.calibration,
        )
        return Reply(results=part, provenance=provenance)

    def reply(self, entry: Entry, reply: Reply) -> None:
        """Give a request its results."""
        if self._queue.settle(entry, reply):
            self._journal.delivered(entry)

    def fail(self, entries: Iterable[Entry], error: HybridflowError) -> None:
        """Fail requests, each with a copy of the error."""
        for entry in entries:
            if self._queue.settle(entry, copy_of(error)):
                self._journal.failed(entry, error)

    def void(self, job: VendorJob, error: HybridflowError) -> Usage | None:
        """Tell that a vendor job has no results; return what it has cost, if that is known."""
        usage = self.book(job, str(error))
        self._journal.void(job, error, usage or Usage())
        return usage

    def uncertain(self, job: VendorJob) -> str:
        """Tell that nobody can say whether a job was started; return what a person can do.

        It is booked as it was estimated.
        """
        self._allowance.book(job, None)
        return self._journal.uncertain(job)

    def book(self, job: VendorJob, error: str = "") -> Usage | None:
        """Book what a vendor job has cost; return it, if it is known."""
        usage = self._vendor.usage(job)
        self._allowance.book(job, usage)
        if job.id is not None:
            self._events.emit(self._ended(job, usage or Usage(), error))
        return usage

    def _ended(self, job: VendorJob, usage: Usage, error: str) -> VendorJobEnded:
        assert job.id is not None
        arrivals = [entry.arrived for entry in job.work.entries]
        return VendorJobEnded(
            resource=self._resource.name,
            vendor_job_id=job.id,
            qpu_seconds=usage.qpu_seconds,
            shots=usage.shots,
            queue_seconds=job.started - min(arrivals, default=time.monotonic()),
            error=error,
        )

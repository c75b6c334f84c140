"""The way out: what waits becomes vendor jobs, as many as there are lanes and may be paid for."""

import logging
import random
import time

from hybridflow.broker.allowance import Allowance
from hybridflow.broker.fair import FairOrder, Room
from hybridflow.broker.gather import Gather
from hybridflow.broker.journal import Journal
from hybridflow.broker.lanes import Lanes
from hybridflow.broker.merging import merge
from hybridflow.broker.outcomes import Outcomes
from hybridflow.broker.queue import Queue
from hybridflow.broker.recovery import Recovery
from hybridflow.broker.vendor import Vendor, ours
from hybridflow.broker.work import VendorJob, Work
from hybridflow.errors import BackendLostError, HybridflowError, InternalError
from hybridflow.records import Capabilities, Resource

__all__ = ["Departure"]

_log = logging.getLogger(__name__)
_MOMENT_SECONDS = 0.1


class Departure:
    """Starts vendor jobs.

    Parameters
    ----------
    resource, capabilities
        What is driven.
    queue, order, gather, lanes, allowance
        Who waits, who goes first, whether others are worth waiting for, whether there is a lane,
        and how much may go.
    vendor, journal, outcomes, recovery
        Who is asked, who takes note before, who is told after, and what becomes of a refusal.

    Attributes
    ----------
    hold
        Seconds after which it is worth to look again, though nothing has happened; 0: none.
    """

    def __init__(
        self,
        resource: Resource,
        capabilities: Capabilities,
        *,
        queue: Queue,
        order: FairOrder,
        gather: Gather,
        lanes: Lanes,
        allowance: Allowance,
        vendor: Vendor,
        journal: Journal,
        outcomes: Outcomes,
        recovery: Recovery,
    ) -> None:
        self.hold = 0.0
        self._resource = resource
        self._late_binding = capabilities.late_binding
        self._queue = queue
        self._order = order
        self._gather = gather
        self._lanes = lanes
        self._allowance = allowance
        self._vendor = vendor
        self._journal = journal
        self._outcomes = outcomes
        self._recovery = recovery

    def turn(self) -> None:
        """Fill the lanes that are free with what waits."""
        self.hold = 0.0
        while (len(self._order) or self._lanes.again) and not self._queue.overdue:
            self.hold = self._lanes.refusals.rest
            room = self._allowance.room(self._lanes.running)
            full = self._order.fills(room)
            if self.hold or not self._lanes.free(full=full):
                return
            self.hold = 0.0 if full else self._time_to_gather()
            work = None if self.hold else self._next_work(room)
            if work is None:
                return
            refusal = self._allowance.refusal(work.load, self._lanes.running)
            if refusal is not None:
                self._outcomes.fail(work.entries, refusal)
            elif work.entries:
                self._start(work)

    def _time_to_gather(self) -> float:
        if self._lanes.again or self._queue.closed:
            return 0.0
        return self._gather.rest(self._order.clients())

    def _next_work(self, room: Room) -> Work | None:
        work = self._lanes.next_again()
        if work is not None:
            return work
        taken = self._order.take(room, self._lanes.share(len(self._order)))
        return Work(self._queue.run(taken)) if taken else None

    def _start(self, work: Work) -> None:
        requests = [entry.request for entry in work.entries]
        weights = [entry.work for entry in work.entries]
        batch, cuts = merge(requests, weights, late_binding=self._late_binding)
        job = VendorJob(work, cuts)
        try:
            self._journal.intend(job, self._allowance.device.seconds(job.load))
        except HybridflowError as error:
            self._outcomes.fail(work.entries, error)
            return
        if not self._is_still_allowed(job):
            return
        try:
            job.id = self._vendor.backend.start(batch, tag=job.tag)
        except BackendLostError as error:
            self._recovery.lost(error, starting=job)
        except Exception as error:
            self._not_started(job, ours(error))
        else:
            self._lanes.refusals.succeeded()
            self._lanes.running.append(job)
            self._outcomes.started(job)

    def _is_still_allowed(self, job: VendorJob) -> bool:
        # Another broker of the run may have intended a job in the same instant. Each writes before
        # it looks, so that at least one of them sees it: whoever does takes its own back, waits for
        # a moment of its own, and looks again.
        refusal = self._allowance.refusal(job.load, self._lanes.running)
        if refusal is None:
            return True
        self._outcomes.void(job, refusal)
        self._lanes.again.append(job.work)
        time.sleep(random.uniform(0, _MOMENT_SECONDS))
        return False

    def _not_started(self, job: VendorJob, error: HybridflowError) -> None:
        if isinstance(error, InternalError):
            # A backend that fails in this way may have been given the vendor's answer.
            _log.error("the backend of %r failed to start a job: %s", self._resource.name, error)
            self._recovery.unanswered(job, error)
        else:
            self._recovery.refused(job, error)

"""The one thread that owns the backend: batches out, vendor jobs, results back.

::

    queue ─► intake ─► fair order ─► departure ──start──► vendor jobs in flight ──► result ──► cut
               │           ▲            ▲                    ▲    │                             │
            journal        │            └───── recovery ◄────┼────┘  failed, refused, lost      │
               │           │                        adoption─┘ of jobs of earlier brokers       │
               └───────────┴────────────────────── outcomes ◄───────────────────────────────────┘

A backend's handle may not be shared, so everything that touches it happens in this thread. Who goes
next is decided in ``fair.py``, how much may go in ``allowance.py``, whether a lane is free in
``lanes.py``, what the vendor says in ``inquiry.py``, what becomes of a failure in ``recovery.py``;
who is told of it in ``outcomes.py``.
"""

import logging
import math
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future

from hybridflow.backends.base import Backend
from hybridflow.broker.adoption import Adoption
from hybridflow.broker.allowance import Allowance
from hybridflow.broker.departure import Departure
from hybridflow.broker.fair import FairOrder
from hybridflow.broker.gather import Gather
from hybridflow.broker.inquiry import Failure, Inquiry, Unknown
from hybridflow.broker.intake import Intake
from hybridflow.broker.journal import Journal
from hybridflow.broker.lanes import Lanes
from hybridflow.broker.outcomes import Outcomes
from hybridflow.broker.outlook import Outlook
from hybridflow.broker.queue import Queue
from hybridflow.broker.recovery import Recovery
from hybridflow.broker.vendor import Vendor, ours
from hybridflow.broker.work import Limits, VendorJob
from hybridflow.errors import (
    BackendLostError,
    BrokerLostError,
    HybridflowError,
)
from hybridflow.events import BrokerStarted, BrokerStopped, EventLog
from hybridflow.records import (
    Capabilities,
    Description,
    Resource,
)

__all__ = ["Dispatcher"]

_log = logging.getLogger(__name__)
_ELSEWHERE_SECONDS = 0.25


class Dispatcher:
    """Drives one backend, from its acquisition to its release, in the thread that runs it.

    Parameters
    ----------
    resource, backend
        What is driven.
    queue
        Where requests come from; it is closed and emptied when the dispatcher ends.
    limits
        Bounds.
    journal
        The run's record.
    log
        Where events go.
    on_end
        Called at the end of :meth:`run`.

    Attributes
    ----------
    ready
        The resource's description, or why the backend could not be acquired.
    error
        Why the dispatcher gave up; None while it runs, and when it was asked to end.
    allowance
        How much may be started; its deadline may be set in any thread.
    """

    def __init__(
        self,
        resource: Resource,
        backend: Backend,
        queue: Queue,
        limits: Limits,
        journal: Journal,
        log: EventLog,
        on_end: Callable[[], None],
    ) -> None:
        self.ready: Future[Description] = Future()
        self.error: HybridflowError | None = None
        self._resource = resource
        self._backend = backend
        self._capabilities: Capabilities = backend.capabilities
        self._queue = queue
        self._limits = limits
        self._journal = journal
        self._events = log
        self._on_end = on_end
        self._assemble()

    def _assemble(self) -> None:
        resource, capabilities, limits = self._resource, self._capabilities, self._limits
        gather = Gather(capabilities.fixed_seconds)
        self._lanes = Lanes(resource, capabilities)
        self._vendor = Vendor(
            resource.name, self._backend, self._queue, limits, self._while_the_vendor_rests
        )
        self.allowance = Allowance(resource, capabilities, limits, self._journal)
        order = FairOrder(
            self.allowance.device, ahead=resource.batch_seconds, ageing=limits.ageing_seconds
        )
        self._outcomes = Outcomes(
            resource,
            capabilities,
            queue=self._queue,
            journal=self._journal,
            gather=gather,
            allowance=self.allowance,
            vendor=self._vendor,
            log=self._events,
        )
        self._inquiry = Inquiry(resource, capabilities, self._vendor)
        self._intake = Intake(self._queue, self._journal, order, gather, self._outcomes)
        self._recovery = Recovery(
            resource,
            capabilities,
            limits,
            vendor=self._vendor,
            lanes=self._lanes,
            outcomes=self._outcomes,
            intake=self._intake,
            finished=self._finished,
        )
        self._adoption = Adoption(
            resource,
            capabilities,
            journal=self._journal,
            vendor=self._vendor,
            lanes=self._lanes,
            outcomes=self._outcomes,
            intake=self._intake,
        )
        self._departure = Departure(
            resource,
            capabilities,
            queue=self._queue,
            order=order,
            gather=gather,
            lanes=self._lanes,
            allowance=self.allowance,
            vendor=self._vendor,
            journal=self._journal,
            outcomes=self._outcomes,
            recovery=self._recovery,
        )

    def outlook(self) -> Outlook:
        """Return what is to be expected of a request that comes now; in any thread, at once."""
        running = self._lanes.out
        under_way, work = self._queue.load
        waiting = max(0.0, work - sum(job.load for job in running))
        requests = max(0, under_way - sum(len(job.work.entries) for job in running))
        fixed, rate = self.allowance.own()
        is_refused = self._lanes.refusals.rest > 0 or self._vendor.is_lost
        return Outlook(
            online=not (is_refused or self._queue.closed),
            keeps=self._journal.keeps and (self._journal.has_places or under_way > 0),
            wait_seconds=self.allowance.ahead(running, requests, waiting),
            fixed_seconds=fixed,
            rate=rate,
        )

    # -- life ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Acquire the backend, serve until the queue is closed, release the backend."""
        broker = f"{self._resource.name}-{uuid.uuid4().hex[:8]}"
        started = BrokerStarted(
            resource=self._resource.name, backend=self._resource.backend, broker=broker
        )
        try:
            description = self._open()
            self._events.emit(started)
        except BaseException as error:
            self._queue.close(ours(error), 0)
            self._vendor.release()
            self._journal.close()
            self.ready.set_exception(error)
            return
        self.ready.set_result(description)
        try:
            self._serve()
        except BaseException as error:
            if not isinstance(error, HybridflowError):
                _log.exception("the broker of %r failed", self._resource.name)
            self.error = ours(error)
        self._close(self.error or self._stopped_error())
        reason = str(self.error or "")
        self._events.emit(BrokerStopped(resource=self._resource.name, broker=broker, reason=reason))
        self._on_end()

    def _open(self) -> Description:
        self._backend.acquire()
        target = self._backend.target()
        self._outcomes.calibration = target.calibration
        self._adoption.begin()
        return Description(
            resource=self._resource.name,
            backend=self._resource.backend,
            capabilities=self._capabilities,
            target=target,
        )

    def _serve(self) -> None:
        while not self._finished():
            self._intake.turn()
            self._adoption.turn()
            self._departure.turn()
            while self._intake.follow():
                self._departure.turn()
            self._watch()

    def _while_the_vendor_rests(self) -> None:
        # It was lost, say: who asks for what is there already, or cancels, does not wait for it.
        self._intake.turn()
        self._adoption.listen()

    def _finished(self) -> bool:
        if not self._queue.closed:
            return False
        return self._queue.overdue or not (self._lanes.out or not self._queue.empty)

    def _stopped_error(self) -> HybridflowError:
        return BrokerLostError(
            f"the broker of {self._resource.name!r} was stopped before the request could end: "
            "try again in another slot",
            resource=self._resource.name,
        )

    def _close(self, error: HybridflowError) -> None:
        self._queue.close(error, 0)
        self._intake.turn()
        for job in self._lanes.running:
            if self._leaves(job):
                _log.warning("vendor job %s is left running: the run can have it later", job.id)
                continue
            self._vendor.stop(job)
            self._outcomes.book(job, str(error))
        self._queue.fail_all(error)
        self._vendor.release()
        self._journal.close()

    def _leaves(self, job: VendorJob) -> bool:
        # Whoever wanted it was ended by the time limit, or has failed with this broker, and may ask
        # for it in another slot; or it is an earlier broker's, and the run's.
        if not self._capabilities.durable_jobs:
            return False
        is_the_runs = self.error is not None or not job.work.entries
        return self.allowance.time_is_up or (self._journal.keeps and is_the_runs)

    # -- back: results -------------------------------------------------------------------------

    def _watch(self) -> None:
        running = self._lanes.running
        if not running:
            if not self._finished():  # it may have been told so while the vendor was waited for
                self._wait(math.inf)
            return
        began, patience = time.monotonic(), self._patience()
        ended = False
        for job in list(running):
            try:
                ended |= self._look(job, patience / len(running))
            except BackendLostError as error:
                self._recovery.lost(error)
                return
        if not ended:
            # The backend may have answered at once.
            self._wait(patience - (time.monotonic() - began))

    def _wait(self, seconds: float) -> None:
        if self._adoption.waits:
            seconds = min(seconds, _ELSEWHERE_SECONDS)
        if hold := self._departure.hold:
            self._queue.wait(min(seconds, hold), arrivals=not self._lanes.refusals.rest)
        else:
            self._queue.wait(seconds, arrivals=self._lanes.free(full=False))

    def _patience(self) -> float:
        least, most = self._limits.poll_seconds
        return min(most, max(least, 0.02 * min(job.age for job in self._lanes.running)))

    def _is_unwanted(self, job: VendorJob) -> bool:
        if not job.unwanted or (self._capabilities.durable_jobs and self.allowance.time_is_up):
            return False
        self._intake.turn()  # who came before its owner left may be about to wait for it
        return not self._intake.awaits(job.tag)

    def _look(self, job: VendorJob, wait: float) -> bool:
        # Whether it has ended.
        if not job.stopped and self._is_unwanted(job):
            self._vendor.stop(job)
        outcome = None if job.silence.rest else self._inquiry.outcome(job, wait)
        if outcome is None:
            return False
        if isinstance(outcome, Unknown):
            self._recovery.unknown(job, outcome.error)
            return False
        self._lanes.running.remove(job)
        if isinstance(outcome, Failure):
            self._recovery.failed(job, outcome.error, may_repeat=outcome.may_repeat)
        else:
            self._outcomes.done(job, outcome)
            self._intake.ended(job.tag)
        return True

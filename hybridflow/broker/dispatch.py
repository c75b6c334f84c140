"""The one thread that owns the backend: batches out, vendor jobs, results back.

::

    queue ──► intake ──► fair order ──► work ──start──► vendor jobs in flight ──► result ──► cut
                 │           ▲            ▲                    │                              │
              journal        │            └──── recovery ◄─────┘  failed, refused, lost       │
                 └───────────┴────────────────────── outcomes ◄───────────────────────────────┘

A backend's handle may not be shared, so everything that touches it happens here. Who goes next is
decided in ``fair.py``, how much may go in ``allowance.py``, whether a lane is free in ``lanes.py``,
what the vendor says in ``inquiry.py``, what becomes of a failure in ``recovery.py``; who is told of
it in ``outcomes.py``.
"""

import logging
import math
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future

from hybridflow.backends.base import Backend
from hybridflow.broker.allowance import Allowance
from hybridflow.broker.fair import FairOrder, Room
from hybridflow.broker.gather import Gather
from hybridflow.broker.inquiry import Failure, Inquiry, Unknown
from hybridflow.broker.intake import Intake
from hybridflow.broker.journal import Journal, LeftBehind
from hybridflow.broker.lanes import Lanes
from hybridflow.broker.merging import merge
from hybridflow.broker.outcomes import Outcomes
from hybridflow.broker.outlook import Outlook
from hybridflow.broker.queue import Queue
from hybridflow.broker.recovery import Recovery
from hybridflow.broker.vendor import Vendor, ours
from hybridflow.broker.work import Limits, VendorJob, Work
from hybridflow.errors import (
    BackendLostError,
    BrokerLostError,
    HybridflowError,
    InternalError,
    ResourceError,
    VendorJobError,
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
_LOOK_UP_SECONDS = 30.0


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
        self._hold = 0.0
        self._not_found_yet: list[LeftBehind] = []
        self._look_up_at = 0.0
        self._assemble()

    def _assemble(self) -> None:
        resource, capabilities, limits = self._resource, self._capabilities, self._limits
        self._gather = Gather(capabilities.fixed_seconds)
        self._lanes = Lanes(resource, capabilities)
        self._vendor = Vendor(resource.name, self._backend, self._queue, limits)
        self.allowance = Allowance(resource, capabilities, limits, self._journal)
        self._order = FairOrder(
            self.allowance.device, ahead=resource.batch_seconds, ageing=limits.ageing_seconds
        )
        self._outcomes = Outcomes(
            resource,
            capabilities,
            queue=self._queue,
            journal=self._journal,
            gather=self._gather,
            allowance=self.allowance,
            vendor=self._vendor,
            log=self._events,
        )
        self._inquiry = Inquiry(resource, capabilities, self._vendor)
        self._intake = Intake(self._queue, self._journal, self._order, self._gather, self._outcomes)
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

    def outlook(self) -> Outlook:
        """Return what is to be expected of a request that comes now; in any thread, at once."""
        running = self._lanes.out
        requests, work = self._queue.load
        waiting = max(0.0, work - sum(job.load for job in running))
        requests = max(0, requests - sum(len(job.work.entries) for job in running))
        fixed, rate = self.allowance.own()
        is_refused = self._lanes.refusals.rest > 0 or self._vendor.is_lost
        return Outlook(
            online=not (is_refused or self._queue.closed),
            keeps=self._journal.keeps and self._journal.has_places,
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
        for left in self._journal.left_behind():
            self._adopt(left)
        return Description(
            resource=self._resource.name,
            backend=self._resource.backend,
            capabilities=self._capabilities,
            target=target,
        )

    def _adopt(self, left: LeftBehind) -> None:
        # A vendor job of a broker that has ended: paid for, perhaps, and wanted by the run.
        job = VendorJob(Work([]), left.cuts, tag=left.tag, id=left.id)
        if job.id is None and not self._capabilities.tags:
            self._journal.uncertain(job)
            self._intake.ended(job.tag)
            return
        try:
            job.id = job.id or self._vendor.find(left.tag, patiently=False)
        except ResourceError as error:
            # It is asked again later, and what waits for it is not to wait for that.
            _log.warning("vendor job with tag %s cannot be looked up now: %s", left.tag, error)
            self._not_found_yet.append(left)
            self._outcomes.fail(self._intake.attached(left.tag), error)
            return
        if job.id is None:
            never = VendorJobError(f"{self._resource.name!r} knows no vendor job {left.tag}")
            self._outcomes.void(job, never)
            self._intake.ended(job.tag)
            return
        self._lanes.running.append(job)
        self._outcomes.started(job)

    def _look_elsewhere(self) -> None:
        for found in (*self._journal.elsewhere(), *self._to_be_looked_up()):
            if isinstance(found, LeftBehind):
                self._adopt(found)
            else:
                self._intake.ended(found)

    def _to_be_looked_up(self) -> list[LeftBehind]:
        if not self._not_found_yet or time.monotonic() < self._look_up_at:
            return []
        self._look_up_at = time.monotonic() + _LOOK_UP_SECONDS
        found, self._not_found_yet = self._not_found_yet, []
        return found

    def _serve(self) -> None:
        while not self._finished():
            self._intake.turn()
            self._look_elsewhere()
            self._fill_lanes()
            self._watch()

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

    # -- out: batches --------------------------------------------------------------------------

    def _fill_lanes(self) -> None:
        self._hold = 0.0
        while (len(self._order) or self._lanes.again) and not self._queue.overdue:
            self._hold = self._lanes.refusals.rest
            room = self.allowance.room(self._lanes.running)
            full = self._order.fills(room)
            if self._hold or not self._lanes.free(full=full):
                return
            self._hold = 0.0 if full else self._time_to_gather()
            work = None if self._hold else self._next_work(room)
            if work is None:
                return
            refusal = self.allowance.refusal(work.load, self._lanes.running)
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
        batch, cuts = merge(requests, [entry.work for entry in work.entries])
        job = VendorJob(work, cuts)
        try:
            self._journal.intend(job, self.allowance.device.seconds(job.load))
        except HybridflowError as error:
            self._outcomes.fail(work.entries, error)
            return
        try:
            job.id = self._backend.start(batch, tag=job.tag)
        except BackendLostError as error:
            self._recovery.lost(error, starting=job)
        except Exception as error:
            self._not_started(job, ours(error))
        else:
            self._lanes.refusals.succeeded()
            self._lanes.running.append(job)
            self._outcomes.started(job)

    def _not_started(self, job: VendorJob, error: HybridflowError) -> None:
        if isinstance(error, InternalError):
            # A backend that fails in this way may have been given the vendor's answer.
            _log.error("the backend of %r failed to start a job: %s", self._resource.name, error)
            self._recovery.unanswered(job, error)
        else:
            self._recovery.refused(job, error)

    # -- back: results -------------------------------------------------------------------------

    def _watch(self) -> None:
        running = self._lanes.running
        if not running:
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
        if self._journal.awaits or self._not_found_yet:
            seconds = min(seconds, _ELSEWHERE_SECONDS)
        if self._hold:
            self._queue.wait(min(seconds, self._hold), arrivals=not self._lanes.refusals.rest)
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

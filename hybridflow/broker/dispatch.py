"""The one thread that owns the backend: batches out of the queue, vendor jobs, results back.

::

    queue ──take──► work ──start──► vendor jobs in flight ──status──► result ──cut──► each request
                      ▲                     │
                      │                     ├── failed for good: the halves, until the guilty
                      └──── again ◄─────────┘   request stands alone and gets the vendor's reason
                                            └── backend lost: a simulator runs the work once more;
                                                a device is never paid twice in silence

A backend's handle may not be shared, so everything that touches it happens here.
"""

import logging
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from hybridflow.backends.base import Backend
from hybridflow.broker.batching import weight
from hybridflow.broker.gather import Gather
from hybridflow.broker.merging import merge, split
from hybridflow.broker.queue import Queue
from hybridflow.broker.work import Limits, VendorJob, Work
from hybridflow.errors import (
    BackendLostError,
    BrokerLostError,
    DeadlineError,
    ErrorRecord,
    HybridflowError,
    InternalError,
    ResourceError,
    VendorJobError,
)
from hybridflow.events import (
    BrokerStarted,
    BrokerStopped,
    EventLog,
    VendorJobEnded,
    VendorJobStarted,
)
from hybridflow.records import (
    Capabilities,
    Description,
    JobState,
    JobStatus,
    PackedResult,
    Provenance,
    Reply,
    Resource,
    Usage,
)

__all__ = ["Dispatcher"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_REMEMBERED = 5
_LONGEST_PAUSE = 5.0


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
    deadline
        Unix time at which the slot ends; None: it has no end. It may be set in any thread.
    """

    def __init__(
        self,
        resource: Resource,
        backend: Backend,
        queue: Queue,
        limits: Limits,
        log: EventLog,
        on_end: Callable[[], None],
    ) -> None:
        self.ready: Future[Description] = Future()
        self.error: HybridflowError | None = None
        self._resource = resource
        self._backend = backend
        self._capabilities: Capabilities = backend.capabilities
        self._lanes = max(1, min(self._capabilities.lanes, resource.max_in_flight))
        # To run work again costs nothing: its job has died with the backend, and nobody bills it.
        self._is_free = self._capabilities.simulator and not self._capabilities.durable_jobs
        self._queue = queue
        self._limits = limits
        self.deadline = limits.deadline
        self._events = log
        self._on_end = on_end
        self._again: deque[Work] = deque()
        self._running: list[VendorJob] = []
        self._calibration = ""
        self._gather = Gather(self._capabilities.fixed_seconds)
        self._run_seconds = deque([self._capabilities.fixed_seconds], maxlen=_REMEMBERED)
        self._held = 0
        self._hold_seconds = 0.0

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
            self._queue.close(_ours(error), 0)
            self._release()
            self.ready.set_exception(error)
            return
        self.ready.set_result(description)
        try:
            self._serve()
        except BaseException as error:
            if not isinstance(error, HybridflowError):
                _log.exception("the broker of %r failed", self._resource.name)
            self.error = _ours(error)
        self._close(self.error or self._stopped_error())
        reason = str(self.error or "")
        self._events.emit(BrokerStopped(resource=self._resource.name, broker=broker, reason=reason))
        self._on_end()

    def _open(self) -> Description:
        self._backend.acquire()
        target = self._backend.target()
        self._calibration = target.calibration
        return Description(
            resource=self._resource.name,
            backend=self._resource.backend,
            capabilities=self._capabilities,
            target=target,
        )

    def _serve(self) -> None:
        while not self._finished():
            self._fill_lanes()
            self._watch()

    def _finished(self) -> bool:
        if not self._queue.closed:
            return False
        return self._queue.overdue or not (self._running or self._again or len(self._queue))

    def _stopped_error(self) -> HybridflowError:
        return BrokerLostError(
            f"the broker of {self._resource.name!r} was stopped before the request could end: "
            "try again in another slot",
            resource=self._resource.name,
        )

    def _close(self, error: HybridflowError) -> None:
        self._queue.close(error, 0)
        for job in self._running:
            self._stop(job)
            self._book(job, str(error))
        self._queue.fail_all(error)
        self._release()

    def _release(self) -> None:
        try:
            self._backend.release()
        except Exception:
            # Nobody is left who could act on it; the slot ends with this process anyway.
            _log.exception("the backend of %r could not be released", self._resource.name)

    # -- out: batches --------------------------------------------------------------------------

    def _fill_lanes(self) -> None:
        # Here an order other than first come, first served has its place.
        self._held, self._hold_seconds = 0, 0.0
        while self._lane_free() and not self._queue.overdue:
            if self._hold_back():
                return
            work = self._next_work()
            if work is None:
                return
            if self._in_time(work):
                self._start(work)

    def _hold_back(self) -> bool:
        if self._again or self._queue.closed:
            return False
        clients = self._queue.clients()
        self._held, self._hold_seconds = len(clients), self._gather.rest(clients)
        return self._hold_seconds > 0

    def _lane_free(self) -> bool:
        # Work under which a simulator was lost runs alone: when that happens again, it is guilty.
        suspects = [job.work for job in self._running] + list(self._again)[:1]
        alone = self._is_free and any(work.losses for work in suspects)
        return len(self._running) < (1 if alone else self._lanes)

    def _next_work(self) -> Work | None:
        while self._again:
            work = self._again.popleft()
            work.entries = work.wanted
            if work.entries:
                return work
        taken = self._queue.take(self._capabilities.max_pubs, self._limits.batch_bytes)
        return Work(taken) if taken else None

    def _in_time(self, work: Work) -> bool:
        # What cannot end before the slot does goes back to the engine, which has other slots. How
        # long it takes is a guess: the declared fixed cost, or as long as one of the last ones.
        if self.deadline is None:
            return True
        left = self.deadline - time.time()
        needed = max(self._run_seconds)
        if needed < left:
            return True
        self._queue.fail(work.entries, self._too_late(needed, left))
        return False

    def _too_late(self, needed: float, left: float) -> DeadlineError:
        return DeadlineError(
            f"the slot of {self._resource.name!r} ends in {max(0.0, left):.0f} s, a vendor job "
            f"may take {needed:.0f} s: nothing was started; try again in another slot, or ask "
            "for a longer time limit",
            resource=self._resource.name,
        )

    def _start(self, work: Work) -> None:
        requests = [entry.request for entry in work.entries]
        batch, cuts = merge(requests, [*map(weight, requests)])
        job = VendorJob(work, cuts)
        try:
            job.id = self._backend.start(batch, tag=job.tag)
        except BackendLostError as error:
            self._recover(error, [job])
            return
        except Exception as error:
            self._fail(job, _ours(error), may_repeat=True)
            return
        self._running.append(job)
        self._gather.left(entry.request.client for entry in work.entries)
        self._events.emit(
            VendorJobStarted(
                resource=self._resource.name,
                vendor_job_id=job.id,
                requests=len(work.entries),
                pubs=len(batch.pubs),
                tasks=tuple(sorted({entry.request.client.task for entry in work.entries} - {""})),
            )
        )

    # -- back: results -------------------------------------------------------------------------

    def _watch(self) -> None:
        if not self._running:
            self._wait(math.inf)
            return
        began, patience = time.monotonic(), self._patience()
        ended = False
        for job in list(self._running):
            if not job.stopped and not job.work.wanted:
                self._stop(job)
            try:
                status = self._ask(self._status, job, patience / len(self._running))
                if status.state.final:
                    self._running.remove(job)
                    ended = True
                    self._end(job, status)
            except BackendLostError as error:
                self._recover(error, [] if job in self._running else [job])
                return
            except Exception as error:
                if job in self._running:
                    self._running.remove(job)
                self._book(job, str(error))
                self._fail(job, _ours(error), may_repeat=self._is_free)
                return
        if not ended:
            # The backend may have answered at once.
            self._wait(patience - (time.monotonic() - began))

    def _wait(self, seconds: float) -> None:
        if self._hold_seconds > 0:
            self._queue.wait(min(seconds, self._hold_seconds), more_than=self._held)
        else:
            self._queue.wait(seconds, more_than=0 if self._lane_free() else None)

    def _patience(self) -> float:
        least, most = self._limits.poll_seconds
        return min(most, max(least, 0.02 * min(job.age for job in self._running)))

    def _status(self, job: VendorJob, wait: float) -> JobStatus:
        assert job.id is not None
        return self._backend.status(job.id, wait=wait)

    def _end(self, job: VendorJob, status: JobStatus) -> None:
        run_seconds = job.age
        assert job.id is not None
        if status.state is not JobState.DONE:
            error = self._reason(job, status)
            self._book(job, str(error))
            if status.state is JobState.CANCELLED:
                # Not a circuit's fault: nothing is to be found by trying the halves.
                self._queue.fail(job.work.entries, error)
            else:
                self._fail(job, error, may_repeat=True)
            return
        try:
            results = self._ask(self._backend.result, job.id)
            parts = self._parts(job, results)
        except BackendLostError:
            raise
        except Exception as unreadable:
            self._book(job, str(unreadable))
            # A device has run it: that is paid for only once.
            self._fail(job, _ours(unreadable), may_repeat=self._is_free)
            return
        self._deliver(job, parts, len(results), self._book(job), run_seconds)

    def _reason(self, job: VendorJob, status: JobStatus) -> HybridflowError:
        assert job.id is not None
        if status.state is JobState.FAILED:
            try:
                self._backend.result(job.id)
            except BackendLostError:
                raise
            except HybridflowError as error:
                # As it was typed where it arose; unless the question itself has failed.
                if error.transient == status.transient:
                    return error
        what = "was cancelled" if status.state is JobState.CANCELLED else "failed"
        return VendorJobError(
            f"vendor job {job.id} on {self._resource.name!r} {what}: "
            f"{status.message or 'the vendor gives no reason'}",
            transient=status.transient,
            resource=self._resource.name,
            vendor_job_id=job.id,
        )

    def _parts(
        self, job: VendorJob, results: Sequence[PackedResult]
    ) -> list[tuple[PackedResult, ...]]:
        try:
            return split(job.cuts, results)
        except InternalError as error:
            raise InternalError(
                f"the backend of {self._resource.name!r} gave {error} of vendor job {job.id}",
                resource=self._resource.name,
                vendor_job_id=job.id,
            ) from error

    def _deliver(
        self,
        job: VendorJob,
        parts: Sequence[tuple[PackedResult, ...]],
        pubs: int,
        usage: Usage,
        run_seconds: float,
    ) -> None:
        self._gather.ended(run_seconds)
        self._run_seconds.append(max(run_seconds, self._capabilities.fixed_seconds))
        entries = job.work.entries
        assert job.id is not None
        for entry, part, cut in zip(entries, parts, job.cuts, strict=True):
            provenance = Provenance(
                resource=self._resource.name,
                backend=self._resource.backend,
                simulator=self._capabilities.simulator,
                vendor_job_id=job.id,
                batch_requests=len(entries),
                batch_pubs=pubs,
                queue_seconds=job.started - entry.arrived,
                run_seconds=run_seconds,
                qpu_seconds=cut.share * usage.qpu_seconds,
                calibration=self._calibration,
            )
            self._gather.served(entry.request.client)
            self._queue.settle(entry, Reply(results=part, provenance=provenance))

    def _book(self, job: VendorJob, error: str = "") -> Usage:
        usage = Usage()
        if job.id is None:
            return usage
        try:
            usage = self._backend.usage(job.id)
        except Exception as unknown:
            # The results are there and paid for: they are delivered with a cost of 0, and said so.
            _log.warning("the usage of vendor job %s is not known: %s", job.id, unknown)
        self._events.emit(
            VendorJobEnded(
                resource=self._resource.name,
                vendor_job_id=job.id,
                qpu_seconds=usage.qpu_seconds,
                shots=usage.shots,
                queue_seconds=job.started - min(entry.arrived for entry in job.work.entries),
                error=error,
            )
        )
        return usage

    # -- faults --------------------------------------------------------------------------------

    def _fail(self, job: VendorJob, error: HybridflowError, *, may_repeat: bool) -> None:
        # One bad PUB must fail its own request alone.
        if may_repeat and not error.transient and len(job.work.entries) > 1:
            self._again.extend(job.work.halves())
        else:
            self._queue.fail(job.work.entries, error)

    def _stop(self, job: VendorJob) -> None:
        assert job.id is not None
        job.stopped = True
        try:
            self._backend.stop(job.id)
        except Exception as error:
            # The requests that wanted it have their outcome: it is tried again at the next look,
            # since it is paid for, or else it ends by itself.
            _log.warning("vendor job %s could not be stopped: %s", job.id, error)
            job.stopped = not _ours(error).transient

    def _ask(self, question: Callable[..., _T], *arguments: object) -> _T:
        # A vendor that does not answer for a moment has not failed the job, which is paid for.
        began, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            try:
                return question(*arguments)
            except (BackendLostError, VendorJobError):
                raise
            except ResourceError as error:
                if not error.transient or self._despairs(attempt, began):
                    raise
                _log.warning("%r does not answer: %s", self._resource.name, error)
                self._pause(attempt)

    def _despairs(self, attempt: int, began: float) -> bool:
        if attempt < self._limits.attempts:
            return False
        # A durable job goes on at the vendor meanwhile: given up, it would be paid for again.
        patience = self._limits.patience_seconds if self._capabilities.durable_jobs else 0.0
        return self._queue.overdue or time.monotonic() - began > patience

    def _pause(self, attempt: int) -> None:
        seconds = min(_LONGEST_PAUSE, self._limits.backoff_seconds * 2 ** (attempt - 1))
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0 and not self._queue.overdue:
            self._queue.wait(rest)

    def _recover(self, error: BackendLostError, interrupted: list[VendorJob]) -> None:
        _log.warning("the backend of %r was lost: %s", self._resource.name, error)
        jobs, self._running = self._running + interrupted, []
        for job in jobs:
            self._save(job, error)
        if not self._finished():
            self._acquire_again(error)

    def _save(self, job: VendorJob, error: BackendLostError) -> None:
        # Decides what becomes of a vendor job whose backend is gone, without paying twice for it.
        # A ledger and `find(tag)` will settle here what is uncertain now.
        can = self._capabilities
        job.work.losses += 1
        if can.durable_jobs and job.id is not None and job.work.losses <= self._limits.attempts:
            self._running.append(job)
            return
        self._book(job, str(error))
        if self._is_free and job.work.losses == 1:
            self._again.append(job.work)
        elif self._is_free and len(job.work.entries) > 1:
            # Lost twice under the same work: one of the requests may be what kills the backend.
            self._again.extend(job.work.halves())
        else:
            self._queue.fail(job.work.entries, error if job.id else _uncertain(error))

    def _acquire_again(self, lost: BackendLostError) -> None:
        for attempt in range(1, self._limits.attempts + 1):
            self._release()
            try:
                self._backend.acquire()
                return
            except ResourceError as error:
                _log.warning("the backend of %r is not back: %s", self._resource.name, error)
                if attempt == self._limits.attempts:
                    raise BackendLostError(
                        f"{lost}; it could not be acquired again in {attempt} attempts: {error}",
                        resource=self._resource.name,
                    ) from error
                self._pause(attempt)


def _ours(error: BaseException) -> HybridflowError:
    return error if isinstance(error, HybridflowError) else ErrorRecord.of(error).error()


def _uncertain(error: BackendLostError) -> BackendLostError:
    return BackendLostError(
        f"{error} (it was lost while a vendor job was being started: whether that job runs, and is "
        "paid for, is not known)",
        resource=error.resource,
    )

"""Vendor jobs that end by themselves: a table to wait on, and threads that run them here.

:class:`JobTable` is what a backend knows about its jobs: one thread adds them, another ends them,
and whoever asks may wait for the end. :class:`JobThreads` runs jobs in threads of this process,
for backends that compute their results themselves. Results are kept until they have been fetched,
and at most :data:`KEPT` ended jobs in all.
"""

import queue
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from hybridflow.errors import (
    ErrorRecord,
    HybridflowError,
    RequestCancelledError,
    ResourceError,
    VendorJobError,
)
from hybridflow.records import JobState, JobStatus, PackedResult, Usage

__all__ = ["KEPT", "JobTable", "JobThreads", "Outcome", "StoppedError", "Work"]

KEPT = 64
"""Ended jobs that a table remembers; the oldest go first, those already fetched before others."""

Outcome = tuple[tuple[PackedResult, ...], Usage]
"""What a job that ended well gives: one result a PUB, and its cost."""

Work = Callable[[threading.Event], Outcome]
"""A job's body; the event is set when the job is to stop (then raise :class:`StoppedError`)."""


class StoppedError(Exception):
    """Raised by a job's body when it saw that it is to stop."""


@dataclass
class _Job:
    tag: str
    status: JobStatus = JobStatus(state=JobState.QUEUED)  # noqa: RUF009 - frozen
    results: tuple[PackedResult, ...] | None = None
    usage: Usage = Usage()  # noqa: RUF009 - frozen
    error: ErrorRecord | None = None
    lost: ErrorRecord | None = None
    stop: threading.Event = field(default_factory=threading.Event)


class JobTable:
    """Jobs by id. Safe to use from several threads; waiting costs no polling."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        self._changed = threading.Condition()
        self._listeners: list[Callable[[str], None]] = []

    def __contains__(self, job_id: str) -> bool:
        with self._changed:
            return job_id in self._jobs

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with the id of each job that ends, in the thread that ends it."""
        self._listeners.append(listener)

    def add(self, job_id: str, tag: str) -> threading.Event:
        """Add a job; the event that is returned says that it is to stop."""
        with self._changed:
            job = self._jobs.setdefault(job_id, _Job(tag))
            return job.stop

    def run(self, job_id: str) -> None:
        """Note that a job is being executed."""
        with self._changed:
            if job_id in self._jobs:
                self._jobs[job_id].status = JobStatus(state=JobState.RUNNING)

    def end(
        self,
        job_id: str,
        status: JobStatus,
        results: tuple[PackedResult, ...] | None = None,
        usage: Usage | None = None,
        error: ErrorRecord | None = None,
    ) -> None:
        """Note that a job has ended, and wake who waits for it; nobody does if it was forgotten."""
        with self._changed:
            if job_id not in self._jobs:
                return
            job = self._jobs[job_id]
            job.status, job.results, job.error = status, results, error
            job.usage = usage or Usage()
            self._forget_oldest()
            self._changed.notify_all()
        for listener in self._listeners:
            listener(job_id)

    def _forget_oldest(self) -> None:
        ended = [name for name, job in self._jobs.items() if job.status.state.final]
        ended.sort(key=lambda name: self._jobs[name].results is not None)  # stable: oldest first
        for name in ended[: max(0, len(ended) - KEPT)]:
            del self._jobs[name]

    def lose(self, error: HybridflowError) -> None:
        """Note that no job here that has not ended can be heard of any more."""
        with self._changed:
            for job in self._jobs.values():
                if not job.status.state.final:
                    job.lost = ErrorRecord.of(error)
            self._changed.notify_all()

    def forget_lost(self) -> None:
        """Drop the jobs that were lost, so that their ids can be asked for anew."""
        with self._changed:
            self._jobs = {name: job for name, job in self._jobs.items() if job.lost is None}

    def unfinished(self) -> list[str]:
        """Return the ids of the jobs that have not ended, the oldest first."""
        with self._changed:
            return [
                name
                for name, job in self._jobs.items()
                if job.lost is None and not job.status.state.final
            ]

    def status(self, job_id: str, wait: float = 0.0) -> JobStatus:
        """Return a job's state; wait up to `wait` seconds for a final one."""
        deadline = time.monotonic() + wait
        with self._changed:
            while True:
                job = self._find(job_id)
                if job.lost is not None:
                    raise job.lost.error()
                left = deadline - time.monotonic()
                if job.status.state.final or left <= 0:
                    return job.status
                self._changed.wait(left)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return a job's results; they may be forgotten from then on.

        Raises
        ------
        HybridflowError
            The error the job failed with, as it was typed where it arose.
        """
        with self._changed:
            job = self._find(job_id)
            failure = job.lost or job.error
            if failure is not None:
                raise failure.error()
            state = job.status.state
            if state is JobState.CANCELLED:
                raise RequestCancelledError(f"the job {job_id} was stopped", vendor_job_id=job_id)
            if job.results is None:
                raise ResourceError(
                    f"the job {job_id} is {state.value} and has no result to fetch (a result is "
                    "kept until it is fetched)",
                    vendor_job_id=job_id,
                )
            results, job.results = job.results, None
            return results

    def usage(self, job_id: str) -> Usage:
        """Return what a job cost."""
        with self._changed:
            job = self._find(job_id)
            if job.lost is not None:
                raise job.lost.error()
            return job.usage

    def find(self, tag: str) -> str | None:
        """Return the id of the youngest job with this tag that is remembered."""
        with self._changed:
            return next(
                (name for name in reversed(self._jobs) if self._jobs[name].tag == tag), None
            )

    def stop(self, job_id: str) -> None:
        """Set a job's stop event; no error if the job has ended or been forgotten."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is not None:
                job.stop.set()

    def _find(self, job_id: str) -> _Job:
        if job_id not in self._jobs:
            raise ResourceError(
                f"there is no job {job_id!r} here: it was never started, or ended long ago",
                vendor_job_id=job_id,
            )
        return self._jobs[job_id]


class JobThreads:
    """Runs jobs in `count` threads of this process, first come, first served.

    Parameters
    ----------
    name
        Start of the jobs' ids and of the threads' names.
    count
        Jobs that are executed at the same time.
    """

    def __init__(self, name: str, count: int = 1) -> None:
        self.table = JobTable()
        self._name = name
        self._count = count
        self._waiting: queue.SimpleQueue[tuple[str, threading.Event, Work] | None] = (
            queue.SimpleQueue()
        )
        self._threads: list[threading.Thread] = []

    @property
    def is_open(self) -> bool:
        """Whether jobs can be started."""
        return bool(self._threads)

    def open(self) -> None:
        """Start the threads; no error if they run."""
        if self._threads:
            return
        self._threads = [
            threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
            for number in range(self._count)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop what runs, and wait for the threads' end; no error if there are none."""
        for job_id in self.table.unfinished():
            self.table.stop(job_id)
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def start(self, work: Work, tag: str) -> str:
        """Queue a job and return its id."""
        job_id = f"{self._name}-{uuid.uuid4().hex[:12]}"
        stop = self.table.add(job_id, tag)
        self._waiting.put((job_id, stop, work))
        return job_id

    def run(self, work: Work, tag: str) -> str:
        """Execute a job at once, in the caller's thread: for what takes no time."""
        job_id = f"{self._name}-{uuid.uuid4().hex[:12]}"
        self._execute(job_id, self.table.add(job_id, tag), work)
        return job_id

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            self._execute(*item)

    def _execute(self, job_id: str, stop: threading.Event, work: Work) -> None:
        if stop.is_set():
            self.table.end(job_id, JobStatus(state=JobState.CANCELLED, message="stopped"))
            return
        self.table.run(job_id)
        try:
            results, usage = work(stop)
        except StoppedError:
            self.table.end(job_id, JobStatus(state=JobState.CANCELLED, message="stopped"))
        except Exception as error:  # a thread must outlive whatever a job does to it
            self._fail(job_id, error)
        else:
            self.table.end(job_id, JobStatus(state=JobState.DONE), results, usage)

    def _fail(self, job_id: str, error: Exception) -> None:
        if not isinstance(error, HybridflowError):
            error = VendorJobError(f"{type(error).__name__}: {error}", vendor_job_id=job_id)
        status = JobStatus(state=JobState.FAILED, message=str(error), transient=error.transient)
        self.table.end(job_id, status, error=ErrorRecord.of(error))

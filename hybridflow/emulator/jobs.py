"""The jobs that the service was given: their states, results and log, within bounds.

Everything here happens in the service's one thread, that of its event loop.
"""

import asyncio
import threading
import uuid
from collections import deque
from collections.abc import Iterable

from hybridflow import wire
from hybridflow.backends.emulator.messages import Caller, Execution, Submission
from hybridflow.backends.jobs import Outcome
from hybridflow.backends.timing import count_circuits, count_shots
from hybridflow.errors import ErrorRecord, HybridflowError, RequestCancelledError, ResourceError
from hybridflow.records import Batch, JobState, JobStatus, Usage

__all__ = ["Job", "Jobs"]


class Job:
    """One vendor job.

    Parameters
    ----------
    resource
        Name of its resource.
    account
        Name of the key that it was started with.
    submission
        What was sent.
    now
        The time.
    job_id
        Its id; a new one if not given.

    Attributes
    ----------
    stop
        Set when it is to end; read by the thread that executes it.
    ended
        Set when it has ended.
    forgotten
        Whether nobody is told of it any more.
    """

    def __init__(
        self,
        resource: str,
        account: str,
        submission: Submission,
        now: float,
        job_id: str | None = None,
    ) -> None:
        self.id = job_id or f"{resource}-{uuid.uuid4().hex[:12]}"
        self.resource = resource
        self.account = account
        self.tag = submission.tag
        self.stop = threading.Event()
        self.ended = asyncio.Event()
        self.forgotten = False
        self.status = JobStatus(state=JobState.QUEUED)
        self.usage = Usage()
        self.results: bytes | None = None
        self._batch: Batch | None = submission.batch
        self._caller: Caller = submission.caller
        self._size = (
            len(submission.batch.pubs),
            count_circuits(submission.batch),
            count_shots(submission.batch),
        )
        self._error: ErrorRecord | None = None
        self._times: tuple[float, float | None, float | None] = now, None, None

    @property
    def submitted(self) -> float:
        """When it arrived."""
        return self._times[0]

    def begin(self, now: float) -> Batch:
        """Note that the device begins with it, and return what to execute."""
        assert self._batch is not None
        self.status = JobStatus(state=JobState.RUNNING)
        self._times = self._times[0], now, None
        return self._batch

    def succeed(self, outcome: Outcome, now: float) -> None:
        """Note its results."""
        results, self.usage = outcome
        self.results = wire.encode(results)
        self._end(JobStatus(state=JobState.DONE), now)

    def fail(self, error: HybridflowError, now: float) -> None:
        """Note why it failed."""
        self._error = ErrorRecord.of(error)
        status = JobStatus(state=JobState.FAILED, message=str(error), transient=error.transient)
        self._end(status, now)

    def cancel(self, now: float, usage: Usage | None = None) -> None:
        """Note that it was cancelled, and what it had cost by then."""
        self.usage = usage or Usage()
        self._end(JobStatus(state=JobState.CANCELLED, message="cancelled by its user"), now)

    def _end(self, status: JobStatus, now: float) -> None:
        self.status = status
        self._times = *self._times[:2], now
        self._batch = None
        self.ended.set()

    def packed_results(self) -> bytes:
        """Return its results as they are sent.

        Raises
        ------
        HybridflowError
            Why there are none.
        """
        if self._error is not None:
            raise self._error.error()
        if self.status.state is JobState.CANCELLED:
            raise RequestCancelledError(f"the job {self.id} was cancelled", vendor_job_id=self.id)
        if self.results is None:
            reason = (
                "its results are kept no longer"
                if self.status.state.final
                else f"it is {self.status.state.value}"
            )
            raise ResourceError(
                f"there are no results of the job {self.id}: {reason}", vendor_job_id=self.id
            )
        return self.results

    def execution(self) -> Execution:
        """Return its line of the log."""
        pubs, circuits, shots = self._size
        submitted, started, ended = self._times
        return Execution(
            job=self.id,
            resource=self.resource,
            tag=self.tag,
            account=self.account,
            caller=self._caller,
            state=self.status.state,
            message=self.status.message,
            submitted=submitted,
            started=started,
            ended=ended,
            pubs=pubs,
            circuits=circuits,
            shots=self.usage.shots or shots,
            qpu_seconds=self.usage.qpu_seconds,
        )


class Jobs:
    """All jobs of all resources, the oldest first.

    Parameters
    ----------
    kept_jobs, kept_bytes
        How many ended jobs, and how much of their results, are kept; who ended first goes first.
    """

    def __init__(self, kept_jobs: int, kept_bytes: int) -> None:
        self._kept_jobs, self._kept_bytes = kept_jobs, kept_bytes
        self._jobs: dict[str, Job] = {}
        self._ended: deque[Job] = deque()
        self._held: deque[Job] = deque()  # those of them that have results
        self._held_bytes = 0

    def __contains__(self, job_id: object) -> bool:
        """Whether there is, or was not long ago, a job of this id."""
        return job_id in self._jobs

    def add(self, job: Job) -> None:
        """Add a job."""
        self._jobs[job.id] = job

    def ended(self, job: Job) -> None:
        """Note that a job has ended, and forget what is over the bounds."""
        self._ended.append(job)
        if job.results is not None:
            self._held.append(job)
            self._held_bytes += len(job.results)
        while len(self._held) > 1 and self._held_bytes > self._kept_bytes:
            self._drop_results()
        while len(self._ended) > self._kept_jobs:
            old = self._ended.popleft()
            del self._jobs[old.id]
            if self._held and self._held[0] is old:
                self._drop_results()

    def _drop_results(self) -> None:
        old = self._held.popleft()
        self._held_bytes -= len(old.results or b"")
        old.results = None

    def get(self, job_id: str, account: str) -> Job:
        """Return a job of this account.

        Raises
        ------
        ResourceError
            If it has none with this id: of another's it is not even said that it exists.
        """
        job = self._jobs.get(job_id)
        if job is None or job.forgotten or job.account != account:
            raise ResourceError(
                f"there is no job {job_id!r} of this user here: it was never started, or ended "
                "long ago",
                vendor_job_id=job_id,
            )
        return job

    def find(self, resource: str, tag: str, account: str) -> Job | None:
        """Return the youngest job with a tag on a resource."""
        wanted = (resource, tag, account)
        return next(
            (
                job
                for job in reversed(self._jobs.values())
                if (job.resource, job.tag, job.account) == wanted and not job.forgotten
            ),
            None,
        )

    def all(self) -> Iterable[Job]:
        """Return all jobs, the oldest first."""
        return self._jobs.values()

    def log(self, account: str | None) -> Iterable[Execution]:
        """Return a line a job of this account; None: of all."""
        return (job.execution() for job in self._jobs.values() if account in (None, job.account))

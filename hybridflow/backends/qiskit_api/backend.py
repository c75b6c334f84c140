"""``QiskitBackend``: jobs of a ``BackendV2``, through counts, or of a pair of V2 primitives.

It is hosted in a process of its own: what a vendor's package does there cannot hold or end the
broker. One thread drives it, and nothing here waits for a job but ``status(wait=…)``.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar

import msgspec

from hybridflow.backends.jobs import KEPT
from hybridflow.backends.qiskit_api.keeping import prune
from hybridflow.backends.qiskit_api.machine import Machine
from hybridflow.backends.qiskit_api.options import QiskitOptions
from hybridflow.backends.qiskit_api.states import Submitted
from hybridflow.errors import (
    ErrorRecord,
    HybridflowError,
    RequestCancelledError,
    ResourceError,
    VendorJobError,
)
from hybridflow.records import (
    Batch,
    Capabilities,
    JobState,
    JobStatus,
    PackedResult,
    Primitive,
    TargetSnapshot,
    Usage,
)

__all__ = ["QiskitBackend"]

_LEAST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5


class _Job:
    """A batch, and what has come of it as soon as it has ended."""

    def __init__(self, submitted: Submitted) -> None:
        self.submitted = submitted
        self.status = JobStatus(state=JobState.QUEUED)
        self.results: tuple[PackedResult, ...] | None = None
        self.error: ErrorRecord | None = None


class QiskitBackend:
    """Whatever speaks Qiskit's own interfaces.

    Parameters
    ----------
    name
        Name of the resource.
    options
        See :class:`QiskitOptions`.
    credentials
        Those that `options.secrets` names are handed to the factory.
    """

    Options: ClassVar[type[msgspec.Struct]] = QiskitOptions
    own_process: ClassVar[bool] = True
    fixed_target: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        options: QiskitOptions,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.options = options
        self._machine = Machine(name, options, credentials or {})
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._is_open = False

    # What it is

    @property
    def capabilities(self) -> Capabilities:
        """What the backend declares, within the bounds of the site file.

        Raises
        ------
        MissingExtraError, SiteError
            If what the site file names is not there.
        AcquireError
            If it cannot be made.
        """
        return self._machine.capabilities

    def target(self) -> TargetSnapshot:
        """Return the device's target, as it was when the slot opened."""
        return self._machine.snapshot

    def metadata(self) -> dict[str, str]:
        """Return the class, the name, the version and the calibration of what runs circuits."""
        return {"resource": self.name} | self._machine.metadata()

    # Session

    def acquire(self) -> None:
        """Make the backend, and test it (`self_test`).

        Raises
        ------
        AcquireError
            If it cannot be made, or its results are nonsense.
        """
        if self._is_open:
            return
        capabilities = self.capabilities
        self._machine.check_durable()
        prune()
        self._is_open = True
        if self.options.self_test:
            from hybridflow.backends.qiskit_api.self_test import self_test

            # The estimator of a BackendV2 is made of counts, which the sampler tests.
            tested = capabilities.primitives if self._machine.primitives else (Primitive.SAMPLER,)
            try:
                self_test(self.name, self._machine.snapshot, tested, self._run_to_the_end)
            except BaseException:
                self._is_open = False
                raise

    def _run_to_the_end(self, batch: Batch) -> tuple[PackedResult, ...]:
        job_id = self.start(batch, tag="")
        status = self.status(job_id, wait=self.options.self_test_seconds)
        if not status.state.final:
            self.stop(job_id)
            raise ResourceError(
                f"its job has not ended in {self.options.self_test_seconds:g} s "
                "(`self_test_seconds`)",
                transient=True,
            )
        return self.result(job_id)

    def release(self) -> None:
        """Cancel what has not ended, unless it is durable."""
        self._is_open = False
        if not self.options.durable:
            for job_id in list(self._jobs):
                self.stop(job_id)
        self._machine.forget()

    # Jobs

    def start(self, batch: Batch, *, tag: str) -> str:
        """Start a batch: one job of the vendor's, or one for each of its calls of ``run()``.

        Raises
        ------
        RequestError
            If the batch cannot be run.
        ResourceError
            If the vendor takes no job.
        BackendLostError
            If it is not known whether one was started.
        """
        if not self._is_open:
            raise ResourceError(
                f"{self.name} has not been acquired: call acquire() before start()",
                resource=self.name,
            )
        submitted = self._machine.submit(batch, tag)
        self._jobs[submitted.id] = _Job(submitted)
        self._forget_oldest()
        return submitted.id

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        """Return a job's state; wait up to `wait` seconds for a final one."""
        job, deadline, pause = self._job(job_id), time.monotonic() + wait, _LEAST_PAUSE
        while True:
            if not job.status.state.final:
                self._look(job)
            left = deadline - time.monotonic()
            if job.status.state.final or left <= 0:
                return job.status
            time.sleep(min(pause, left))
            pause = min(_LONGEST_PAUSE, pause * 1.5)

    def _look(self, job: _Job) -> None:
        # Results are taken as soon as they are there: only they tell whether the job went well.
        status = job.submitted.status()
        if status.state is JobState.DONE:
            try:
                job.results = job.submitted.results()
            except HybridflowError as error:
                if error.transient:
                    raise
                job.error = ErrorRecord.of(error)
                status = JobStatus(state=JobState.FAILED, message=str(error))
        job.status = status

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return a job's results; once."""
        job = self._job(job_id)
        if job.error is not None:
            raise job.error.error()
        state = job.status.state
        if state is JobState.CANCELLED:
            raise RequestCancelledError(f"the job {job_id} was cancelled", vendor_job_id=job_id)
        if state is JobState.FAILED:
            raise _failed(self.name, job_id, job.status)
        if job.results is None:
            raise ResourceError(
                f"the job {job_id} is {state.value} and has no result to fetch (a result is kept "
                "until it is fetched)",
                vendor_job_id=job_id,
            )
        results, job.results = job.results, None
        return results

    def stop(self, job_id: str) -> None:
        """Cancel a job, as far as the vendor can."""
        if job_id not in self._jobs and not self.options.durable:
            return
        job = self._job(job_id)
        if not job.status.state.final:
            job.submitted.stop()

    def find(self, tag: str) -> str | None:
        """Return None: Qiskit's interface has no tags."""
        return None

    def usage(self, job_id: str) -> Usage:
        """Return the seconds that the vendor names or, if it names none, those of the site file.

        Of a job without results only what the vendor names is known.
        """
        job = self._job(job_id)
        submitted, seconds = job.submitted, job.submitted.seconds
        if job.status.state is not JobState.DONE:
            return Usage(qpu_seconds=seconds or 0.0)
        if seconds is None:
            seconds = self.options.timing.seconds(submitted.circuits, submitted.shots)
        return Usage(qpu_seconds=seconds, shots=submitted.shots)

    def _job(self, job_id: str) -> _Job:
        if job_id not in self._jobs and self.options.durable:
            self._jobs[job_id] = _Job(self._machine.resubmitted(job_id))
        if job_id not in self._jobs:
            raise ResourceError(
                f"{self.name} knows no job {job_id!r}: it was not started here, or ended long ago",
                resource=self.name,
                vendor_job_id=job_id,
            )
        return self._jobs[job_id]

    def _forget_oldest(self) -> None:
        ended = [name for name, job in self._jobs.items() if job.status.state.final]
        for name in ended[: max(0, len(ended) - KEPT)]:
            del self._jobs[name]


def _failed(resource: str, job_id: str, status: JobStatus) -> HybridflowError:
    return VendorJobError(
        f"job {job_id} of {resource} failed: {status.message}",
        resource=resource,
        vendor_job_id=job_id,
    )

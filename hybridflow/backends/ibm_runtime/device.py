"""A device at the service: its jobs are started, watched and fetched through the package."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hybridflow.backends.ibm_runtime import faults, primitives
from hybridflow.backends.ibm_runtime.faults import Phase
from hybridflow.backends.ibm_runtime.link import Link
from hybridflow.backends.ibm_runtime.options import IbmRuntimeOptions
from hybridflow.backends.ibm_runtime.service import Connection, reason_of, text_of
from hybridflow.backends.ibm_runtime.workload import Workload
from hybridflow.errors import AcquireError, RequestCancelledError, ResourceError, VendorJobError
from hybridflow.records import (
    Batch,
    Capabilities,
    JobState,
    JobStatus,
    PackedResult,
    TargetSnapshot,
    Usage,
)

__all__ = ["Device"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_STATES = {
    "INITIALIZING": JobState.QUEUED,
    "QUEUED": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "DONE": JobState.DONE,
    "ERROR": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
}
_LEAST_PAUSE = 0.1
_BILLING_LOOKS, _BILLING_PAUSE = 4, 0.25


@dataclass
class _Job:
    """A job of the package's, and what is known of it."""

    id: str
    connection: Connection | None = None
    handle: Any = None
    status: JobStatus = JobStatus(state=JobState.QUEUED)  # noqa: RUF009 - frozen
    pause: float = _LEAST_PAUSE
    asked: float = 0.0
    shots: int = 0
    stopped: bool = False


class Device:
    """A device of a service instance.

    Parameters
    ----------
    name
        Name of the resource.
    options
        See :class:`IbmRuntimeOptions`.
    credentials
        Its credentials; see ``account.py``.
    """

    def __init__(
        self, name: str, options: IbmRuntimeOptions, credentials: Mapping[str, str]
    ) -> None:
        self._name = name
        self._options = options
        self._link = Link(name, options, credentials)
        self._capabilities: Capabilities | None = None
        self._jobs: dict[str, _Job] = {}

    # What it is

    @property
    def capabilities(self) -> Capabilities:
        """What the device says of itself; it is asked once."""
        if self._capabilities is None:
            self._capabilities = self._link.call(self._describe, Phase.CONNECTING)
        return self._capabilities

    def _describe(self, connection: Connection) -> Capabilities:
        says, options = connection.device.configuration(), self._options
        delay = float(getattr(says, "default_rep_delay", None) or 0.0)
        return Capabilities(
            simulator=bool(says.simulator),
            num_qubits=int(says.n_qubits),
            max_pubs=getattr(says, "max_experiments", None),
            max_shots=getattr(says, "max_shots", None),
            lanes=options.jobs,
            serial=True,
            tags=True,
            find_seconds=options.find_seconds,
            durable_jobs=True,
            options=primitives.OPTIONS,
            fixed_seconds=options.seconds_per_job,
            shot_seconds=options.seconds_per_shot or delay,
        )

    def target(self) -> TargetSnapshot:
        """Return the device's target, as it is now calibrated."""
        from hybridflow.targets import snapshot_of

        def snapshot(connection: Connection) -> TargetSnapshot:
            connection.device.refresh()
            return snapshot_of(connection.device.target, calibration=_calibration(connection))

        return self._link.call(snapshot, Phase.ASKING)

    def metadata(self) -> dict[str, str]:
        """Return the device's name, version, date of calibration and instance."""

        def read(connection: Connection) -> dict[str, str]:
            device = connection.device
            return {
                "name": self._name,
                "device": str(device.name),
                "version": str(device.backend_version),
                "calibration": _calibration(connection),
                "instance": str(connection.service.active_instance()),
                "mode": self._options.mode,
            }

        return self._link.call(read, Phase.ASKING)

    # Session

    def acquire(self) -> None:
        """Connect, and ask whether the device can be had."""
        status = self._link.call(lambda connection: connection.device.status(), Phase.CONNECTING)
        if not status.operational:
            raise AcquireError(
                f"{self._name} cannot be acquired: IBM says that it is not operational "
                f"({status.status_msg or 'no reason given'})",
                transient=True,
                resource=self._name,
            )

    def release(self) -> None:
        """Close session or batch, and the connection. Jobs run on."""
        self._link.close()
        self._jobs.clear()

    # Jobs

    def start(self, batch: Batch, tag: str) -> str:
        """Submit a job and return its id."""
        primitives.check_batch(batch, self.capabilities, self._name)
        pubs = primitives.unpack_pubs(batch)

        def submit(connection: Connection) -> _Job:
            handle = self._submit(batch, pubs, tag)
            return _Job(str(handle.job_id()), connection, handle)

        job = self._link.call(submit, Phase.STARTING)
        self._jobs[job.id] = job
        return job.id

    def _submit(self, batch: Batch, pubs: list[Any], tag: str) -> Any:
        workload = self._link.workload
        marks = {"job_tags": [tag]}

        def run() -> Any:
            return primitives.primitive(batch, workload.enter(), environment=marks).run(pubs)

        try:
            handle = self._run(run, workload)
            workload.started(str(handle.job_id()))
            return handle
        finally:
            workload.rest()

    def _run(self, run: Callable[[], Any], workload: Workload) -> Any:
        try:
            return run()
        except Exception as error:
            # A session that the service has closed is not the user's fault; nothing was started.
            refused = faults.http_status(error) in range(400, 500)
            if not (refused and workload.was_closed()):
                raise
        _log.warning("%s: the service has closed the session: a new one", self._name)
        return run()

    def status(self, job_id: str, wait: float) -> JobStatus:
        """Return a job's state; wait up to `wait` seconds for a final one."""
        deadline = time.monotonic() + wait
        while True:
            job = self._job(job_id)
            now = time.monotonic()
            if not job.status.state.final and now >= job.asked + job.pause:
                job.status = self._ask(job, self._look)
                job.asked = time.monotonic()
                job.pause = min(self._options.poll_seconds, 1.2 * job.pause)
            now = time.monotonic()
            if job.status.state.final or now >= deadline:
                return job.status
            time.sleep(max(0.0, min(deadline, job.asked + job.pause) - now))

    def _look(self, connection: Connection, job: _Job, handle: Any) -> JobStatus:
        state = _STATES.get(handle.status(), JobState.RUNNING)
        if not state.final:
            return JobStatus(state=state)
        self._link.workload.ended(job.id)
        if state is JobState.CANCELLED:
            return self._cancelled(connection, job, handle)
        if state is JobState.DONE:
            return JobStatus(state=state)
        message = str(handle.error_message() or "the service gives no reason")
        transient = faults.is_transient_reason(reason_of(handle).code)
        return JobStatus(state=state, message=self._link.discreet(message), transient=transient)

    def _cancelled(self, connection: Connection, job: _Job, handle: Any) -> JobStatus:
        reason = self._link.discreet(reason_of(handle).text)
        if job.stopped or not connection.is_closed(handle.session_id):
            message = reason or ("stopped" if job.stopped else "cancelled at the service")
            return JobStatus(state=JobState.CANCELLED, message=message)
        # Nobody wanted that: it has waited for too long in a session that IBM has closed.
        message = f"its session was closed by the service ({reason or 'no reason given'})"
        return JobStatus(state=JobState.FAILED, message=message, transient=True)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return a job's results; the service keeps them."""
        self._refuse_without_result(job_id, self.status(job_id, 0.0))
        job = self._job(job_id)
        text = self._ask(job, lambda _, __, handle: text_of(handle))
        results = primitives.read_results(text, self._name)
        job.shots = primitives.shots_of(results)
        return results

    def _refuse_without_result(self, job_id: str, status: JobStatus) -> None:
        where: dict[str, Any] = {"resource": self._name, "vendor_job_id": job_id}
        what = f"vendor job {job_id} on {self._name!r}"
        match status.state:
            case JobState.DONE:
                return
            case JobState.CANCELLED:
                raise RequestCancelledError(f"{what} was cancelled: {status.message}", **where)
            case JobState.FAILED:
                where["transient"] = status.transient
                raise VendorJobError(f"{what} failed: {status.message}", **where)
        raise ResourceError(f"{what} is {status.state}: it has no result yet", **where)

    def stop(self, job_id: str) -> None:
        """Have a job cancelled; no error if it has ended."""
        job = self._job(job_id)
        job.stopped = True

        def cancel(_: Connection, __: _Job, handle: Any) -> None:
            try:
                handle.cancel()
            except Exception as error:
                if faults.http_status(error) != 409:  # it has ended
                    raise
            self._link.workload.ended(job.id)  # nobody may ask for it any more

        self._ask(job, cancel)

    def find(self, tag: str) -> str | None:
        """Return the id of the youngest job with a tag."""

        def ask(connection: Connection) -> str | None:
            found = connection.service.jobs(limit=2, job_tags=[tag])
            if len(found) > 1:
                _log.warning("%s: there are several jobs with the tag %s", self._name, tag)
            return str(found[0].job_id()) if found else None

        return self._link.call(ask, Phase.ASKING)

    def usage(self, job_id: str) -> Usage:
        """Return what a job cost: the seconds of the device that IBM charges for it."""
        job = self._job(job_id)
        for look in range(_BILLING_LOOKS):
            if look:
                time.sleep(_BILLING_PAUSE)
            metrics = self._ask(job, lambda _, __, handle: handle.metrics())
            charged = metrics.get("usage") or {}
            if charged.get("status") != "pending":
                break
        seconds = charged.get("qpu_charge_time_seconds", charged.get("quantum_seconds"))
        return Usage(qpu_seconds=float(seconds or 0.0), shots=job.shots)

    def _job(self, job_id: str) -> _Job:
        if job_id not in self._jobs:  # of an earlier process
            job = _Job(job_id)
            self._ask(job, lambda *_: None)
            self._jobs[job_id] = job
        return self._jobs[job_id]

    def _ask(self, job: _Job, question: Callable[[Connection, _Job, Any], _T]) -> _T:
        def ask(connection: Connection) -> _T:
            if job.connection is not connection:  # an earlier one, which was given up
                job.handle, job.connection = connection.service.job(job.id), connection
            return question(connection, job, job.handle)

        return self._link.call(ask, Phase.ASKING)


def _calibration(connection: Connection) -> str:
    properties = connection.device.properties()
    updated = getattr(properties, "last_update_date", None)
    return updated.isoformat() if updated is not None else ""

"""A device at the service: its jobs are started, watched and fetched through the package.

All calls go through the caller's thread, and what goes wrong there comes back as an error of ours.
A connection whose token is not accepted any more is made anew, once; so is one that a call got lost
in.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hybridflow.backends.ibm_runtime import faults, primitives
from hybridflow.backends.ibm_runtime.account import Account, find_account
from hybridflow.backends.ibm_runtime.caller import Caller, LateError, quietly
from hybridflow.backends.ibm_runtime.faults import Phase
from hybridflow.backends.ibm_runtime.options import IbmRuntimeOptions
from hybridflow.backends.ibm_runtime.service import Connection, connect, reason_of
from hybridflow.backends.ibm_runtime.workload import Workload
from hybridflow.errors import AcquireError, HybridflowError, RequestCancelledError, VendorJobError
from hybridflow.records import (
    Batch,
    Capabilities,
    JobState,
    JobStatus,
    PackedResult,
    TargetSnapshot,
    Usage,
)
from hybridflow.redaction import redact

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
        self._credentials = credentials
        # A connection sends several questions; each has a deadline of its own.
        self._caller = Caller(f"{name}-ibm", 2 * options.timeout_seconds)
        self._account: Account | None = None
        self._connection: Connection | None = None
        self._workload: Workload | None = None
        self._capabilities: Capabilities | None = None
        self._jobs: dict[str, _Job] = {}

    # What it is

    @property
    def capabilities(self) -> Capabilities:
        """What the device says of itself; it is asked once."""
        if self._capabilities is None:
            self._capabilities = self._call(self._describe, Phase.CONNECTING)
        return self._capabilities

    def _describe(self, connection: Connection) -> Capabilities:
        says, options = connection.device.configuration(), self._options
        delay = float(getattr(says, "default_rep_delay", None) or 0.0) * 1e-6
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

        return self._call(snapshot, Phase.ASKING)

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

        return self._call(read, Phase.ASKING)

    # Session

    def acquire(self) -> None:
        """Connect, and ask whether the device can be had."""
        status = self._call(lambda connection: connection.device.status(), Phase.CONNECTING)
        if not status.operational:
            raise AcquireError(
                f"{self._name} cannot be acquired: IBM says that it is not operational "
                f"({status.status_msg or 'no reason given'})",
                transient=True,
                resource=self._name,
            )

    def release(self) -> None:
        """Close session or batch, and the connection. Jobs run on."""
        try:
            if self._connection is not None:
                self._run(self._let_go)
        except LateError as error:
            _log.warning("%s: the connection was not closed in order: %s", self._name, error)
        finally:
            self._forget()
            self._caller.close()
            self._jobs.clear()

    def _let_go(self) -> None:
        if self._workload is not None:
            self._workload.close()
        if self._connection is not None:
            self._connection.close()

    # Jobs

    def start(self, batch: Batch, tag: str) -> str:
        """Submit a job and return its id."""
        primitives.check_batch(batch, self.capabilities, self._name)
        pubs = primitives.unpack_pubs(batch)

        def submit(connection: Connection) -> Any:
            return self._submit(batch, pubs, tag)

        handle = self._call(submit, Phase.STARTING)
        job = _Job(str(handle.job_id()), handle)
        self._jobs[job.id] = job
        return job.id

    def _submit(self, batch: Batch, pubs: list[Any], tag: str) -> Any:
        assert self._workload is not None
        workload = self._workload
        environment = {"job_tags": [tag]}
        try:
            try:
                mode = workload.enter()
                handle = primitives.primitive(batch, mode, environment=environment).run(pubs)
            except Exception as error:
                # Refused, so that nothing was started; a session that is closed is not the user's
                # fault.
                if faults.http_status(error) not in range(400, 500) or not workload.was_closed():
                    raise
                _log.warning("%s: the service has closed the session: a new one", self._name)
                mode = workload.enter()
                handle = primitives.primitive(batch, mode, environment=environment).run(pubs)
            workload.started(str(handle.job_id()))
            return handle
        finally:
            workload.rest()

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
        assert self._workload is not None
        self._workload.ended(job.id)
        if state is JobState.FAILED:
            message = str(handle.error_message() or "the service gives no reason")
            return JobStatus(
                state=state,
                message=self._discreet(message),
                transient=faults.is_transient_reason(reason_of(handle).code),
            )
        if state is JobState.CANCELLED:
            return self._cancelled(connection, job, handle)
        return JobStatus(state=state)

    def _cancelled(self, connection: Connection, job: _Job, handle: Any) -> JobStatus:
        reason = self._discreet(reason_of(handle).text)
        if job.stopped or not connection.is_closed(handle.session_id):
            message = reason or ("stopped" if job.stopped else "cancelled at the service")
            return JobStatus(state=JobState.CANCELLED, message=message)
        # Nobody wanted that: it has waited for too long in a session that IBM has closed.
        message = f"its session was closed by the service ({reason or 'no reason given'})"
        return JobStatus(state=JobState.FAILED, message=message, transient=True)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return a job's results; the service keeps them."""
        status = self.status(job_id, 0.0)
        if status.state is JobState.CANCELLED:
            raise RequestCancelledError(
                f"the job {job_id} was cancelled: {status.message}", vendor_job_id=job_id
            )
        if status.state is JobState.FAILED:
            raise VendorJobError(
                f"vendor job {job_id} on {self._name!r} failed: {status.message}",
                transient=status.transient,
                resource=self._name,
                vendor_job_id=job_id,
            )
        if not status.state.final:
            raise VendorJobError(
                f"vendor job {job_id} on {self._name!r} is {status.state}: it has no result yet",
                transient=True,
                resource=self._name,
                vendor_job_id=job_id,
            )
        job = self._job(job_id)
        found = self._ask(job, lambda _, __, handle: handle.result())
        results = primitives.pack_results(found, job_id)
        job.shots = primitives.shots_of(results)
        return results

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

        self._ask(job, cancel)

    def find(self, tag: str) -> str | None:
        """Return the id of the youngest job with a tag."""

        def ask(connection: Connection) -> str | None:
            found = connection.service.jobs(limit=2, job_tags=[tag])
            if len(found) > 1:
                _log.warning("%s: there are several jobs with the tag %s", self._name, tag)
            return str(found[0].job_id()) if found else None

        return self._call(ask, Phase.ASKING)

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
            handle = self._call(lambda connection: connection.service.job(job_id), Phase.ASKING)
            self._jobs[job_id] = _Job(job_id, handle)
        return self._jobs[job_id]

    def _ask(self, job: _Job, question: Callable[[Connection, _Job, Any], _T]) -> _T:
        def ask(connection: Connection) -> _T:
            if job.handle is None:  # its connection was given up
                job.handle = connection.service.job(job.id)
            return question(connection, job, job.handle)

        return self._call(ask, Phase.ASKING)

    # The way there

    def _call(self, work: Callable[[Connection], _T], phase: Phase) -> _T:
        try:
            return self._run(lambda: self._connected(work, phase))
        except LateError as late:
            self._forget()
            raise self._typed(late, phase) from late

    def _connected(self, work: Callable[[Connection], _T], phase: Phase) -> _T:
        # In the caller's thread.
        with quietly(self._secrets):
            had = self._connection is not None
            try:
                return work(self._connect())
            except Exception as error:
                if not (had and faults.is_unauthorized(error)):
                    raise self._typed(error, phase) from error
            _log.warning(
                "%s: the service does not accept the token any more: a new one", self._name
            )
            self._forget()
            try:
                return work(self._connect())
            except Exception as error:
                raise self._typed(error, phase) from error

    def _run(self, work: Callable[[], _T]) -> _T:
        return self._caller.call(work)

    def _connect(self) -> Connection:
        if self._connection is None:
            account = find_account(self._name, self._options, self._credentials)
            self._account = account
            try:
                self._connection = connect(
                    account,
                    self._options.device or self._name,
                    fractional=self._options.fractional_gates,
                    seconds=self._options.timeout_seconds,
                )
            except Exception as error:
                raise self._typed(error, Phase.CONNECTING) from error
            self._workload = Workload(
                self._connection, self._options, account.held, self._caller.later
            )
        return self._connection

    def _forget(self) -> None:
        # Jobs hold the connection that they were started with.
        self._connection = self._workload = None
        for job in self._jobs.values():
            job.handle = None

    @property
    def _secrets(self) -> tuple[str, ...]:
        # A saved account's token is known to nobody else.
        known = (self._account.token,) if self._account is not None else ()
        return (*known, *self._credentials.values())

    def _typed(self, error: Exception, phase: Phase) -> HybridflowError:
        return faults.typed(error, resource=self._name, phase=phase, secrets=self._secrets)

    def _discreet(self, text: str) -> str:
        return redact(text, self._secrets)


def _calibration(connection: Connection) -> str:
    properties = connection.device.properties()
    updated = getattr(properties, "last_update_date", None)
    return updated.isoformat() if updated is not None else ""

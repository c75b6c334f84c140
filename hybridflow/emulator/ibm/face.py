"""What the service knows of itself in IBM's words: devices, jobs, sessions. No HTTP here.

A job of IBM's is a job of the service (``jobs.py``) with some facts that only IBM's interface has;
they are kept as long as it is.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from hybridflow import wire
from hybridflow.backends.aer.devices import fake_device
from hybridflow.backends.emulator.messages import Caller, Submission
from hybridflow.backends.ibm_json import batch_of, result_text
from hybridflow.emulator.device import Device
from hybridflow.emulator.ibm.access import Session, Sessions, Tokens
from hybridflow.emulator.ibm.objects import Objects
from hybridflow.emulator.jobs import Job
from hybridflow.emulator.service import Service
from hybridflow.errors import AcquireError, RequestError, ResourceError
from hybridflow.qiskit_thread import import_qiskit
from hybridflow.records import JobState, PackedResult, Primitive, Record

__all__ = ["Face"]

_STATES = {
    JobState.QUEUED: "Queued",
    JobState.RUNNING: "Running",
    JobState.DONE: "Completed",
    JobState.FAILED: "Failed",
    JobState.CANCELLED: "Cancelled",
}
_TAGS_BYTES = 240
_INTERNAL_ERROR = 9999
"""A reason of IBM's registry of error codes that says to try again."""


class _Facts(Record, frozen=True, kw_only=True):
    # What IBM's interface says of a job and the service does not know.
    primitive: Primitive
    tags: tuple[str, ...]
    session: str | None
    cost: int


class Face:
    """The service, as IBM's clients see it.

    Parameters
    ----------
    service
        The emulated QPUs.

    Attributes
    ----------
    tokens, sessions, objects
        Who may ask, what is open, and what is in the store.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.tokens = Tokens()
        self.sessions = Sessions()
        self.objects = Objects()
        self._facts: WeakKeyDictionary[Job, _Facts] = WeakKeyDictionary()

    # Devices

    def device(self, name: str) -> Device:
        """Return a device that this interface shows.

        Raises
        ------
        AcquireError
            If there is none of that name.
        """
        device = self._service.device(name)
        if device.options.device is None:
            raise AcquireError(
                f"{name} imitates no device of IBM's: give it one, such as `device = "
                '"FakeTorino"`, in the configuration of the emulated QPU'
            )
        return device

    def devices(self) -> list[dict[str, Any]]:
        """Return what the list of devices says of each."""
        offline = self._service.faults.now.offline
        return [
            {
                "name": device.name,
                "status": {"name": "offline" if offline else "online", "reason": "available"},
                "qubits": device.target.num_qubits,
                "queue_length": self._queued(device.name),
                "processor_type": self.configuration(device.name)["processor_type"],
            }
            for device in self._service.devices.values()
            if device.options.device is not None
        ]

    def state(self, name: str) -> dict[str, Any]:
        """Return whether a device is up, and how much it has to do."""
        device, offline = self.device(name), self._service.faults.now.offline
        return {
            "state": not offline,
            "status": "offline" if offline else "active",
            "message": "available",
            "length_queue": self._queued(device.name),
            "backend_version": "1.0.0",
        }

    def _queued(self, name: str) -> int:
        return sum(
            job.resource == name and not job.status.state.final for job in self._service.jobs.all()
        )

    def configuration(self, name: str) -> dict[str, Any]:
        """Return what does not change about a device, as IBM's service has it."""
        return {**self._file(name, "conf_filename"), "backend_name": name}

    def properties(self, name: str) -> dict[str, Any]:
        """Return a device's last calibration, as IBM's service has it."""
        return {**self._file(name, "props_filename"), "backend_name": name}

    def _file(self, name: str, kind: str) -> dict[str, Any]:
        # The fake devices of qiskit-ibm-runtime carry what the service once sent of real ones.
        device = fake_device(str(self.device(name).options.device))
        text = Path(device.dirname, getattr(device, kind)).read_text(encoding="utf-8")
        content: dict[str, Any] = json.loads(text)
        return content

    # Jobs

    def submit(
        self, fields: Mapping[str, Any], text: str | bytes, account: str, job_id: str | None = None
    ) -> Job:
        """Take a job.

        Parameters
        ----------
        fields
            What it says beside its input.
        text
            Its input, as JSON.
        account
            Whose it is.
        job_id
            Its id, where the client chooses that.

        Raises
        ------
        RequestError, ResourceError, AcquireError
            If it is refused.
        """
        import_qiskit()
        batch = batch_of(fields.get("program_id"), text)
        name, session = fields.get("backend"), fields.get("session_id")
        tags = _tags(fields.get("tags"))
        if session is not None and not self._session(session, account).accepting:
            raise ResourceError(f"the session {session} is closed")
        device = self.device(str(name))
        submission = Submission(batch=batch, tag=tags[0] if tags else "", caller=Caller())
        job = self._service.submit(device.name, account, submission, job_id)
        self._facts[job] = _Facts(
            primitive=batch.primitive,
            tags=tags,
            session=session,
            cost=int(fields.get("cost") or 0),
        )
        return job

    def _session(self, session_id: object, account: str) -> Session:
        return self.sessions.get(str(session_id), account)

    def job(self, job_id: str, account: str) -> Job:
        """Return a job of this user.

        Raises
        ------
        ResourceError
            If there is none.
        """
        job = self._service.jobs.get(job_id, account)
        if job not in self._facts:
            raise ResourceError(f"there is no job {job_id!r}")
        return job

    def jobs(self, account: str) -> Iterator[Job]:
        """Yield this user's jobs, the youngest first."""
        for job in reversed(list(self._service.jobs.all())):
            if job in self._facts and job.account == account and not job.forgotten:
                yield job

    def meets(self, job: Job, asked: dict[str, list[str]]) -> bool:
        """Whether a job is one that was asked for, by the fields of a query."""
        facts = self._facts[job]
        wanted = {
            "backend": job.resource,
            "program": facts.primitive.value,
            "session_id": facts.session,
            "pending": "false" if job.status.state.final else "true",
        }
        same = all(asked[key][-1] == value for key, value in wanted.items() if key in asked)
        return same and set(asked.get("tags", ())) <= set(facts.tags)

    def described(self, job: Job) -> dict[str, Any]:
        """Return what is said of a job."""
        facts, status = self._facts[job], job.status
        state: dict[str, Any] = {"status": _STATES[status.state]}
        if status.message:
            state |= {"reason": status.message}
        if status.transient:
            state |= {"reason_code": _INTERNAL_ERROR}
        return {
            "id": job.id,
            "backend": job.resource,
            "program": {"id": facts.primitive.value},
            "created": _time(job.submitted),
            "status": _STATES[status.state],
            "state": state,
            "session_id": facts.session,
            "tags": list(facts.tags),
            "cost": facts.cost,
            "user_id": job.account,
            "usage": {"quantum_seconds": job.usage.qpu_seconds, "seconds": job.usage.qpu_seconds},
        }

    def metrics(self, job: Job) -> dict[str, Any]:
        """Return what a job cost, and when."""
        line = job.execution()
        return {
            "timestamps": {
                "created": _time(line.submitted),
                "running": _time(line.started),
                "finished": _time(line.ended),
            },
            "usage": {
                "quantum_seconds": line.qpu_seconds,
                "seconds": line.qpu_seconds,
                "qpu_charge_time_seconds": line.qpu_seconds,
                "status": "complete" if job.status.state.final else "pending",
            },
            "num_circuits": line.circuits,
        }

    def results(self, job: Job) -> str:
        """Return a job's results.

        Raises
        ------
        HybridflowError
            Why there are none.
        """
        results = wire.decode(job.packed_results(), tuple[PackedResult, ...])
        begun = job.execution().started or job.submitted
        span = _moment(begun), _moment(begun + job.usage.qpu_seconds)
        return result_text(results, self._facts[job].primitive, span)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else _moment(seconds).isoformat()


def _tags(given: object) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(tag, str) for tag in given):
        raise RequestError("`tags` is a list of texts")
    if sum(map(len, given)) > _TAGS_BYTES:
        raise RequestError(f"all `tags` together have {_TAGS_BYTES} characters at most")
    return tuple(given)

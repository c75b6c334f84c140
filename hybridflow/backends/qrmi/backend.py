"""``QrmiBackend``: vendor jobs through the ``qrmi`` wheel, one handle, in one thread.

The wheel's handle may be used by one thread only, does not survive a fork and cannot be pickled:
this backend has a process of its own, whose one thread makes it and drives its ``task_*`` methods.
Where Slurm's plugin has acquired the resource, its token is used and never released: that would end
the session for the whole job. Elsewhere a session is acquired here, and released.

The wheel has no tags and no look-up of jobs: a job whose id was lost is *uncertain*. So that this
is rare, the device is asked whether it is there before each job.
"""

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import msgspec

from hybridflow.backends.ibm_json import job_input, results_of
from hybridflow.backends.qrmi.definition import Definition, definition_of
from hybridflow.backends.qrmi.faults import (
    http_status,
    is_closed_session,
    refusal,
    translated,
)
from hybridflow.backends.qrmi.options import QrmiOptions
from hybridflow.backends.refusals import refuse_undeclared
from hybridflow.backends.timing import count_circuits, count_shots
from hybridflow.errors import (
    AcquireError,
    HybridflowError,
    ResourceError,
    SiteError,
    VendorJobError,
)
from hybridflow.extras import require
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
from hybridflow.redaction import redact
from hybridflow.targets import snapshot_of
from hybridflow.wire import unpack_pub

__all__ = ["QrmiBackend"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_STATES = {
    "Queued": JobState.QUEUED,
    "Running": JobState.RUNNING,
    "Completed": JobState.DONE,
    "Failed": JobState.FAILED,
    "Cancelled": JobState.CANCELLED,
}
_OPTIONS = {
    Primitive.SAMPLER: ("dynamical_decoupling", "execution", "experimental", "twirling"),
    Primitive.ESTIMATOR: (
        "dynamical_decoupling",
        "execution",
        "experimental",
        "resilience",
        "resilience_level",
        "seed_estimator",
        "twirling",
    ),
}
_POLL_SECONDS = 0.25
_KEPT = 256
"""Jobs whose size and cost are remembered."""


class QrmiBackend:
    """A resource behind the ``qrmi`` wheel.

    Parameters
    ----------
    name
        Name of the resource.
    options
        See :class:`QrmiOptions`.
    credentials
        The wheel's keys, as Slurm's plugin gives them, and its token.

    Raises
    ------
    SiteError
        If its definition is wrong, or its type takes no requests of Qiskit's.
    AcquireError
        If there are no credentials.
    MissingExtraError
        If the wheel is not installed.
    """

    Options: ClassVar[type[msgspec.Struct]] = QrmiOptions
    own_process: ClassVar[bool] = True
    fixed_target: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        options: QrmiOptions | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.options = options or QrmiOptions()
        self._definition: Definition = definition_of(name, self.options, credentials or {})
        if not self._definition.type.takes_primitives:
            raise SiteError(
                f"{name!r} is of the type {self._definition.kind!r}, for which hybridflow's "
                "backend 'qrmi' has no form of requests: use the vendor's own Qiskit backend with "
                '`backend = "qiskit"`',
                resource=name,
            )
        self._qrmi: ModuleType = require("qrmi", "qrmi", "the backend 'qrmi'")
        self._token: str | None = None
        self._is_open = False
        self._sizes: OrderedDict[str, tuple[int, int, float]] = OrderedDict()
        self._costs: OrderedDict[str, Usage] = OrderedDict()

    @cached_property
    def _handle(self) -> Any:
        kind = getattr(self._qrmi.ResourceType, self._definition.type.member)
        with self._asking("take its definition"):
            return self._qrmi.QuantumResource.from_config(
                self._definition.name, kind, self._definition.keys
            )

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except HybridflowError:
            raise
        except Exception as error:
            # Not chained: the wheel's text may hold what ours does not.
            raise translated(error, what, self.name, self._definition.secrets) from None

    # What it is

    @cached_property
    def _backend(self) -> Any:
        from qrmi.primitives.ibm import get_backend

        with self._asking("tell its target"):
            # The wheel answers with half a target where a question failed.
            told = json.loads(self._handle.target().value or "{}")
            if not told.get("configuration") or not told.get("properties"):
                raise ResourceError(
                    f"{self.name} did not tell its target: it is offline, or has no device "
                    f"{self._definition.name!r}",
                    transient=True,
                    resource=self.name,
                )
            return get_backend(self._handle)

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the device can do: it is asked, once.

        Raises
        ------
        AcquireError
            If it does not answer.
        """
        try:
            configuration = self._backend.configuration()
        except ResourceError as error:
            raise self._not_acquired(error) from error
        return Capabilities(
            simulator=bool(configuration.simulator),
            num_qubits=int(configuration.n_qubits),
            max_shots=int(configuration.max_shots),
            lanes=self.options.lanes,
            durable_jobs=True,
            options=_OPTIONS,
            fixed_seconds=self.options.seconds_per_job,
            shot_seconds=self._shot_seconds(configuration),
        )

    def _shot_seconds(self, configuration: Any) -> float:
        if self.options.seconds_per_shot is not None:
            return self.options.seconds_per_shot
        # In microseconds, as IBM has it.
        return 1e-6 * float(getattr(configuration, "default_rep_delay", None) or 0.0)

    def target(self) -> TargetSnapshot:
        """Return the device's target, with the date of its calibration."""
        return snapshot_of(self._backend.target, calibration=self._calibration())

    def _calibration(self) -> str:
        date = self._backend.properties().last_update_date
        return str(date.isoformat() if hasattr(date, "isoformat") else date)

    def metadata(self) -> dict[str, str]:
        """Return what identifies the device, and the wheel's version."""
        from importlib.metadata import version

        return {
            "name": self._definition.name,
            "type": self._definition.kind,
            "version": str(self._backend.backend_version),
            "calibration": self._calibration(),
            "qrmi": version("qrmi"),
        }

    # Session

    def acquire(self) -> None:
        """Ask whether the device is there, and open a session where the plugin has not.

        Raises
        ------
        AcquireError
            If it cannot be had.
        """
        try:
            self._knock()
            self._open_session()
        except HybridflowError as error:
            raise self._not_acquired(error) from error
        self._is_open = True

    def _open_session(self) -> None:
        if self._definition.has_token or not self._definition.type.has_sessions:
            return
        with self._asking("open a session"):
            self._token = self._handle.acquire()

    def _not_acquired(self, error: HybridflowError) -> AcquireError:
        return AcquireError(
            f"{self.name} cannot be acquired: {error}",
            transient=error.transient,
            resource=self.name,
        )

    def _knock(self) -> None:
        with self._asking("say how it is"):
            state = self._handle.status()
        if state.status != self._qrmi.ResourceStatusCode.Online:
            reason = f": {state.status_reason}" if state.status_reason else ""
            word = str(state.status).rpartition(".")[2].lower()
            raise ResourceError(
                f"{self.name} is {word}{reason}: try again later",
                transient=True,
                resource=self.name,
            )

    def release(self) -> None:
        """Close the session that was opened here; jobs run on."""
        self._is_open = False
        token, self._token = self._token, None
        if token is None:
            return
        try:
            with self._asking("close its session"):
                self._handle.release(token)
        except HybridflowError as error:
            _log.warning("%s", error)  # it ends by itself, and nobody could do more about it

    # Jobs

    def start(self, batch: Batch, *, tag: str) -> str:
        """Start one vendor job.

        Raises
        ------
        RequestError
            If the vendor refuses it.
        ResourceError
            If nothing was started.
        BackendLostError
            If it may have been started, and its id did not come.
        """
        if not self._is_open:
            raise ResourceError(
                f"{self.name} has not been acquired: call acquire() before start()",
                resource=self.name,
            )
        pubs = [unpack_pub(pub, batch.primitive) for pub in batch.pubs]
        refuse_undeclared(batch, pubs, self.capabilities, self.name)
        payload = self._qrmi.Payload.QiskitPrimitive(
            input=job_input(pubs, batch.options, self.name), program_id=batch.primitive.value
        )
        self._knock()
        job_id = self._started(payload)
        _keep(self._sizes, job_id, (len(batch.pubs), count_shots(batch), self._estimate(batch)))
        return job_id

    def _started(self, payload: Any) -> str:
        try:
            return str(self._handle.task_start(payload))
        except Exception as error:
            if not is_closed_session(error) or self._definition.has_token:
                raise self._refusal(error) from None
        _log.warning("the session of %s is over: another one is opened", self.name)
        self._open_session()
        try:
            return str(self._handle.task_start(payload))
        except Exception as error:
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> HybridflowError:
        resends = self._definition.type.resends
        return refusal(error, self.name, self._definition.secrets, resends=resends)

    def _estimate(self, batch: Batch) -> float:
        shots = count_shots(batch) or 4096 * count_circuits(batch)
        return self.capabilities.fixed_seconds + self.capabilities.shot_seconds * shots

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        """Return a job's state; ask again until `wait` seconds have passed, or it is final."""
        deadline = time.monotonic() + wait
        while True:
            with self._asking(f"tell the state of the job {job_id}"):
                told = self._handle.task_status(job_id)
            state = _STATES[str(told).rpartition(".")[2]]
            left = deadline - time.monotonic()
            if state.final or left <= 0:
                break
            time.sleep(min(_POLL_SECONDS, left))
        message = self._reason(job_id) if state is JobState.FAILED else ""
        return JobStatus(state=state, message=message)

    def _reason(self, job_id: str) -> str:
        # Only the logs tell.
        try:
            with self._asking(f"tell why the job {job_id} failed"):
                text = str(self._handle.task_logs(job_id)).strip()
        except HybridflowError as error:
            text = str(error)
        return redact(text, self._definition.secrets)[-2000:] or "the vendor gives no reason"

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return a job's results; the service keeps them.

        Raises
        ------
        VendorJobError
            If it failed, with what its log says.
        ResourceError
            If they did not come: transient.
        """
        status = self.status(job_id)
        if status.state is JobState.FAILED:
            raise VendorJobError(
                f"the vendor job {job_id} of {self.name} failed: {status.message}",
                resource=self.name,
                vendor_job_id=job_id,
            )
        with self._asking(f"send the results of the job {job_id}"):
            text = str(self._handle.task_result(job_id).value)
        pubs, shots, estimate = self._sizes.get(job_id, (None, 0, 0.0))
        results, seconds = results_of(text, pubs, resource=self.name)
        cost = estimate if seconds is None else seconds
        _keep(self._costs, job_id, Usage(qpu_seconds=cost, shots=shots or _shots(results)))
        return results

    def stop(self, job_id: str) -> None:
        """Have a job ended; no error if it has."""
        with self._asking(f"stop the job {job_id}"):
            try:
                self._handle.task_stop(job_id)
            except Exception as error:
                if http_status(error) != HTTPStatus.CONFLICT:  # it ended meanwhile
                    raise

    def find(self, tag: str) -> str | None:
        """Return None: the wheel looks no job up."""
        return None

    def usage(self, job_id: str) -> Usage:
        """Return what a job cost: the time its results say that the device took, or an estimate.

        The wheel has no question for what the vendor bills. IBM's sampler tells when it executed
        what (``execution_spans``); for an estimator, `seconds_per_job` and `seconds_per_shot` of
        the site file are what is known. Of a job without results nothing is known: 0.
        """
        if job_id not in self._costs and job_id not in self._sizes:
            self.status(job_id)  # an error, if there is none
        return self._costs.get(job_id, Usage())


def _keep(kept: "OrderedDict[str, _T]", job_id: str, value: _T) -> None:
    kept[job_id] = value
    while len(kept) > _KEPT:
        kept.popitem(last=False)


def _shots(results: tuple[PackedResult, ...]) -> int:
    # Of a job that an earlier process started: what its arrays hold.
    from hybridflow.npy import array_from_bytes

    total = 0
    for result in results:
        arrays = [array_from_bytes(result.arrays[name]) for name in result.bits]
        total += max((int(a.size // a.shape[-1]) for a in arrays if a.size), default=0)
    return total

"""``AerBackend``: vendor jobs in one thread of this process, on an ``AerSimulator``.

Aer holds the GIL while it executes, so that the broker hosts this backend in a process of its own
(``own_process``). Qiskit and Aer are imported when they are first used.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import msgspec

from hybridflow import wire
from hybridflow.backends.aer.devices import fake_device
from hybridflow.backends.aer.options import AerOptions, Method
from hybridflow.backends.jobs import JobThreads, Outcome
from hybridflow.backends.timing import count_circuits, count_shots
from hybridflow.errors import (
    AcquireError,
    RequestError,
    ResourceError,
    SiteError,
    TooLargeError,
)
from hybridflow.extras import require
from hybridflow.records import (
    Batch,
    Capabilities,
    JobStatus,
    PackedPub,
    PackedResult,
    Primitive,
    TargetSnapshot,
    Usage,
)

if TYPE_CHECKING:
    from hybridflow.backends.aer.engine import Engine
    from hybridflow.backends.aer.estimator import Rotations
    from hybridflow.backends.aer.plan import Plan

__all__ = ["AerBackend"]

_PLANS = 256
_Key = tuple[bytes, tuple[int, ...]]  # a circuit's QPY, and which of its numbers are open

_REQUEST_OPTIONS: dict[Primitive, tuple[str, ...]] = {
    Primitive.SAMPLER: ("method",),
    Primitive.ESTIMATOR: ("abelian_grouping", "method"),
}


class AerBackend:
    """An Aer simulator: ideal, or with noise.

    Request options: ``method`` (one of Aer's, as in the site file) and, for the estimator,
    ``abelian_grouping`` (whether commuting observables are measured together).

    Parameters
    ----------
    name
        Name of the resource.
    options
        See :class:`AerOptions`.
    credentials
        Not used.
    """

    Options: ClassVar[type[msgspec.Struct]] = AerOptions
    own_process: ClassVar[bool] = True
    fixed_target: ClassVar[bool] = True

    def __init__(
        self,
        name: str = "aer",
        options: AerOptions | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.options = options or AerOptions()
        self._jobs = JobThreads(name)
        self._plans: OrderedDict[_Key, Plan] = OrderedDict()

    # What it is

    @property
    def capabilities(self) -> Capabilities:
        """What Aer can do with these options.

        Raises
        ------
        SiteError
            If there is no such device.
        MissingExtraError
            If the package with the devices is not installed.
        """
        return Capabilities(
            simulator=True,
            num_qubits=self._num_qubits,
            seeds=True,
            exact=not self.options.has_device_noise,
            late_binding=True,
            tags=True,
            options=_REQUEST_OPTIONS,
            fixed_seconds=self.options.seconds_per_job,
            circuit_seconds=self.options.seconds_per_circuit,
            shot_seconds=self.options.seconds_per_shot,
        )

    @cached_property
    def _num_qubits(self) -> int | None:
        bounds = [self.options.num_qubits]
        if self.options.device is not None:
            bounds.append(int(self._device.num_qubits))
        return min((bound for bound in bounds if bound is not None), default=None)

    @cached_property
    def _device(self) -> Any:
        try:
            return fake_device(str(self.options.device))
        except SiteError as error:
            raise SiteError(f"key `qpu.{self.name}.device`: {error}", resource=self.name) from error

    def target(self) -> TargetSnapshot:
        """Return the device's target, or everything that an ideal Aer can execute."""
        from hybridflow.backends.aer.ideal_target import ideal_target
        from hybridflow.targets import snapshot_of

        if self.options.device is None:
            require("qiskit_aer", "aer", "the backend 'aer'")
            return ideal_target(self.options.num_qubits)
        return snapshot_of(self._device.target, calibration=_calibration(self._device))

    def metadata(self) -> dict[str, str]:
        """Return the versions, and the device with its date of calibration."""
        found = {
            "name": self.name,
            "aer": str(require("qiskit_aer", "aer", "the backend 'aer'").__version__),
        }
        if self.options.device is not None:
            found["device"] = self.options.device
            found["calibration"] = _calibration(self._device)
        return found

    # Session

    def acquire(self) -> None:
        """Make the simulator.

        Raises
        ------
        MissingExtraError
            If qiskit-aer, or the package with the devices, is not installed.
        SiteError
            If there is no such device.
        """
        if not self._jobs.is_open:
            # Whatever takes time is made now, and not while the first request waits.
            _ = self._engine, self._rotations
            self._jobs.open()

    @cached_property
    def _engine(self) -> "Engine":
        aer = require("qiskit_aer", "aer", "the backend 'aer'")
        from hybridflow.backends.aer.engine import Engine
        from hybridflow.backends.aer.memory import free_bytes

        options: dict[str, Any] = {
            "max_parallel_threads": self.options.thread_count,
            "max_parallel_experiments": self.options.thread_count,
            "precision": self.options.precision,
            "max_memory_mb": max(1, free_bytes(self.options) // 2**20),
        }
        try:
            if self.options.has_device_noise:
                simulator = aer.AerSimulator.from_backend(self._device, **options)
            else:
                simulator = aer.AerSimulator(**options)
        except aer.AerError as error:
            raise AcquireError(f"Aer could not be set up: {error}", resource=self.name) from error
        return Engine(simulator, self.options)

    def release(self) -> None:
        """Stop what runs (when Aer lets go of it) and end the thread."""
        self._jobs.close()

    # Jobs

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with the id of each job that ends."""
        self._jobs.table.subscribe(listener)

    def start(self, batch: Batch, *, tag: str) -> str:
        """Queue a batch.

        Raises
        ------
        RequestError
            If the batch has options that are not understood.
        ResourceError
            If the backend has not been acquired.
        """
        if not self._jobs.is_open:
            raise ResourceError(
                f"{self.name} has not been acquired: call acquire() before start()",
                resource=self.name,
            )
        _check_options(batch)
        return self._jobs.start(lambda stop: self._work(batch, stop), tag)

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        """Return a job's state; wait up to `wait` seconds for a final one."""
        return self._jobs.table.status(job_id, wait)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return a job's results; once."""
        return self._jobs.table.result(job_id)

    def stop(self, job_id: str) -> None:
        """Stop a job, between two runs of Aer."""
        self._jobs.table.stop(job_id)

    def find(self, tag: str) -> str | None:
        """Return the id of the job with this tag: a job does not outlive this process."""
        return self._jobs.table.find(tag)

    def usage(self, job_id: str) -> Usage:
        """Return what a job took, or what its timing profile says that it cost."""
        return self._jobs.table.usage(job_id)

    # The work

    def _work(self, batch: Batch, stop: threading.Event) -> Outcome:
        started = time.monotonic()
        results, shots = self._results(batch, stop)
        seconds = time.monotonic() - started
        if self.options.timing.is_set:
            seconds = self.options.timing.seconds(count_circuits(batch), shots)
            self.options.timing.last(started, seconds, stop)
        return results, Usage(qpu_seconds=seconds, shots=shots)

    def _results(self, batch: Batch, stop: threading.Event) -> tuple[tuple[PackedResult, ...], int]:
        from hybridflow.backends.aer.estimator import run_estimator
        from hybridflow.backends.aer.sampler import run_sampler

        method = str(batch.options.get("method", self.options.method))
        plans: dict[_Key, Plan] = {}
        if batch.primitive is Primitive.SAMPLER:
            results = run_sampler(
                batch, self._engine, lambda pub: self._plan(pub, plans), method, stop
            )
            return results, count_shots(batch)
        return run_estimator(
            batch, self._engine, lambda pub: self._plan(pub, plans), self._rotations, method, stop
        )

    def _plan(self, pub: PackedPub, plans: "dict[_Key, Plan]") -> "Plan":
        from hybridflow.backends.aer.plan import make_plan

        key = pub.circuit, pub.angles
        plan = plans.get(key) or self._plans.get(key)
        if plan is None:
            plan = make_plan(wire.circuit_of(pub))
        plans[key] = self._plans[key] = plan
        self._plans.move_to_end(key)
        while len(self._plans) > _PLANS:
            self._plans.popitem(last=False)
        bound = self._num_qubits
        if bound is not None and plan.circuit.num_qubits > bound:
            raise TooLargeError(
                f"the circuit {plan.name!r} has {plan.circuit.num_qubits} qubits; {self.name} has "
                f"{bound}"
            )
        if pub.seed is not None and pub.seed < 0:
            raise RequestError(f"a seed must be at least 0, not {pub.seed}")
        return plan

    @cached_property
    def _rotations(self) -> "Rotations":
        from qiskit import QuantumCircuit, transpile

        bases = {"X": QuantumCircuit(1), "Y": QuantumCircuit(1)}
        bases["Y"].sdg(0)
        for circuit in bases.values():
            circuit.h(0)
        if self.options.device is not None:
            names = self._device.operation_names
            bases = {
                letter: transpile(circuit, basis_gates=names, optimization_level=1)
                for letter, circuit in bases.items()
            }
        return {
            letter: [item.operation for item in circuit.data] for letter, circuit in bases.items()
        }


def _check_options(batch: Batch) -> None:
    if batch.primitive not in _REQUEST_OPTIONS:
        raise RequestError(f"the backend 'aer' does not run the {batch.primitive} primitive")
    understood = _REQUEST_OPTIONS[batch.primitive]
    for key, value in batch.options.items():
        if key not in understood:
            raise RequestError(
                f"the backend 'aer' has no option {key!r} for the {batch.primitive}; it has: "
                f"{', '.join(understood)}"
            )
        if key == "method" and value not in get_args(Method):
            raise RequestError(
                f"option `method`: {value!r} is not one of {', '.join(get_args(Method))}"
            )
        if key == "abelian_grouping" and not isinstance(value, bool):
            raise RequestError(f"option `abelian_grouping` is true or false, not {value!r}")


def _calibration(device: Any) -> str:
    properties = device.properties()
    updated = getattr(properties, "last_update_date", None)
    return updated.isoformat() if updated is not None else ""

"""A QPU for tests: small, deterministic, without a simulator package, and as faulty as you like.

It is the backend ``fake`` of a site file, and needs nothing but Qiskit: batches go to Qiskit's
``StatevectorSampler`` and ``StatevectorEstimator``, or, in the mode ``null``, nowhere at all.
"""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from hybridflow import wire
from hybridflow.backends.jobs import JobThreads, Outcome
from hybridflow.backends.timing import TimingProfile, count_circuits, count_shots
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    CircuitError,
    RequestError,
    ResourceError,
    TooLargeError,
    VendorJobError,
)
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
    from qiskit import QuantumCircuit

__all__ = ["FakeOptions", "FakeQPU"]

_OWN_SEED = 2**32


class FakeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of :class:`FakeQPU`. Jobs and acquisitions are counted from 1.

    Attributes
    ----------
    mode
        ``statevector`` computes; ``null`` answers at once, without opening the circuits, with
        zeros in a register ``meas`` of `null_bits` bits.
    null_bits
        Width of that register.
    num_qubits
        Qubits of the device.
    basis_gates
        Names of its gates, which may stand anywhere; empty: Qiskit's standard gates.
    coupling
        Pairs of qubits that two-qubit gates may act on; empty: all.
    max_pubs, max_shots, lanes
        Declared, and kept to.
    tags
        Whether ``find`` works.
    durable_jobs
        Declared, not kept: whether jobs outlive the process, so that to repeat one would cost.
    seconds_per_job, seconds_per_circuit, seconds_per_shot
        Time that a vendor job takes and bills.
    fail_jobs
        Ordinals of the vendor jobs that fail.
    fail_transient
        Whether those failures are declared transient.
    fail_circuits
        Regular expression: a vendor job fails if it matches a circuit's whole name.
    refuse_acquires
        How many acquisitions are refused before the first is granted.
    lose_on_job
        Ordinal of the vendor job at whose start the connection is lost, until it is acquired
        again; 0: none.
    exit_on_job
        Ordinal of the vendor job at whose start the whole process dies; 0: none. Only for a
        backend that is hosted in a process of its own.
    """

    mode: Literal["statevector", "null"] = "statevector"
    null_bits: int = 1
    num_qubits: int = 12
    basis_gates: tuple[str, ...] = ()
    coupling: tuple[tuple[int, int], ...] = ()
    max_pubs: int | None = None
    max_shots: int | None = None
    lanes: int = 1
    tags: bool = True
    durable_jobs: bool = False
    seconds_per_job: float = 0.0
    seconds_per_circuit: float = 0.0
    seconds_per_shot: float = 0.0
    fail_jobs: tuple[int, ...] = ()
    fail_transient: bool = False
    fail_circuits: str = ""
    refuse_acquires: int = 0
    lose_on_job: int = 0
    exit_on_job: int = 0

    def __post_init__(self) -> None:
        for name in ("null_bits", "num_qubits", "lanes"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1")
        try:
            re.compile(self.fail_circuits)
        except re.error as error:
            raise ValueError(f"`fail_circuits` is no regular expression: {error}") from error

    @property
    def timing(self) -> TimingProfile:
        """The three figures of time."""
        return TimingProfile(
            seconds_per_job=self.seconds_per_job,
            seconds_per_circuit=self.seconds_per_circuit,
            seconds_per_shot=self.seconds_per_shot,
        )


class FakeQPU:
    """A deterministic QPU: the same PUB always gives the same result.

    Results of a PUB without a seed depend on its contents alone. Dynamic circuits are refused, as
    Qiskit's ``StatevectorSampler`` refuses them.

    Parameters
    ----------
    name
        Name of the resource.
    options
        See :class:`FakeOptions`.
    credentials
        Not used.

    Attributes
    ----------
    acquired, released
        How often each was called, for tests to look at.
    batches
        The batches that were started, the oldest first.
    """

    Options: ClassVar[type[msgspec.Struct]] = FakeOptions
    own_process: ClassVar[bool] = False
    fixed_target: ClassVar[bool] = True

    def __init__(
        self,
        name: str = "fake",
        options: FakeOptions | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.options = options or FakeOptions()
        self.acquired = 0
        self.released = 0
        self.batches: list[Batch] = []
        self._lost = False
        self._jobs = JobThreads(name, self.options.lanes)

    @property
    def capabilities(self) -> Capabilities:
        """What the options declare."""
        options = self.options
        return Capabilities(
            simulator=True,
            num_qubits=options.num_qubits,
            max_pubs=options.max_pubs,
            max_shots=options.max_shots,
            lanes=options.lanes,
            seeds=True,
            exact=True,
            late_binding=True,
            tags=options.tags,
            durable_jobs=options.durable_jobs,
            fixed_seconds=options.seconds_per_job,
            circuit_seconds=options.seconds_per_circuit,
            shot_seconds=options.seconds_per_shot,
        )

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with the id of each job that ends."""
        self._jobs.table.subscribe(listener)

    def acquire(self) -> None:
        """Open the session, unless the options say that this one is refused."""
        self.acquired += 1
        if self.acquired <= self.options.refuse_acquires:
            raise AcquireError(
                f"{self.name}: acquisition {self.acquired} is refused, as its options say",
                transient=True,
                resource=self.name,
            )
        self._lost = False
        self._jobs.table.forget_lost()
        self._jobs.open()

    def release(self) -> None:
        """Stop what runs and close the session."""
        self.released += 1
        self._jobs.close()

    def target(self) -> TargetSnapshot:
        """Return the device that the options describe."""
        from hybridflow.testing.fake_target import fake_target

        return fake_target(self.options.num_qubits, self.options.basis_gates, self.options.coupling)

    def metadata(self) -> dict[str, str]:
        """Return the name and the mode."""
        return {"name": self.name, "mode": self.options.mode}

    def start(self, batch: Batch, *, tag: str) -> str:
        """Queue a batch, or fail as the options say."""
        self._refuse_if_closed()
        self._check_limits(batch)
        self.batches.append(batch)
        number = len(self.batches)
        if number == self.options.exit_on_job:
            os._exit(1)
        if number == self.options.lose_on_job:
            self._lose()
            self._refuse_if_closed()
        run = self._jobs.start if self._takes_time(number) else self._jobs.run
        return run(lambda stop: self._work(batch, number, stop), tag)

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        """Return a job's state."""
        self._refuse_if_lost()
        return self._jobs.table.status(job_id, wait)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return a job's results."""
        self._refuse_if_lost()
        return self._jobs.table.result(job_id)

    def stop(self, job_id: str) -> None:
        """Stop a job."""
        self._jobs.table.stop(job_id)

    def find(self, tag: str) -> str | None:
        """Return the id of the job with this tag."""
        return self._jobs.table.find(tag) if self.options.tags else None

    def usage(self, job_id: str) -> Usage:
        """Return what a job cost."""
        return self._jobs.table.usage(job_id)

    def _takes_time(self, number: int) -> bool:
        return self.options.mode != "null" or self.options.timing.is_set

    def _lose(self) -> None:
        self._lost = True
        self._jobs.table.lose(self._lost_error())

    def _lost_error(self) -> BackendLostError:
        return BackendLostError(
            f"{self.name}: the connection was lost, as its options say; acquire it again",
            resource=self.name,
        )

    def _refuse_if_lost(self) -> None:
        if self._lost:
            raise self._lost_error()

    def _refuse_if_closed(self) -> None:
        self._refuse_if_lost()
        if not self._jobs.is_open:
            raise ResourceError(
                f"{self.name} has not been acquired: call acquire() before start()",
                resource=self.name,
            )

    def _check_limits(self, batch: Batch) -> None:
        limits = self.options
        if batch.primitive is Primitive.ANALOG:
            raise RequestError(f"{self.name} does not run the {batch.primitive} primitive")
        if limits.max_pubs is not None and len(batch.pubs) > limits.max_pubs:
            raise TooLargeError(
                f"{self.name} takes {limits.max_pubs} PUBs a vendor job, not {len(batch.pubs)}"
            )
        if limits.max_shots is not None:
            for pub in batch.pubs:
                if (pub.shots or 0) > limits.max_shots:
                    raise TooLargeError(
                        f"{self.name} takes {limits.max_shots} shots a PUB, not {pub.shots}"
                    )
        if batch.options:
            raise RequestError(
                f"{self.name} understands no request options; given: {', '.join(batch.options)}"
            )

    def _work(self, batch: Batch, number: int, stop: threading.Event) -> Outcome:
        started = time.monotonic()
        if number in self.options.fail_jobs:
            raise VendorJobError(
                f"{self.name}: vendor job {number} fails, as its options say",
                transient=self.options.fail_transient,
            )
        results = tuple(self._result(pub, batch.primitive) for pub in batch.pubs)
        shots = count_shots(batch)
        seconds = self.options.timing.seconds(count_circuits(batch), shots)
        self.options.timing.last(started, seconds, stop)
        return results, Usage(qpu_seconds=seconds, shots=shots)

    def _result(self, packed: PackedPub, primitive: Primitive) -> PackedResult:
        if self.options.mode == "null":
            return _null_result(packed, primitive, self.options.null_bits)
        from qiskit.exceptions import QiskitError
        from qiskit.primitives import StatevectorEstimator, StatevectorSampler

        pub = wire.unpack_pub(packed, primitive)
        self._check_circuit(pub.circuit)
        rng = _generator(packed)
        kind = StatevectorSampler if primitive is Primitive.SAMPLER else StatevectorEstimator
        try:
            return wire.pack_result(kind(seed=rng).run([pub]).result()[0])
        except (QiskitError, ValueError) as error:
            raise CircuitError(
                f"{self.name} cannot run the circuit {pub.circuit.name!r}: {error}"
            ) from error

    def _check_circuit(self, circuit: "QuantumCircuit") -> None:
        pattern = self.options.fail_circuits
        if pattern and re.fullmatch(pattern, circuit.name):
            raise VendorJobError(
                f"{self.name}: the circuit {circuit.name!r} fails, as its options say",
                transient=self.options.fail_transient,
            )
        if circuit.num_qubits > self.options.num_qubits:
            raise TooLargeError(
                f"the circuit {circuit.name!r} has {circuit.num_qubits} qubits; {self.name} has "
                f"{self.options.num_qubits}"
            )


def _generator(pub: PackedPub) -> Any:
    import numpy as np

    if pub.seed is not None:
        return np.random.default_rng(pub.seed)
    digest = hashlib.blake2b(wire.encode(pub), digest_size=8).digest()
    return np.random.default_rng([_OWN_SEED, int.from_bytes(digest)])


def _null_result(pub: PackedPub, primitive: Primitive, num_bits: int) -> PackedResult:
    import numpy as np

    shape: tuple[int, ...] = ()
    if pub.parameters is not None:
        shape = wire.array_from_bytes(pub.parameters).shape[:-1]
    if primitive is Primitive.SAMPLER:
        zeros = np.zeros((*shape, pub.shots or 0, -(-num_bits // 8)), dtype=np.uint8)
        return PackedResult(
            arrays={"meas": wire.array_to_bytes(zeros)},
            bits={"meas": num_bits},
            shape=shape,
            metadata=msgspec.json.encode({"shots": pub.shots}),
        )
    observables = msgspec.json.decode(pub.observables or b"{}")
    shape = np.broadcast_shapes(shape, _depth(observables))
    values = wire.array_to_bytes(np.zeros(shape))
    return PackedResult(
        arrays={"evs": values, "stds": values},
        shape=shape,
        metadata=msgspec.json.encode({"target_precision": pub.precision}),
    )


def _depth(nested: Any) -> tuple[int, ...]:
    # The shape of an observables array: nested lists whose leaves are {pauli: coefficient}.
    return (len(nested), *_depth(nested[0])) if isinstance(nested, list) and nested else ()

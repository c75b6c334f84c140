"""``AcmeBackend``: what hybridflow asks of a QPU, in Acme's words.

The device here is Qiskit's statevector sampler in a thread. With a service of yours, its job ids
take the place of ``JobThreads``: ``start`` submits, ``status`` asks, ``result`` fetches, ``stop``
cancels.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import numpy as np

from hybridflow import wire
from hybridflow.backends.jobs import JobThreads, Outcome, StoppedError
from hybridflow.errors import CircuitError, RequestError, ResourceError, TooLargeError
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
from hybridflow.targets import snapshot_of

__all__ = ["AcmeBackend", "AcmeOptions"]

_GATES = ["rz", "sx", "x", "cz", "measure"]


class AcmeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of ``[qpu.NAME]`` with ``backend = "acme"``, checked when the site file is read."""

    num_qubits: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.num_qubits <= 20:
            raise ValueError(f"`num_qubits` must be from 1 to 20, not {self.num_qubits}")


class AcmeBackend:
    """Acme's QPU."""

    Options: ClassVar[type[msgspec.Struct]] = AcmeOptions
    own_process: ClassVar[bool] = False  # True if your client holds the GIL, or may crash
    fixed_target: ClassVar[bool] = True  # False if the device is calibrated anew

    def __init__(
        self,
        name: str = "acme",
        options: AcmeOptions | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.options = options or AcmeOptions()
        self._jobs = JobThreads(name)

    @property
    def capabilities(self) -> Capabilities:
        """What the device can do. Say no more than is true: the broker relies on it."""
        return Capabilities(
            primitives=(Primitive.SAMPLER,),
            simulator=True,
            num_qubits=self.options.num_qubits,
            seeds=True,
        )

    def target(self) -> TargetSnapshot:
        """Return what circuits are transpiled for."""
        from qiskit.transpiler import Target

        return snapshot_of(
            Target.from_configuration(basis_gates=_GATES, num_qubits=self.options.num_qubits)
        )

    def metadata(self) -> dict[str, str]:
        """Return what identifies the device."""
        return {"name": self.name, "device": "acme-5"}

    def acquire(self) -> None:
        """Open the session; may be called twice. Raise AcquireError if it cannot be had."""
        self._jobs.open()

    def release(self) -> None:
        """Close the session; may be called twice."""
        self._jobs.close()

    def start(self, batch: Batch, *, tag: str) -> str:
        """Start one vendor job. What the device cannot run is refused here: nothing is paid."""
        if not self._jobs.is_open:
            raise ResourceError(f"{self.name} has not been acquired", resource=self.name)
        if batch.primitive is not Primitive.SAMPLER:
            raise RequestError(f"{self.name} does not run the {batch.primitive} primitive")
        if batch.options:
            raise RequestError(f"{self.name} understands no options: {', '.join(batch.options)}")
        pubs = [self._read(pub) for pub in batch.pubs]
        return self._jobs.start(lambda stop: self._work(batch, pubs, stop), tag)

    def _read(self, packed: PackedPub) -> Any:
        pub = wire.unpack_pub(packed, Primitive.SAMPLER)
        if pub.circuit.num_qubits > self.options.num_qubits:
            raise TooLargeError(
                f"the circuit {pub.circuit.name!r} has {pub.circuit.num_qubits} qubits; "
                f"{self.name} has {self.options.num_qubits}"
            )
        return pub

    def _work(self, batch: Batch, pubs: list[Any], stop: threading.Event) -> Outcome:
        started = time.monotonic()
        results = []
        for packed, pub in zip(batch.pubs, pubs, strict=True):
            if stop.is_set():
                raise StoppedError
            results.append(_sampled(pub, packed.seed))
        shots = sum(pub.circuits * (pub.shots or 0) for pub in batch.pubs)
        return tuple(results), Usage(qpu_seconds=time.monotonic() - started, shots=shots)

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        """Return a job's state; wait up to `wait` seconds for a final one."""
        return self._jobs.table.status(job_id, wait)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return one result a PUB, in order; once."""
        return self._jobs.table.result(job_id)

    def stop(self, job_id: str) -> None:
        """Ask for a job's end."""
        self._jobs.table.stop(job_id)

    def find(self, tag: str) -> str | None:
        """Return the job with this tag, if ``tags`` is declared; else None."""
        return None

    def usage(self, job_id: str) -> Usage:
        """Return what a job cost, as it is billed."""
        return self._jobs.table.usage(job_id)


def _sampled(pub: Any, seed: int | None) -> PackedResult:
    from qiskit.exceptions import QiskitError
    from qiskit.primitives import StatevectorSampler

    try:
        # Every exception of the vendor's becomes one of hybridflow.errors, with its text kept.
        done = StatevectorSampler(seed=np.random.default_rng(seed)).run([pub]).result()
    except QiskitError as error:
        raise CircuitError(f"the circuit {pub.circuit.name!r} cannot be run: {error}") from error
    return wire.pack_result(done[0])

"""The backend under test, as the conformance checks see it: run this, refuse that, say it clearly.

Circuits are transpiled for the backend's own target first, so that one suite fits all devices.
"""

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hybridflow import wire
from hybridflow.backends.base import Backend
from hybridflow.errors import HybridflowError
from hybridflow.records import (
    Batch,
    JobState,
    JobStatus,
    PackedPub,
    PackedResult,
    Primitive,
    TargetSnapshot,
    Usage,
)

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.primitives import DataBin

__all__ = ["Answer", "Subject", "typed"]


@contextlib.contextmanager
def typed(what: str) -> Iterator[None]:
    """Turn an error that is not of :mod:`hybridflow.errors` into a failed check."""
    try:
        yield
    except (HybridflowError, AssertionError):
        raise
    except Exception as error:
        raise AssertionError(
            f"{what} raised {type(error).__name__}: {error}; a backend raises the errors of "
            "hybridflow.errors and no others"
        ) from error


@dataclass(frozen=True)
class Answer:
    """The results of a batch: data and metadata of each PUB, and the cost."""

    job_id: str
    data: list["DataBin"]
    metadata: list[dict[str, Any]]
    packed: tuple[PackedResult, ...]
    usage: Usage


@dataclass
class Subject:
    """A backend under test.

    Attributes
    ----------
    backend
        The backend, acquired.
    timeout_seconds
        Patience with a vendor job.
    fidelity
        Least probability of the right answer of a circuit of a few gates.
    """

    backend: Backend
    timeout_seconds: float
    fidelity: float
    _snapshot: TargetSnapshot | None = field(default=None, repr=False)

    @property
    def snapshot(self) -> TargetSnapshot:
        """The backend's target, asked for once."""
        if self._snapshot is None:
            with typed("target()"):
                self._snapshot = self.backend.target()
            assert isinstance(self._snapshot, TargetSnapshot), (
                f"target() gave {type(self._snapshot).__name__}, not a TargetSnapshot"
            )
        return self._snapshot

    def supports(self, primitive: Primitive) -> bool:
        """Whether the backend declares a primitive."""
        return primitive in self.backend.capabilities.primitives

    @property
    def is_digital(self) -> bool:
        """Whether the backend declares that it runs circuits."""
        return self.supports(Primitive.SAMPLER) or self.supports(Primitive.ESTIMATOR)

    def isa(self, circuit: "QuantumCircuit") -> "QuantumCircuit":
        """Return a circuit transpiled for the backend's target."""
        if not self.is_digital:
            return circuit  # to be refused whatever it is made of
        from qiskit import transpile

        from hybridflow.targets import target_of

        return transpile(
            circuit, target=target_of(self.snapshot), optimization_level=1, seed_transpiler=1
        )

    def sampler_pub(
        self,
        circuit: "QuantumCircuit",
        values: Any = None,
        *,
        shots: int = 1000,
        seed: int | None = None,
    ) -> PackedPub:
        """Return a packed PUB of an ISA circuit."""
        from qiskit.primitives.containers.sampler_pub import SamplerPub

        return self._packed(SamplerPub.coerce((circuit, values), shots), seed)

    def estimator_pub(
        self,
        circuit: "QuantumCircuit",
        observables: Any,
        values: Any = None,
        *,
        precision: float = 0.0,
        seed: int | None = None,
    ) -> PackedPub:
        """Return a packed PUB of an ISA circuit."""
        from qiskit.primitives.containers.estimator_pub import EstimatorPub

        pub = EstimatorPub.coerce((circuit, observables, values), precision)
        return self._packed(pub, seed)

    def _packed(self, pub: Any, seed: int | None) -> PackedPub:
        readable = self.backend.capabilities.qpy
        return wire.pack_pubs([pub], [seed], readable=readable)[0]

    def start(
        self,
        primitive: Primitive,
        pubs: Iterable[PackedPub],
        *,
        tag: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> str:
        """Start a vendor job."""
        batch = Batch(primitive=primitive, pubs=tuple(pubs), options=options or {})
        with typed("start()"):
            job_id = self.backend.start(batch, tag=tag or uuid.uuid4().hex)
        assert isinstance(job_id, str), f"start() gave {job_id!r}, not the id of a job"
        assert job_id, "start() gave an empty id"
        return job_id

    def wait(self, job_id: str) -> JobStatus:
        """Wait for a job's end."""
        with typed("status()"):
            status = self.backend.status(job_id, wait=self.timeout_seconds)
        assert isinstance(status, JobStatus), f"status() gave {status!r}, not a JobStatus"
        assert status.state.final, (
            f"status(wait={self.timeout_seconds}) of the job {job_id} gave {status.state.value}: "
            "the job did not end in time, or status() did not wait for it"
        )
        return status

    def run(self, primitive: Primitive, pubs: Sequence[PackedPub]) -> Answer:
        """Run a batch that must end well."""
        job_id = self.start(primitive, pubs)
        status = self.wait(job_id)
        assert status.state is JobState.DONE, (
            f"a batch that every {primitive.value} can run ended as {status.state.value}: "
            f"{status.message or 'no reason given'}"
        )
        with typed("result()"):
            packed = self.backend.result(job_id)
        assert len(packed) == len(pubs), (
            f"result() gave {len(packed)} results for {len(pubs)} PUBs: there is one each"
        )
        with typed("usage()"):
            usage = self.backend.usage(job_id)
        unpacked = [wire.unpack_result(result) for result in packed]
        return Answer(
            job_id=job_id,
            data=[data for data, _ in unpacked],
            metadata=[metadata for _, metadata in unpacked],
            packed=tuple(packed),
            usage=usage,
        )

    def refusal(
        self,
        primitive: Primitive,
        pubs: Sequence[PackedPub],
        *,
        options: dict[str, Any] | None = None,
    ) -> HybridflowError | None:
        """Return the typed error with which a batch is refused or fails; None if it runs."""
        try:
            job_id = self.start(primitive, pubs, options=options)
        except HybridflowError as error:
            return error
        status = self.wait(job_id)
        if status.state is JobState.DONE:
            return None
        assert status.message, f"the job {job_id} {status.state.value} without a message"
        try:
            with typed("result() of a failed job"):
                self.backend.result(job_id)
        except HybridflowError as error:
            return error
        raise AssertionError(
            f"the job {job_id} {status.state.value}, and yet result() gave a result"
        )

"""Batches through a pair of V2 primitives: they take PUBs and give results, as we do."""

from collections.abc import Collection, Sequence
from typing import Any

from hybridflow import wire
from hybridflow.backends.qiskit_api.faults import asking, ended, starting
from hybridflow.backends.qiskit_api.states import cancel, id_of, seconds_of, status_of
from hybridflow.errors import VendorJobError
from hybridflow.records import Batch, JobStatus, PackedResult

__all__ = ["PairJob", "submit_pubs"]


def submit_pubs(
    resource: str,
    primitive: Any,
    pubs: Sequence[Any],
    batch: Batch,
    refusals: Collection[str] = (),
) -> "PairJob":
    """Start a batch, with its PUBs unpacked, as one job of a primitive.

    Raises
    ------
    HybridflowError
        As :func:`~hybridflow.backends.qiskit_api.faults.starting` says.
    """
    with starting(resource, refusals):
        return PairJob(resource, primitive.run(pubs), len(pubs), batch)


class PairJob:
    """One job of a primitive."""

    def __init__(self, resource: str, job: Any, count: int, batch: Batch) -> None:
        self._resource = resource
        self._job = job
        self._count = count
        self.id = id_of(job)
        self.circuits = sum(pub.circuits for pub in batch.pubs)
        self.shots = sum(pub.circuits * (pub.shots or 0) for pub in batch.pubs)
        self.seconds: float | None = None

    def status(self) -> JobStatus:
        """Return its state."""
        with asking(self._resource, self.id):
            return status_of(self._job)

    def stop(self) -> None:
        """Cancel it."""
        cancel(self._resource, self._job)

    def results(self) -> tuple[PackedResult, ...]:
        """Return one result a PUB.

        Raises
        ------
        VendorJobError
            If it has failed.
        ResourceError
            If the vendor could not be asked.
        """
        with ended(self._resource, self.id):
            result = self._job.result()
            found: Sequence[Any] = list(result)
            packed = tuple(wire.pack_result(each) for each in found)
            self.seconds = seconds_of(self._job, result)
        if len(packed) != self._count:
            raise VendorJobError(
                f"job {self.id} of {self._resource} has {len(packed)} results for {self._count} "
                "PUBs",
                resource=self._resource,
                vendor_job_id=self.id,
            )
        return packed

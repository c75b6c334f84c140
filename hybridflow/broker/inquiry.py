"""What a backend says about a vendor job, read once: results, a failure, or nothing yet."""

from collections.abc import Sequence
from typing import NamedTuple

from hybridflow.broker.lanes import is_free
from hybridflow.broker.merging import split
from hybridflow.broker.vendor import Vendor, ours
from hybridflow.broker.work import VendorJob
from hybridflow.errors import (
    BackendLostError,
    HybridflowError,
    InternalError,
    ResourceError,
    VendorJobError,
)
from hybridflow.records import Capabilities, JobState, JobStatus, PackedResult, Resource

__all__ = ["Failure", "Inquiry", "Parts", "Unknown"]

Parts = list[tuple[PackedResult, ...]]
"""Each request's part of a vendor job's results."""


class Failure(NamedTuple):
    """Why a vendor job has no results, and whether running its requests again is paid once."""

    error: HybridflowError
    may_repeat: bool


class Unknown(NamedTuple):
    """Why nobody can say what came of a vendor job that is, or may be, paid for."""

    error: HybridflowError


class Inquiry:
    """Asks the backend about vendor jobs.

    Parameters
    ----------
    resource, capabilities
        What is driven.
    vendor
        Its backend, and how patient one is with it.
    """

    def __init__(self, resource: Resource, capabilities: Capabilities, vendor: Vendor) -> None:
        self._resource = resource
        self._vendor = vendor
        self._backend = vendor.backend
        self._is_free = is_free(capabilities)
        self._is_durable = capabilities.durable_jobs

    def outcome(self, job: VendorJob, wait: float) -> "Parts | Failure | Unknown | None":
        """Return what has come of a job; None if nothing has yet, or the vendor is silent for now.

        Parameters
        ----------
        job
            The job.
        wait
            Seconds to wait for its end.

        Raises
        ------
        BackendLostError
            If the backend has to be acquired again.
        """
        assert job.id is not None
        try:
            status = self._backend.status(job.id, wait=wait)
            if status.state is JobState.DONE:
                return self._parts(job, self._backend.result(job.id))
            job.silence.succeeded()
            if not status.state.final:
                return None
            # Where somebody has cancelled it, nothing is to be found by trying the halves.
            return Failure(self._reason(job, status), status.state is JobState.FAILED)
        except BackendLostError:
            raise
        except Exception as error:
            # A vendor that does not answer for a moment has not failed the job.
            despairs = self._vendor.despairs_of(job)
            if _is_silence(error) and not despairs:
                return None
            # What a device has run is paid for, and is not run once more because its results
            # cannot be read, or because a key has expired.
            if self._is_durable and not isinstance(error, VendorJobError):
                return Unknown(ours(error))
            return Failure(ours(error), self._is_free)

    def _parts(self, job: VendorJob, results: Sequence[PackedResult]) -> Parts:
        try:
            return split(job.cuts, results)
        except InternalError as error:
            raise InternalError(
                f"the backend of {self._resource.name!r} gave {error} of vendor job {job.id}",
                resource=self._resource.name,
                vendor_job_id=job.id,
            ) from error

    def _reason(self, job: VendorJob, status: JobStatus) -> HybridflowError:
        assert job.id is not None
        if status.state is JobState.FAILED:
            try:
                self._backend.result(job.id)
            except BackendLostError:
                raise
            except HybridflowError as error:
                # As it was typed where it arose; unless the question itself has failed.
                if error.transient == status.transient:
                    return error
        what = "was cancelled" if status.state is JobState.CANCELLED else "failed"
        return VendorJobError(
            f"vendor job {job.id} on {self._resource.name!r} {what}: "
            f"{status.message or 'the vendor gives no reason'}",
            transient=status.transient,
            resource=self._resource.name,
            vendor_job_id=job.id,
        )


def _is_silence(error: Exception) -> bool:
    if isinstance(error, VendorJobError):
        return False
    return isinstance(error, ResourceError) and error.transient

"""A call of a primitive under way: Qiskit's job in front of a broker's ticket."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec
from qiskit.primitives import BasePrimitiveJob, PrimitiveResult, PubResult, SamplerPubResult
from qiskit.providers import JobStatus

from hybridflow.broker.base import Ticket
from hybridflow.records import JobState, Primitive, Provenance, Reply
from hybridflow.wire import unpack_result

__all__ = ["EndedTicket", "Job"]

_STATUS = {
    JobState.QUEUED: JobStatus.QUEUED,
    JobState.RUNNING: JobStatus.RUNNING,
    JobState.DONE: JobStatus.DONE,
    JobState.FAILED: JobStatus.ERROR,
    JobState.CANCELLED: JobStatus.CANCELLED,
}
_RESULT = {
    Primitive.SAMPLER: SamplerPubResult,
    Primitive.ESTIMATOR: PubResult,
    Primitive.ANALOG: SamplerPubResult,
}


class Job(BasePrimitiveJob[PrimitiveResult[PubResult], JobStatus]):  # type: ignore[misc]
    """Handle of one call of a primitive; what ``run()`` returns. Safe to use from several threads.

    Pickling it waits for the result, as with Qiskit's own jobs.
    """

    def __init__(
        self,
        ticket: Ticket,
        primitive: Primitive,
        circuit_metadata: Sequence[Mapping[str, Any] | None],
    ) -> None:
        super().__init__(ticket.request_id)
        self._ticket = ticket
        self._primitive = primitive
        self._circuit_metadata = list(circuit_metadata)
        self._lock = threading.Lock()
        self._result: PrimitiveResult[PubResult] | None = None

    def __repr__(self) -> str:
        return f"<Job {self.job_id()} ({self._primitive}): {self.status().name.lower()}>"

    def __reduce__(self) -> tuple[Any, ...]:
        ended = EndedTicket(self.job_id(), self._reply(None))
        return Job, (ended, self._primitive, self._circuit_metadata)

    def result(self, timeout: float | None = None) -> PrimitiveResult[PubResult]:
        """Wait for the result; may be called again, also after it has timed out.

        Parameters
        ----------
        timeout
            Seconds to wait at most; None: until there is a result.

        Returns
        -------
        PrimitiveResult
            One ``SamplerPubResult`` or ``PubResult`` a PUB, in order. Its metadata says under
            ``"hybridflow"`` where the result came from: the fields of
            :class:`~hybridflow.records.Provenance`.

        Raises
        ------
        TimeoutError
            If there is no result yet.
        RequestCancelledError
            If the job was cancelled.
        HybridflowError
            What made the request fail.
        """
        reply = self._reply(timeout)
        with self._lock:
            if self._result is None:
                self._result = self._opened(reply)
            return self._result

    def provenance(self, timeout: float | None = None) -> Provenance:
        """Wait as :meth:`result` does, and return where the result came from."""
        return self._reply(timeout).provenance

    def _reply(self, timeout: float | None) -> Reply:
        future = self._ticket.future
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():
                raise
            raise TimeoutError(
                f"job {self.job_id()} has no result after {timeout} s; it is "
                f"{self._ticket.state()}. It goes on: call result() again, or cancel()"
            ) from None

    def _opened(self, reply: Reply) -> PrimitiveResult[PubResult]:
        kind = _RESULT[self._primitive]
        parts = [
            kind(*unpack_result(packed, metadata))
            for packed, metadata in zip(reply.results, self._circuit_metadata, strict=True)
        ]
        origin = msgspec.to_builtins(reply.provenance)
        return PrimitiveResult(parts, metadata={"version": 2, "hybridflow": origin})

    def status(self) -> JobStatus:
        """Return the state, without waiting."""
        return _STATUS[self._ticket.state()]

    def done(self) -> bool:
        """Whether the job has ended well."""
        return self._ticket.state() is JobState.DONE

    def running(self) -> bool:
        """Whether a vendor job with this job's PUBs is under way."""
        return self._ticket.state() is JobState.RUNNING

    def cancelled(self) -> bool:
        """Whether the job was cancelled."""
        return self._ticket.state() is JobState.CANCELLED

    def in_final_state(self) -> bool:
        """Whether the state cannot change any more."""
        return self._ticket.state().final

    def cancel(self) -> bool:
        """Ask for the job to be dropped; False if it has already ended."""
        return self._ticket.cancel()


class EndedTicket:
    """A ticket whose reply is here: of a call without PUBs, or of a job that was pickled."""

    def __init__(self, request_id: str, reply: Reply) -> None:
        self.request_id = request_id
        self.future: Future[Reply] = Future()
        self.future.set_result(reply)

    def __reduce__(self) -> tuple[Any, ...]:
        return EndedTicket, (self.request_id, self.future.result())

    def state(self) -> JobState:
        """Return the state: done."""
        return JobState.DONE

    def cancel(self) -> bool:
        """Return False: it has ended."""
        return False

"""The shared backend abstraction: what hybridflow needs of a QPU, and nothing else.

One thread drives a backend. It is given a :class:`~hybridflow.records.Batch` of packed PUBs
(``wire.unpack_pub`` makes Qiskit's ``SamplerPub`` or ``EstimatorPub`` of each) and answers with
one packed result a PUB (``wire.pack_result`` makes it from Qiskit's ``PubResult``). It does not
know the broker, and it imports its vendor's package when it is first used.

:func:`hybridflow.testing.check_backend` is the conformance test of this file.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import msgspec

from hybridflow.records import (
    Batch,
    Capabilities,
    JobStatus,
    PackedResult,
    TargetSnapshot,
    Usage,
)

__all__ = ["Backend", "BackendType", "NotifyingBackend"]


@runtime_checkable
class Backend(Protocol):
    """A QPU, or something that acts like one, behind one handle.

    Methods raise the errors of :mod:`hybridflow.errors` and no others: a vendor's exception is
    mapped where it is caught, with its own text kept and no credential in it.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do. Known before :meth:`acquire`."""

    def acquire(self) -> None:
        """Open the session.

        Raises
        ------
        AcquireError
            If the resource cannot be had; ``transient`` says whether it may be had later.
        """

    def release(self) -> None:
        """Close the session and end what belongs to it. May be called twice."""

    def target(self) -> TargetSnapshot:
        """Return the device's instruction set, couplings and error rates."""

    def metadata(self) -> dict[str, str]:
        """Return what identifies the device: its version, its date of calibration."""

    def start(self, batch: Batch, *, tag: str) -> str:
        """Start one vendor job and return the vendor's id of it, without waiting for its end.

        Raises
        ------
        RequestError
            If the batch cannot be run; nothing was started.
        ResourceError
            If the job could not be started.
        """

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        """Return the job's state; may wait up to `wait` seconds for a final one."""

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return one result a PUB, in order, of a job that is done. To be called once a job.

        Raises
        ------
        RequestError
            If the job failed because of a PUB that this backend cannot run.
        VendorJobError
            If the job failed, with the vendor's reason.
        """

    def stop(self, job_id: str) -> None:
        """Ask the vendor to end the job; no error if it has ended."""

    def find(self, tag: str) -> str | None:
        """Return the id of the job started with `tag`, where ``capabilities.tags``; else None."""

    def usage(self, job_id: str) -> Usage:
        """Return what a finished job cost."""


@runtime_checkable
class NotifyingBackend(Backend, Protocol):
    """A backend that says by itself when a job has ended, so that nobody has to ask."""

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with the id of each job that ends, in any thread: be quick."""


class BackendType(Protocol):
    """What an entry point in the group ``hybridflow.backends`` gives: a class of backends.

    Attributes
    ----------
    Options
        The backend's own keys in a site file's ``[qpu.NAME]`` table, as a frozen struct that
        forbids unknown fields.
    own_process
        Whether the broker must run it in a process of its own (because it holds the GIL, say).
    fixed_target
        Whether its options decide its target, which may then be kept on disk.
    """

    Options: ClassVar[type[msgspec.Struct]]
    own_process: ClassVar[bool]
    fixed_target: ClassVar[bool]

    def __call__(self, name: str, options: Any, credentials: Mapping[str, str]) -> Backend:
        """Make the backend of the resource `name`, without contacting anything."""

"""A backend whose errors name no credential, whatever the vendor's package has put into them.

What a backend says of a failure goes far: into the ledger, the events, the log, the user's error.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from hybridflow.backends.base import Backend
from hybridflow.errors import ErrorRecord
from hybridflow.records import (
    Batch,
    Capabilities,
    JobStatus,
    PackedResult,
    TargetSnapshot,
    Usage,
)
from hybridflow.redaction import redact

__all__ = ["DiscreetBackend", "discreet"]


def discreet(backend: Backend, credentials: Mapping[str, str]) -> Backend:
    """Return a backend that keeps its credentials to itself; itself, if it has none."""
    return DiscreetBackend(backend, credentials.values()) if credentials else backend


class DiscreetBackend:
    """A backend with its credentials taken out of what it says; see :class:`Backend`.

    Parameters
    ----------
    backend
        The backend.
    secrets
        Values of its credentials.
    """

    def __init__(self, backend: Backend, secrets: Iterable[str]) -> None:
        self._backend = backend
        self._secrets = tuple(secrets)

    @property
    def capabilities(self) -> Capabilities:
        """What the backend can do."""
        with self._discreetly():
            return self._backend.capabilities

    def acquire(self) -> None:
        """Open the session."""
        with self._discreetly():
            self._backend.acquire()

    def release(self) -> None:
        """Close the session."""
        with self._discreetly():
            self._backend.release()

    def target(self) -> TargetSnapshot:
        """Return the device's target."""
        with self._discreetly():
            return self._backend.target()

    def metadata(self) -> dict[str, str]:
        """Return what identifies the device."""
        with self._discreetly():
            return self._backend.metadata()

    def start(self, batch: Batch, *, tag: str) -> str:
        """Start one vendor job and return the vendor's id of it."""
        with self._discreetly():
            return self._backend.start(batch, tag=tag)

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        """Return the job's state."""
        with self._discreetly():
            status = self._backend.status(job_id, wait=wait)
        if not status.message:
            return status
        return msgspec.structs.replace(status, message=redact(status.message, self._secrets))

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return one result a PUB, in order."""
        with self._discreetly():
            return self._backend.result(job_id)

    def stop(self, job_id: str) -> None:
        """Ask the vendor to end the job."""
        with self._discreetly():
            self._backend.stop(job_id)

    def find(self, tag: str) -> str | None:
        """Return the id of the job started with `tag`."""
        with self._discreetly():
            return self._backend.find(tag)

    def usage(self, job_id: str) -> Usage:
        """Return what a finished job cost."""
        with self._discreetly():
            return self._backend.usage(job_id)

    @contextmanager
    def _discreetly(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            record = ErrorRecord.of(error)
            message = redact(record.message, self._secrets)
            # Without its cause, whose text would be shown beside it.
            raise msgspec.structs.replace(record, message=message).error() from None

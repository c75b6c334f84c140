"""A backend, asked patiently: what it does not answer now, it may answer in a moment."""

import logging
import time
from collections.abc import Callable

from hybridflow.backends.base import Backend
from hybridflow.broker.queue import Queue
from hybridflow.broker.work import Backoff, Limits, VendorJob
from hybridflow.errors import BackendLostError, ErrorRecord, HybridflowError, ResourceError
from hybridflow.records import Capabilities, Usage

__all__ = ["Vendor", "ours"]

_log = logging.getLogger(__name__)
_MEANWHILE_SECONDS = 0.25
_LOOKS = 3
"""How often a vendor that knows no job of a tag is asked: it may be about to take it in."""


def ours(error: BaseException) -> HybridflowError:
    """Return an exception as one of ours."""
    return error if isinstance(error, HybridflowError) else ErrorRecord.of(error).error()


class Vendor:
    """Calls of a backend that must not fail what is under way. For the thread that owns it.

    Parameters
    ----------
    name
        Name of the resource.
    backend
        The backend.
    queue
        Pauses end when it is overdue.
    limits
        Bounds.
    meanwhile
        Called again and again while the vendor is given time: what can go on without it does.

    Attributes
    ----------
    is_lost
        Whether the backend was lost and is not back; may be read in any thread.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        queue: Queue,
        limits: Limits,
        meanwhile: Callable[[], None],
    ) -> None:
        self.backend = backend
        self.is_lost = False
        self._name = name
        self._capabilities: Capabilities = backend.capabilities
        self._queue = queue
        self._limits = limits
        self._meanwhile = meanwhile

    def stop(self, job: VendorJob) -> None:
        """Have a vendor job ended that nobody wants."""
        assert job.id is not None
        job.stopped = True
        try:
            self.backend.stop(job.id)
        except Exception as error:
            # The requests that wanted it have their outcome: it is tried again at the next look,
            # since it is paid for, or else it ends by itself.
            _log.warning("vendor job %s could not be stopped: %s", job.id, error)
            job.stopped = not ours(error).transient

    def usage(self, job: VendorJob) -> Usage | None:
        """Return what a job has cost; None where that is not known."""
        if job.id is None:
            return Usage()
        try:
            return self.backend.usage(job.id)
        except Exception as unknown:
            # The results are there and paid for: they are delivered with a cost of 0, and said so.
            _log.warning("the usage of vendor job %s is not known: %s", job.id, unknown)
            return None

    def find(self, tag: str, *, patiently: bool = True) -> str | None:
        """Return the id of the vendor job with a tag; None if the vendor never took one.

        Parameters
        ----------
        tag
            The tag.
        patiently
            Whether a vendor that does not answer is asked for as long as others wait for it.

        Raises
        ------
        ResourceError
            If the vendor does not say.
        """
        backoff = Backoff()
        while True:
            error: ResourceError | None = None
            try:
                found = self.backend.find(tag)
            except ResourceError as unanswered:
                found, error = None, unanswered
            backoff.failed(self._limits)
            if found is not None:
                return found
            if error is None and self._never_was(backoff):
                return None
            if error is not None and not (patiently and error.transient):
                raise error
            if error is not None and self._gives_up(backoff):
                raise error
            self.pause(backoff)

    def _never_was(self, backoff: Backoff) -> bool:
        lasted = backoff.lasted >= self._capabilities.find_seconds
        return self._queue.overdue or (lasted and backoff.attempts >= _LOOKS)

    def acquire_again(self, lost: BackendLostError) -> None:
        """Acquire a backend that was lost.

        Raises
        ------
        BackendLostError
            If it does not come back.
        """
        backoff = Backoff()
        self.is_lost = True
        while True:
            self.release()
            try:
                self.backend.acquire()
                self.is_lost = False
                return
            except ResourceError as error:
                _log.warning("the backend of %r is not back: %s", self._name, error)
                backoff.failed(self._limits)
                if self._gives_up(backoff):
                    raise BackendLostError(
                        f"{lost}; it could not be acquired again in {backoff.attempts} attempts: "
                        f"{error}",
                        resource=self._name,
                    ) from error
                self.pause(backoff)

    def release(self) -> None:
        """Release the backend, whatever comes of it."""
        try:
            self.backend.release()
        except Exception:
            # Nobody is left who could act on it; the slot ends with this process anyway.
            _log.exception("the backend of %r could not be released", self._name)

    def despairs_of(self, job: VendorJob) -> bool:
        """Note that the vendor does not answer about a job; say whether it is asked no more.

        A durable job goes on at the vendor meanwhile: given up, it would be paid for again.
        """
        job.silence.failed(self._limits)
        return self._gives_up(job.silence)

    def _gives_up(self, backoff: Backoff) -> bool:
        if self._queue.overdue:
            return True
        patience = self._limits.patience_seconds if self._capabilities.durable_jobs else 0.0
        return backoff.hopeless(self._limits, patience)

    def pause(self, backoff: Backoff) -> None:
        """Wait until the next attempt may be made."""
        until = time.monotonic() + backoff.rest
        while (rest := until - time.monotonic()) > 0 and not self._queue.overdue:
            self._meanwhile()
            self._queue.wait(min(rest, _MEANWHILE_SECONDS), arrivals=True)

"""The outcome of a request on its way to who waits for it: a future, and errors for each alone."""

import os
from concurrent.futures import Future

from hybridflow.errors import (
    BrokerLostError,
    ErrorRecord,
    HybridflowError,
    RequestCancelledError,
)
from hybridflow.records import JobState, Reply

__all__ = ["ReplyFuture", "copy_of"]


class ReplyFuture(Future[Reply]):
    """A future that a forked child cannot wait for: only the parent will get the reply.

    It is cancelled through its ticket, not by itself.
    """

    def __init__(self, request_id: str) -> None:
        super().__init__()
        self._request_id = request_id
        self._pid = os.getpid()
        self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> Reply:
        """Wait for the reply; as :meth:`concurrent.futures.Future.result`."""
        self._refuse_after_fork()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the error, if any; as :meth:`concurrent.futures.Future.exception`."""
        self._refuse_after_fork()
        return super().exception(timeout)

    def _refuse_after_fork(self) -> None:
        if self._pid != os.getpid() and not self.done():
            raise BrokerLostError(
                f"request {self._request_id} was made by process {self._pid}, before process "
                f"{os.getpid()} was forked from it: only the former gets its result"
            )

    def settle(self, outcome: Reply | HybridflowError) -> None:
        """Set the reply, or the error."""
        if isinstance(outcome, Reply):
            self.set_result(outcome)
        else:
            self.set_exception(outcome)

    def state(self) -> JobState | None:
        """Return the final state; None if there is none yet."""
        if not self.done():
            return None
        error = super().exception(0)
        if error is None:
            return JobState.DONE
        cancelled = isinstance(error, RequestCancelledError)
        return JobState.CANCELLED if cancelled else JobState.FAILED


def copy_of(error: HybridflowError) -> HybridflowError:
    """Return an equal error: an exception belongs to one thread, where it gets its traceback."""
    return ErrorRecord.of(error).error()

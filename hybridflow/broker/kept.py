"""Outcomes on their way to clients: kept until these say that they have them, bounded in bytes."""

import logging
from collections import OrderedDict

from hybridflow.broker import protocol
from hybridflow.broker.protocol import Failed, Finished
from hybridflow.errors import ErrorRecord, HybridflowError, ResourceError
from hybridflow.records import JobState, Reply

__all__ = ["Kept", "Outcome", "message_of"]

_log = logging.getLogger(__name__)


class Outcome:
    """An outcome, as it is sent."""

    __slots__ = ("data", "state")

    def __init__(self, state: JobState, data: bytes) -> None:
        self.state = state
        self.data = data


class Kept:
    """Bounds what is kept for clients that have not fetched it.

    Parameters
    ----------
    most_bytes
        How much is kept: beyond that, the oldest outcome is replaced by an error that says so.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._outcomes: OrderedDict[tuple[bytes, str], Outcome] = OrderedDict()

    def add(self, client: bytes, request_id: str, outcome: Outcome) -> None:
        """Keep an outcome."""
        self._outcomes[client, request_id] = outcome
        self._bytes += len(outcome.data)
        while self._bytes > self._most_bytes and len(self._outcomes) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        (_, request_id), outcome = self._outcomes.popitem(last=False)
        self._bytes -= len(outcome.data)
        error = ResourceError(
            f"the outcome of request {request_id} was dropped, for want of memory: nobody "
            "fetched it",
            transient=True,
        )
        _log.warning("%s", error)
        outcome.state, outcome.data = JobState.FAILED, message_of(request_id, error)

    def forget(self, client: bytes, request_id: str) -> None:
        """Keep an outcome no more: it has arrived, or its client has gone."""
        outcome = self._outcomes.pop((client, request_id), None)
        if outcome is not None:
            self._bytes -= len(outcome.data)


def message_of(request_id: str, outcome: Reply | HybridflowError) -> bytes:
    """Return the message that carries an outcome."""
    if isinstance(outcome, Reply):
        return protocol.encode(Finished(request_id, outcome))
    return protocol.encode(Failed(request_id, ErrorRecord.of(outcome)))

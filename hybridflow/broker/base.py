"""What a primitive needs of a broker, wherever the broker lives.

Two things implement it: the client of a broker process (``client.py``) and the broker inside this
process (``embedded.py``).
"""

from concurrent.futures import Future
from typing import Protocol

from hybridflow.broker.outlook import Outlook
from hybridflow.records import Description, JobState, Reply, Request

__all__ = ["Connection", "Ticket"]


class Ticket(Protocol):
    """A request under way."""

    @property
    def request_id(self) -> str:
        """Id of the request."""

    @property
    def future(self) -> "Future[Reply]":
        """The reply, or the error."""

    def state(self) -> JobState:
        """Return the request's state."""

    def cancel(self) -> bool:
        """Ask for the request to be dropped; False if it has already ended.

        A cancelled request's future raises :class:`~hybridflow.errors.RequestCancelledError`.
        """


class Connection(Protocol):
    """A broker, seen from the process of a quantum task. Safe to use from several threads."""

    def describe(self) -> Description:
        """Return the resource's description (cached).

        Raises
        ------
        BrokerLostError
            If the broker does not answer.
        """

    def outlook(self) -> Outlook:
        """Return what is to be expected of a request that comes now; soon, or not at all.

        Raises
        ------
        ResourceError
            If the broker does not answer, or cannot have its resource.
        """

    def submit(self, request: Request) -> Ticket:
        """Hand a request over, without waiting for its result."""

    def close(self) -> None:
        """Let go of the broker; pending requests fail with :class:`BrokerLostError`."""

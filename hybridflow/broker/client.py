"""A broker's client: requests from any thread of this process, over one socket and one I/O thread.

::

    threads ──submit──► outstanding.py ──► line.py, a thread ──DEALER──► broker
        ▲                                      │
        └────────────── futures ◄──────────────┘

A forked child does not inherit the connection: :func:`connect` makes it one of its own.
"""

import atexit
import os
import threading
import time
from pathlib import Path

from hybridflow.broker import protocol
from hybridflow.broker.line import LOOK_SECONDS, Line
from hybridflow.broker.outlook import Outlook
from hybridflow.broker.outstanding import Asked, Outstanding
from hybridflow.broker.place import check_folder, check_path
from hybridflow.broker.protocol import MAX_MESSAGE_BYTES, Ask, Cancel, Submit
from hybridflow.errors import BrokerLostError, TooLargeError
from hybridflow.records import Description, JobState, Request

__all__ = [
    "LOST_AFTER_SECONDS",
    "SILENT_AFTER_SECONDS",
    "ClientTicket",
    "SocketConnection",
    "connect",
]

LOST_AFTER_SECONDS = 30.0
"""Time that a broker has to come back (the door restarts one that died), in seconds."""

SILENT_AFTER_SECONDS = 20.0
"""Time after which a broker that gives no sign of life (it was stopped, say) counts as away."""

_ANSWER_SECONDS = 5.0
_CLOSE_SECONDS = 5.0


class ClientTicket(Asked):
    """A request under way at a broker process; see :class:`hybridflow.broker.base.Ticket`."""

    __slots__ = ("_connection",)

    def __init__(self, connection: "SocketConnection", request_id: str, data: bytes) -> None:
        super().__init__(request_id, data)
        self._connection = connection

    def state(self) -> JobState:
        """Return the request's state, as the broker knows it now."""
        return self.future.state() or self._connection.ask(self)

    def cancel(self) -> bool:
        """Ask for the request to be dropped; False if it has already ended."""
        if self.future.done():
            return False
        self._connection.cancel(self)
        return True


class SocketConnection:
    """A broker process, seen from this one; see :class:`hybridflow.broker.base.Connection`.

    Safe to use from several threads.

    Parameters
    ----------
    path
        The broker's socket.
    lost_after
        Time that a broker has to come back, in seconds.
    silent_after
        Time after which one that gives no sign of life counts as away.

    Raises
    ------
    BrokerLostError
        If the socket's folder does not exist.
    SiteError
        If the folder is not private.
    """

    def __init__(
        self,
        path: Path,
        *,
        lost_after: float = LOST_AFTER_SECONDS,
        silent_after: float = SILENT_AFTER_SECONDS,
    ) -> None:
        check_folder(path.parent)
        check_path(path)
        self._path = path
        self._lost_after = lost_after
        self._pid = os.getpid()
        self._outstanding = Outstanding()
        self._line = Line(path, self._outstanding, lost_after, silent_after)
        self._line.start()

    def describe(self) -> Description:
        """Return the resource's description (cached).

        Raises
        ------
        BrokerLostError
            If the broker does not answer.
        """
        self._refuse_after_fork()
        until = time.monotonic() + self._lost_after
        while True:
            description = self._outstanding.description()
            left = max(0.0, until - time.monotonic())
            try:
                return description.result(min(left, LOOK_SECONDS))
            except TimeoutError:
                check_folder(self._path.parent)
                if time.monotonic() >= until:
                    raise self._line.lost_error() from None

    def submit(self, request: Request) -> ClientTicket:
        """Hand a request over, without waiting for its result.

        Raises
        ------
        TooLargeError
            If it is too large for one message.
        BrokerLostError
            If the connection was closed.
        """
        self._refuse_after_fork()
        data = protocol.encode(Submit(request))
        if len(data) > MAX_MESSAGE_BYTES:
            raise TooLargeError(
                f"the request has {len(data):,} bytes, a message holds {MAX_MESSAGE_BYTES:,}: "
                "split its list of PUBs"
            )
        ticket = ClientTicket(self, request.id, data)
        self._outstanding.add(ticket)
        return ticket

    def cancel(self, ticket: ClientTicket) -> None:
        """Ask the broker to drop a request; its future gets the outcome, whichever it is."""
        self._refuse_after_fork()
        ticket.unwanted = True
        self._outstanding.say(protocol.encode(Cancel(ticket.request_id)))

    def ask(self, ticket: ClientTicket) -> JobState:
        """Ask the broker for a request's state; queued, while there is no broker to ask."""
        self._refuse_after_fork()
        answer = self._outstanding.question(ticket.request_id)
        state = None
        if answer is not None:
            self._outstanding.say(protocol.encode(Ask(ticket.request_id)))
            try:
                state = answer.result(_ANSWER_SECONDS)
            except TimeoutError:
                state = None
        return ticket.future.state() or state or JobState.QUEUED

    def outlook(self) -> Outlook:
        """Return what is to be expected of a request that comes now; it sees those sent before.

        Raises
        ------
        BrokerLostError
            If the broker does not answer within 5 seconds, or has not for so long.
        """
        self._refuse_after_fork()
        since = self._outstanding.lost_since
        if since is not None and time.monotonic() > since + _ANSWER_SECONDS:
            raise self._silent_error()
        number, answer = self._outstanding.expect()
        try:
            return answer.result(_ANSWER_SECONDS)
        except TimeoutError:
            raise self._silent_error() from None
        finally:
            self._outstanding.foretell(number, None)

    def close(self) -> None:
        """Let go of the broker; pending requests fail with :class:`BrokerLostError`."""
        if self._pid != os.getpid():
            return
        self._outstanding.close(
            BrokerLostError(f"the connection to the broker at {self._path} was closed here")
        )
        self._line.join(_CLOSE_SECONDS)

    @property
    def usable(self) -> bool:
        """Whether requests can be submitted here."""
        return self._outstanding.closed is None and self._pid == os.getpid()

    def _refuse_after_fork(self) -> None:
        if self._pid != os.getpid():
            raise BrokerLostError(
                f"this connection belongs to process {self._pid}; process {os.getpid()} was forked "
                "from it and needs one of its own (hybridflow.slot.connect())"
            )

    def _silent_error(self) -> BrokerLostError:
        return BrokerLostError(
            f"the broker at {self._path} does not answer: it died, or is being started again"
        )


# -- one connection a process and socket --------------------------------------------------------

_connections: dict[Path, SocketConnection] = {}
_inherited: list[SocketConnection] = []
_cache_lock = threading.Lock()


def connect(path: str | os.PathLike[str]) -> SocketConnection:
    """Return this process's connection to the broker at `path`; it is made when first asked for.

    Raises
    ------
    BrokerLostError
        If the socket's folder does not exist. A broker that is just not there (yet) is waited for
        by the calls of the connection.
    SiteError
        If the folder is not private.
    """
    path = Path(path).absolute()
    with _cache_lock:
        found = _connections.get(path)
        if found is None or not found.usable:
            found = _connections[path] = SocketConnection(path)
        return found


@atexit.register
def _close_all() -> None:
    while _connections:
        _connections.popitem()[1].close()


def _forget_all() -> None:
    # The sockets and their threads are the parent's. Kept, so that nothing of them is closed here.
    global _cache_lock
    _cache_lock = threading.Lock()
    _inherited.extend(_connections.values())
    _connections.clear()


os.register_at_fork(after_in_child=_forget_all)

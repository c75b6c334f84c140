"""A broker's client: requests from any thread of this process, over one socket and one I/O thread.

::

    threads ──submit──► outbox ──► I/O thread ──DEALER──► broker
        ▲                             │
        └────────── futures ◄─────────┘

What is outstanding is kept as it was sent. When the connection breaks and comes back (the door has
restarted the broker), it is sent again: a broker runs a request's id once. When it stays away,
what is outstanding fails with :class:`~hybridflow.errors.BrokerLostError`.

A forked child does not inherit the connection: :func:`connect` makes it one of its own.
"""

import atexit
import itertools
import logging
import math
import os
import pwd
import socket
import threading
import time
import uuid
from collections import deque
from concurrent.futures import Future
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

from hybridflow import environment
from hybridflow.broker import protocol
from hybridflow.broker.outlook import Outlook
from hybridflow.broker.pending import ReplyFuture, copy_of
from hybridflow.broker.place import check_folder, check_path
from hybridflow.broker.protocol import (
    MAX_MESSAGE_BYTES,
    Ack,
    Again,
    Ask,
    Bye,
    Cancel,
    Expect,
    Expected,
    Failed,
    Finished,
    Hello,
    Later,
    Refused,
    Status,
    Submit,
    Welcome,
)
from hybridflow.broker.wake import Wake
from hybridflow.errors import (
    BrokerLostError,
    ErrorRecord,
    HybridflowError,
    RequestCancelledError,
    RequestError,
    TooLargeError,
)
from hybridflow.kernel import process_namespace
from hybridflow.records import ClientInfo, Description, JobState, Reply, Request

__all__ = ["LOST_AFTER_SECONDS", "ClientTicket", "SocketConnection", "connect"]

_log = logging.getLogger(__name__)
_Socket = zmq.Socket[bytes]

LOST_AFTER_SECONDS = 30.0
"""Time that a broker has to come back (the door restarts one that died), in seconds."""

_ANSWER_SECONDS = 5.0
_CLOSE_SECONDS = 5.0
_LINGER_MILLISECONDS = 200
_RECONNECT_MILLISECONDS = 20
_LOOK_MILLISECONDS = 250


class ClientTicket:
    """A request under way at a broker process; see :class:`hybridflow.broker.base.Ticket`."""

    def __init__(self, connection: "SocketConnection", request_id: str, data: bytes) -> None:
        self.request_id = request_id
        self.future = ReplyFuture(request_id)
        self.since = time.monotonic()
        self.data = data
        self.unwanted = False
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

    Parameters
    ----------
    path
        The broker's socket.
    lost_after
        Time that a broker has to come back, in seconds.

    Raises
    ------
    BrokerLostError
        If the socket's folder does not exist.
    SiteError
        If the folder is not private.
    """

    def __init__(self, path: Path, *, lost_after: float = LOST_AFTER_SECONDS) -> None:
        check_folder(path.parent)
        check_path(path)
        self._path = path
        self._lost_after = lost_after
        self._lock = threading.Lock()
        self._wake = Wake()
        self._outbox: deque[bytes] = deque()
        self._tickets: dict[str, ClientTicket] = {}
        self._asked: dict[str, list[Future[JobState | None]]] = {}
        self._expected: dict[int, Future[Outlook]] = {}
        self._questions = itertools.count()
        self._acks: list[str] = []
        self._description: Future[Description] = Future()
        self._lost_since: float | None = time.monotonic()
        self._connected = False
        self._closed: HybridflowError | None = None
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=self._run, name=f"hybridflow-client-{path.stem}", daemon=True
        )
        self._thread.start()

    # -- for any thread -----------------------------------------------------------------------

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
            with self._lock:
                description = self._description
                if self._closed is not None:
                    raise copy_of(self._closed)
            left = max(0.0, until - time.monotonic())
            try:
                return description.result(min(left, _LOOK_MILLISECONDS / 1000))
            except TimeoutError:
                check_folder(self._path.parent)
                if time.monotonic() >= until:
                    raise self._lost_error() from None

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
        with self._lock:
            if self._closed is not None:
                raise copy_of(self._closed)
            if request.id in self._tickets:
                raise RequestError(f"a request {request.id} is already under way")
            self._tickets[request.id] = ticket
            self._outbox.append(data)
        self._wake.signal()
        return ticket

    def cancel(self, ticket: ClientTicket) -> None:
        """Ask the broker to drop a request; its future gets the outcome, whichever it is."""
        self._refuse_after_fork()
        ticket.unwanted = True
        self._say(protocol.encode(Cancel(ticket.request_id)))

    def ask(self, ticket: ClientTicket) -> JobState:
        """Ask the broker for a request's state; queued, while there is no broker to ask."""
        self._refuse_after_fork()
        answer: Future[JobState | None] = Future()
        with self._lock:
            if self._lost_since is not None:
                return ticket.future.state() or JobState.QUEUED
            self._asked.setdefault(ticket.request_id, []).append(answer)
        self._say(protocol.encode(Ask(ticket.request_id)))
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
        if self._lost_since is not None and time.monotonic() > self._lost_since + _ANSWER_SECONDS:
            raise self._silent_error()
        answer: Future[Outlook] = Future()
        question = next(self._questions)
        with self._lock:
            if self._closed is not None:
                raise copy_of(self._closed)
            self._expected[question] = answer
            self._outbox.append(protocol.encode(Expect(question)))
        self._wake.signal()
        try:
            return answer.result(_ANSWER_SECONDS)
        except TimeoutError:
            raise self._silent_error() from None
        finally:
            with self._lock:
                self._expected.pop(question, None)

    def close(self) -> None:
        """Let go of the broker; pending requests fail with :class:`BrokerLostError`."""
        if self._pid != os.getpid():
            return
        self._close(
            BrokerLostError(f"the connection to the broker at {self._path} was closed here")
        )
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_SECONDS)

    @property
    def usable(self) -> bool:
        """Whether requests can be submitted here."""
        return self._closed is None and self._pid == os.getpid()

    def _close(self, error: HybridflowError) -> None:
        with self._lock:
            if self._closed is not None:
                return
            self._closed = error
        self._wake.signal()

    def _say(self, data: bytes) -> None:
        with self._lock:
            if self._closed is None:
                self._outbox.append(data)
        self._wake.signal()

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

    def _lost_error(self) -> BrokerLostError:
        return BrokerLostError(
            f"there is no broker at {self._path}: it died, or has not answered, and did not come "
            f"back in {self._lost_after:g} s; run the task again in another slot"
        )

    # -- the I/O thread -------------------------------------------------------------------------

    def _run(self) -> None:
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.set(zmq.LINGER, _LINGER_MILLISECONDS)
        dealer.set_hwm(0)
        dealer.set(zmq.ROUTING_ID, b"\x01" + uuid.uuid4().bytes)
        dealer.set(zmq.RECONNECT_IVL, _RECONNECT_MILLISECONDS)
        monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        dealer.connect(f"ipc://{self._path}")
        poller = zmq.Poller()
        for source in (dealer, monitor, self._wake):
            poller.register(source, zmq.POLLIN)
        try:
            while self._closed is None:
                self._turn(poller, dealer, monitor)
        except Exception as error:
            # Nobody waits for this thread, but many for what is outstanding.
            _log.exception("the connection to the broker at %s failed", self._path)
            self._close(ErrorRecord.of(error).error())
        finally:
            if self._connected:
                dealer.send(protocol.encode(Bye()))
            dealer.disable_monitor()
            monitor.close(0)
            dealer.close()
            self._fail_all()
            context.term()

    def _turn(self, poller: zmq.Poller, dealer: _Socket, monitor: _Socket) -> None:
        timeout = None if self._lost_since is None else _LOOK_MILLISECONDS
        for source, _ in poller.poll(timeout):
            if source is dealer:
                self._receive(dealer)
            elif source is monitor:
                self._follow(dealer, monitor)
            else:
                self._wake.clear()
        if self._connected:
            self._send(dealer)
        if self._lost_since is not None:
            self._look_for_lost()

    def _send(self, dealer: _Socket) -> None:
        while self._outbox:
            dealer.send(self._outbox.popleft())
        if self._acks:
            dealer.send(protocol.encode(Ack(tuple(self._acks))))
            self._acks.clear()

    def _receive(self, dealer: _Socket) -> None:
        while True:
            try:
                data = dealer.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._handle(protocol.read_broker(data))

    def _handle(self, message: protocol.FromBroker) -> None:
        match message:
            case Finished(request_id, reply):
                self._settle(request_id, reply)
            case Failed(str(request_id), error):
                self._settle(request_id, error.error())
            case Failed(None, error):
                _log.warning("the broker refused a message: %s", error.message)
            case Again(request_id):
                self._send_again(request_id)
            case Later():
                pass  # it is kept until it has an outcome, anyway
            case Status(request_id, state):
                self._answer(request_id, state)
            case Expected(question, outlook):
                self._foretell(question, outlook)
            case Welcome():
                self._welcome(message.description)
            case Refused(error):
                self._close(error.error())

    def _settle(self, request_id: str, outcome: Reply | HybridflowError) -> None:
        self._acks.append(request_id)
        with self._lock:
            ticket = self._tickets.pop(request_id, None)
        if ticket is not None:
            ticket.future.settle(outcome)
        self._answer(request_id, None)

    def _send_again(self, request_id: str) -> None:
        with self._lock:
            ticket = self._tickets.get(request_id)
            if ticket is not None and not ticket.unwanted:
                self._outbox.append(ticket.data)

    def _answer(self, request_id: str, state: JobState | None) -> None:
        with self._lock:
            waiting = self._asked.pop(request_id, [])
        for answer in waiting:
            answer.set_result(state)

    def _foretell(self, question: int, outlook: Outlook) -> None:
        with self._lock:
            answer = self._expected.pop(question, None)
        if answer is not None:
            answer.set_result(outlook)

    def _answer_all(self) -> None:
        with self._lock:
            asked = list(self._asked)
        for request_id in asked:
            self._answer(request_id, None)

    def _welcome(self, description: Description) -> None:
        with self._lock:
            if self._description.done():
                self._description = Future()
            self._description.set_result(description)
            self._lost_since = None

    # -- the connection: lost and found -----------------------------------------------------------

    def _follow(self, dealer: _Socket, monitor: _Socket) -> None:
        while monitor.poll(0):
            event = recv_monitor_message(monitor)["event"]
            self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if self._connected:
                dealer.send(
                    protocol.encode(Hello(protocol.VERSION, _myself(), process_namespace()))
                )
                self._resend(dealer)
            else:
                with self._lock:
                    self._lost_since = self._lost_since or time.monotonic()
                self._answer_all()

    def _resend(self, dealer: _Socket) -> None:
        # Perhaps to another broker than before, which knows of nothing.
        with self._lock:
            self._outbox.clear()
            tickets = list(self._tickets.values())
        self._answer_all()
        for question in list(self._expected):
            dealer.send(protocol.encode(Expect(question)))
        for ticket in tickets:
            if ticket.unwanted:
                dealer.send(protocol.encode(Cancel(ticket.request_id)))
                self._settle(ticket.request_id, _cancelled(ticket.request_id))
            else:
                dealer.send(ticket.data)

    def _look_for_lost(self) -> None:
        since = self._lost_since
        if since is None or not self._tickets:
            return
        error: HybridflowError = self._lost_error()
        latest = time.monotonic() - self._lost_after
        try:
            check_folder(self._path.parent)
        except HybridflowError as gone:
            error, latest = gone, math.inf
        with self._lock:
            lost = [t for t in self._tickets.values() if max(since, t.since) <= latest]
        for ticket in lost:
            self._settle(ticket.request_id, copy_of(error))

    def _fail_all(self) -> None:
        assert self._closed is not None
        with self._lock:
            pending = list(self._tickets)
        for request_id in pending:
            self._settle(request_id, copy_of(self._closed))
        self._answer_all()


def _cancelled(request_id: str) -> RequestCancelledError:
    return RequestCancelledError(f"request {request_id} was cancelled")


def _myself() -> ClientInfo:
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return ClientInfo(
        user=user,
        workflow=os.environ.get(environment.RUN, ""),
        host=socket.gethostname(),
        pid=os.getpid(),
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

"""The broker behind a socket: clients' messages in, outcomes back, in one thread.

::

    clients ◄──ipc──► ROUTER ──► Server ──submit──► Broker (its dispatcher thread)
                                   ▲                   │
                                   └──── wake ◄── outcomes

An outcome is kept until its client acknowledges it, so that a client that lost the connection gets
it by asking again: a request's id runs once. Kept outcomes are bounded in bytes. What a client left
behind when its process ended is dropped, and its requests are abandoned. A request that finds the
queue full is called in later.
"""

import functools
import logging
import os
import select
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import msgspec
import zmq

from hybridflow.broker import protocol
from hybridflow.broker.core import Broker
from hybridflow.broker.entry import Entry, request_bytes
from hybridflow.broker.outside import Outside
from hybridflow.broker.protocol import (
    MAX_MESSAGE_BYTES,
    Ack,
    Again,
    Ask,
    Bye,
    Cancel,
    Deadline,
    Drain,
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
    ErrorRecord,
    HybridflowError,
    QueueFullError,
    RequestCancelledError,
    RequestError,
    ResourceError,
    TooLargeError,
)
from hybridflow.kernel import process_namespace
from hybridflow.records import ClientInfo, Description, JobState, Reply, Request

__all__ = ["Server"]

_log = logging.getLogger(__name__)

_KEPT_BYTES = 512 * 2**20
_TURN = 256
_LINGER_MILLISECONDS = 2000


class _Outcome:
    # An outcome on its way to a client, and until the client says that it has it.
    __slots__ = ("data", "state")

    def __init__(self, state: JobState, data: bytes) -> None:
        self.state = state
        self.data = data


class _Client:
    __slots__ = ("info", "pidfd", "requests")

    def __init__(self, info: ClientInfo) -> None:
        self.info = info
        self.pidfd: int | None = None
        self.requests: dict[str, Entry | _Outcome] = {}

    def share_info(self, request: Request) -> None:
        # One object for all requests of a task that wait, which may be many.
        if request.client == self.info:
            msgspec.structs.force_setattr(request, "client", self.info)
        else:
            self.info = request.client


class Server:
    """Serves one broker on one socket.

    Parameters
    ----------
    path
        The socket.
    drain_seconds
        Time for what is under way when nobody says otherwise.
    control
        Descriptor of the pipe from the door; its end means that the door has died.
    max_message_bytes, kept_bytes
        Bounds of a message and of the outcomes that no client has acknowledged yet.
    """

    def __init__(
        self,
        path: Path,
        *,
        drain_seconds: float = 20.0,
        control: int | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        kept_bytes: int = _KEPT_BYTES,
    ) -> None:
        self._path = path
        self._drain_seconds = drain_seconds
        self._control = control
        self._max_message_bytes = max_message_bytes
        self._kept_bytes = kept_bytes
        self._wake = Wake()
        self._orders: deque[float] = deque()
        self._deadlines: deque[float | None] = deque()
        self._ended = False
        self._clients: dict[bytes, _Client] = {}
        self._watched: dict[int, bytes] = {}
        self._outcomes: deque[tuple[bytes, str, Reply | HybridflowError]] = deque()
        self._kept: OrderedDict[tuple[bytes, str], int] = OrderedDict()
        self._kept_now = 0
        self._outside = Outside()
        self._buffer = bytearray()
        self._processes = select.epoll()
        if control is not None:
            self._processes.register(control, select.EPOLLIN)

    # -- for other threads and signal handlers ------------------------------------------------

    def drain(self, seconds: float | None = None) -> None:
        """Take no more requests, end those that are there, and return from :meth:`serve`."""
        self._orders.append(self._drain_seconds if seconds is None else seconds)
        self._wake.signal()

    def broker_ended(self) -> None:
        """Note that the broker has ended; to be given to it as ``on_end``."""
        self._ended = True
        self._wake.signal()

    # -- life -----------------------------------------------------------------------------------

    def bind(self) -> None:
        """Open the socket, in place of one that a killed broker has left."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, _LINGER_MILLISECONDS)
        # ZeroMQ would drop messages in silence at a mark of its own: the bounds are ours.
        self._socket.set_hwm(0)
        # What comes in it drops not, but leaves with its sender: here it would be held twice.
        self._socket.set(zmq.RCVHWM, _TURN)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.ROUTER_HANDOVER, 1)
        # The folder keeps others out; this does so once more, whatever becomes of its mode.
        self._socket.set(zmq.IPC_FILTER_UID, os.geteuid())
        # Ours is answered, twice as much ends the connection before it is in memory.
        self._socket.set(zmq.MAXMSGSIZE, 2 * self._max_message_bytes)
        self._path.unlink(missing_ok=True)
        self._socket.bind(f"ipc://{self._path}")
        self._path.chmod(0o600)

    def await_broker(self, ready: "Future[Description]") -> bool:
        """Wait until the broker is ready, or could not be; False if told to end before that."""
        ready.add_done_callback(lambda _: self._wake.signal())
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.register(self._processes, select.POLLIN)
        while not ready.done():
            for descriptor, _ in poller.poll():
                if descriptor == self._wake.fileno():
                    self._wake.clear()
                else:
                    self._look_after_processes()
            if self._orders:
                return False
        return True

    def serve(self, broker: Broker) -> None:
        """Serve until the broker has ended."""
        self._broker = broker
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        poller.register(self._processes, zmq.POLLIN)
        while not (self._ended and not self._outcomes):
            for source, _ in poller.poll():
                if source is self._socket:
                    self._receive()
                elif source == self._wake.fileno():
                    self._wake.clear()
                else:
                    self._look_after_processes()
            self._send_outcomes()
            while self._deadlines:
                self._broker.set_deadline(self._deadlines.popleft())
            while self._orders:
                self._broker.drain(self._orders.popleft())

    def close(self) -> None:
        """Send what is on its way, and remove the socket."""
        self._path.unlink(missing_ok=True)
        self._socket.close()
        self._context.term()
        for pidfd in self._watched:
            os.close(pidfd)
        self._processes.close()

    # -- from clients -----------------------------------------------------------------------------

    def _receive(self) -> None:
        # In turns, so that outcomes go out while clients send as fast as they can.
        for _ in range(_TURN):
            try:
                identity, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._handle(identity, self._read(parts))
            except HybridflowError as error:
                _log.warning("a message of client %s was refused: %s", identity.hex(), error)
                self._send(identity, protocol.encode(Failed(None, ErrorRecord.of(error))))
            except Exception as error:
                # A bug of ours, which one client has found, must not end it for all.
                _log.exception("a message of client %s could not be handled", identity.hex())
                self._send(identity, protocol.encode(Failed(None, ErrorRecord.of(error))))

    def _read(self, parts: list[bytes]) -> protocol.FromClient:
        if len(parts) != 1:
            raise RequestError(f"a message has 1 part, not {len(parts)}")
        if len(parts[0]) > self._max_message_bytes:
            raise TooLargeError(
                f"a message of {len(parts[0]):,} bytes came in; {self._max_message_bytes:,} are "
                "allowed: split the request"
            )
        return protocol.read_client(parts[0])

    def _handle(self, identity: bytes, message: protocol.FromClient) -> None:
        if isinstance(message, Hello):
            self._welcome(identity, message)
            return
        client = self._clients.get(identity)
        if client is None:
            raise RequestError("a client's first message has to be Hello")
        match message:
            case Submit(request):
                self._submit(identity, client, request)
            case Ack(ids):
                for request_id in ids:
                    self._forget(identity, client, request_id)
            case Cancel(request_id):
                self._cancel(identity, client, request_id)
            case Ask(request_id):
                known = client.requests.get(request_id)
                state = None if known is None else known.state
                self._send(identity, protocol.encode(Status(request_id, state)))
            case Expect(question):
                self._send(identity, protocol.encode(Expected(question, self._broker.outlook())))
            case Bye():
                self._part(identity, self._broker.cancel)

    def _welcome(self, identity: bytes, hello: Hello) -> None:
        if hello.version != protocol.VERSION:
            error = RequestError(
                f"the client speaks version {hello.version} of the protocol, the broker "
                f"{protocol.VERSION}: run both from the same installation of hybridflow"
            )
            self._send(identity, protocol.encode(Refused(ErrorRecord.of(error))))
            return
        if identity not in self._clients:
            client = self._clients[identity] = _Client(hello.client)
            self._watch(identity, client, hello)
        welcome = Welcome(protocol.VERSION, self._broker.description)
        self._send(identity, protocol.encode(welcome))

    def _submit(self, identity: bytes, client: _Client, request: Request) -> None:
        known = client.requests.get(request.id)
        if isinstance(known, _Outcome):
            self._send(identity, known.data)
        if known is not None:
            return
        client.share_info(request)
        deliver = functools.partial(self._deliver, identity, request.id)
        try:
            if not self._outside.has_turn((identity, request.id)):
                raise QueueFullError(f"others stand before request {request.id}")
            client.requests[request.id] = self._broker.submit(request, deliver)
            self._outside.entered((identity, request.id))
        except QueueFullError:
            self._outside.keep((identity, request.id), request_bytes(request))
            self._send(identity, protocol.encode(Later(request.id)))
            self._call_in()
        except Exception as error:
            if not isinstance(error, HybridflowError):
                _log.exception("request %s could not be taken", request.id)
            if self._outside.leave((identity, request.id)):
                self._call_in()
            # Nothing was begun: it may be submitted again, and is not kept.
            self._send(identity, protocol.encode(Failed(request.id, ErrorRecord.of(error))))

    def _call_in(self) -> None:
        for identity, request_id in self._outside.call(self._broker.room):
            self._send(identity, protocol.encode(Again(request_id)))

    def _cancel(self, identity: bytes, client: _Client, request_id: str) -> None:
        entry = client.requests.get(request_id)
        if isinstance(entry, Entry):
            self._broker.cancel(entry)
        elif self._outside.leave((identity, request_id)):
            error = RequestCancelledError(f"request {request_id} was cancelled")
            self._send(identity, protocol.encode(Failed(request_id, ErrorRecord.of(error))))
            self._call_in()

    # -- to clients -------------------------------------------------------------------------------

    def _deliver(self, identity: bytes, request_id: str, outcome: Reply | HybridflowError) -> None:
        # In the dispatcher's thread, or here for a cancelled request.
        self._outcomes.append((identity, request_id, outcome))
        self._wake.signal()

    def _send_outcomes(self) -> None:
        while self._outcomes:
            identity, request_id, outcome = self._outcomes.popleft()
            client = self._clients.get(identity)
            entry = client.requests.get(request_id) if client else None
            if client is None or not isinstance(entry, Entry):
                continue
            data = _encode(request_id, outcome)
            client.requests[request_id] = _Outcome(entry.state, data)
            self._kept[identity, request_id] = len(data)
            self._kept_now += len(data)
            self._send(identity, data)
        self._keep_bounds()
        self._call_in()

    def _send(self, identity: bytes, data: bytes) -> None:
        try:
            self._socket.send_multipart((identity, data), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            # It will connect again and ask again, or is seen to have ended.
            _log.info("client %s cannot be reached: %s", identity.hex(), error)

    def _keep_bounds(self) -> None:
        while self._kept_now > self._kept_bytes and len(self._kept) > 1:
            (identity, request_id), size = self._kept.popitem(last=False)
            error = ResourceError(
                f"the outcome of request {request_id} was dropped, for want of memory: nobody "
                "fetched it",
                transient=True,
            )
            data = _encode(request_id, error)
            self._clients[identity].requests[request_id] = _Outcome(JobState.FAILED, data)
            self._kept_now -= size
            _log.warning("%s", error)

    def _forget(self, identity: bytes, client: _Client, request_id: str) -> None:
        if isinstance(client.requests.get(request_id), _Outcome):
            del client.requests[request_id]
            self._kept_now -= self._kept.pop((identity, request_id), 0)

    # -- processes --------------------------------------------------------------------------------

    def _watch(self, identity: bytes, client: _Client, hello: Hello) -> None:
        if hello.namespace != process_namespace():
            return
        try:
            client.pidfd = os.pidfd_open(hello.client.pid)
        except (OSError, ValueError, OverflowError) as error:
            _log.info("client %s cannot be watched: %s", identity.hex(), error)
            return
        self._watched[client.pidfd] = identity
        self._processes.register(client.pidfd, select.EPOLLIN)

    def _part(self, identity: bytes, drop: Callable[[Entry], object]) -> None:
        client = self._clients.pop(identity)
        if client.pidfd is not None:
            self._processes.unregister(client.pidfd)
            del self._watched[client.pidfd]
            os.close(client.pidfd)
        self._outside.leave_all(identity)
        for request_id, known in client.requests.items():
            if isinstance(known, Entry):
                drop(known)
            else:
                self._kept_now -= self._kept.pop((identity, request_id), 0)
        self._call_in()

    def _look_after_processes(self) -> None:
        for descriptor, _ in self._processes.poll(0):
            if descriptor == self._control:
                self._obey()
            elif descriptor in self._watched:
                identity = self._watched[descriptor]
                _log.info("the process of client %s has ended", identity.hex())
                self._broker.part(self._clients[identity].info)
                self._part(identity, self._broker.abandon)

    def _obey(self) -> None:
        assert self._control is not None
        data = os.read(self._control, 65536)
        if not data:
            _log.info("the door has ended: draining")
            self._processes.unregister(self._control)
            self.drain()
            return
        self._buffer += data
        for order in protocol.frames(self._buffer):
            if isinstance(order, Drain):
                self.drain(order.seconds)
            elif isinstance(order, Deadline):
                self._deadlines.append(order.at)


def _encode(request_id: str, outcome: Reply | HybridflowError) -> bytes:
    if isinstance(outcome, Reply):
        return protocol.encode(Finished(request_id, outcome))
    return protocol.encode(Failed(request_id, ErrorRecord.of(outcome)))

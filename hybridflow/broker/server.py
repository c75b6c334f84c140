"""The broker behind a socket: clients' messages in, outcomes back, in one thread.

::

    clients ◄──ipc──► ROUTER ──► Server ──► Reception ──submit──► Broker (its dispatcher thread)
                                   ▲                                 │
                                   └──────── wake ◄── outcomes ◄─────┘
"""

import contextlib
import logging
import os
import select
from collections import deque
from concurrent.futures import Future
from pathlib import Path

import zmq

from hybridflow.broker import protocol
from hybridflow.broker.core import Broker
from hybridflow.broker.processes import Ended, Processes
from hybridflow.broker.protocol import (
    MAX_MESSAGE_BYTES,
    Deadline,
    Drain,
    Failed,
)
from hybridflow.broker.reception import Reception
from hybridflow.broker.wake import Wake
from hybridflow.errors import (
    ErrorRecord,
    HybridflowError,
    RequestError,
    TooLargeError,
)
from hybridflow.records import Description

__all__ = ["Server"]

_log = logging.getLogger(__name__)

_KEPT_BYTES = 512 * 2**20
_TURN = 256
_LINGER_MILLISECONDS = 2000

_Message = tuple[bytes, list[bytes]]  # who has sent it, and its parts


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
        self._max_message_bytes = max_message_bytes
        self._wake = Wake()
        self._orders: deque[float] = deque()
        self._deadlines: deque[float | None] = deque()
        self._ended = False
        self._kept_bytes = kept_bytes
        self._processes = Processes(control)

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
                    self._look_after_processes([])
            if self._orders:
                return False
        return True

    def serve(self, broker: Broker) -> None:
        """Serve until the broker has ended."""
        self._reception = Reception(
            broker, self._send, self._processes, self._wake, self._kept_bytes
        )
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        poller.register(self._processes, zmq.POLLIN)
        while not (self._ended and not self._reception.has_outcomes):
            ready = dict(poller.poll())
            if self._wake.fileno() in ready:
                self._wake.clear()
            messages = self._received() if self._socket in ready else []
            if self._processes.fileno() in ready:
                messages = self._look_after_processes(messages)
            for identity, parts in messages:
                self._take(identity, parts)
            self._reception.send_outcomes()
            while self._deadlines:
                broker.set_deadline(self._deadlines.popleft())
            while self._orders:
                broker.drain(self._orders.popleft())

    def close(self) -> None:
        """Send what is on its way, and remove the socket."""
        self._path.unlink(missing_ok=True)
        self._socket.close()
        self._context.term()
        self._processes.close()

    # -- from clients -----------------------------------------------------------------------------

    def _received(self) -> list[_Message]:
        # In turns, so that outcomes go out while clients send as fast as they can.
        messages: list[_Message] = []
        with contextlib.suppress(zmq.Again):
            while len(messages) < _TURN:
                identity, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
                messages.append((identity, parts))
        return messages

    def _take(self, identity: bytes, parts: list[bytes]) -> None:
        try:
            self._reception.take(identity, self._read(parts))
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

    def _send(self, identity: bytes, data: bytes) -> None:
        try:
            self._socket.send_multipart((identity, data), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            # It will connect again and ask again, or is seen to have ended.
            _log.info("client %s cannot be reached: %s", identity.hex(), error)

    # -- processes --------------------------------------------------------------------------------

    def _look_after_processes(self, messages: list[_Message]) -> list[_Message]:
        # Who has ended may have said goodbye before that; a task that is run once more comes after
        # the end of its first attempt. Returns what is left to be heard.
        for news in self._processes.news():
            match news:
                case Ended(client=ended):
                    for identity, parts in messages:
                        if identity == ended:
                            self._take(identity, parts)
                    messages = [message for message in messages if message[0] != ended]
                    self._reception.ended(ended)
                case Drain(seconds):
                    self.drain(seconds)
                case Deadline(at):
                    self._deadlines.append(at)
                case None:
                    _log.info("the door has ended: draining")
                    self.drain()
        return messages

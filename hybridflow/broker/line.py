"""The line to a broker: one socket, and the thread that sends and hears on it.

When the connection breaks and comes back (the door has restarted the broker), what is outstanding
is sent again: a broker runs a request's id once. When it stays away, what is outstanding fails with
:class:`~hybridflow.errors.BrokerLostError`. A broker that is there and does not answer, because
somebody has stopped it, counts as away after some time: ZeroMQ asks it for a sign of life, which a
thread of ZeroMQ's own gives, however busy the broker is.
"""

import logging
import math
import os
import pwd
import socket
import threading
import time
import uuid
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

from hybridflow import environment
from hybridflow.broker import protocol
from hybridflow.broker.outstanding import Outstanding
from hybridflow.broker.pending import copy_of
from hybridflow.broker.place import check_folder, server_of
from hybridflow.broker.protocol import (
    Ack,
    Again,
    Bye,
    Cancel,
    Expected,
    Failed,
    Finished,
    Hello,
    Later,
    Refused,
    Status,
    Welcome,
)
from hybridflow.errors import (
    BrokerLostError,
    ErrorRecord,
    HybridflowError,
    RequestCancelledError,
)
from hybridflow.kernel import is_stopped, process_namespace
from hybridflow.records import ClientInfo, Reply

__all__ = ["LOOK_SECONDS", "Line"]

_log = logging.getLogger(__name__)
_Socket = zmq.Socket[bytes]

LOOK_SECONDS = 0.25
"""How often a broker that is away is looked for, in seconds."""

_SIGNS = 4
"""How many signs of life are asked for in the time that a broker has for one."""

_LINGER_MILLISECONDS = 200
_RECONNECT_MILLISECONDS = 20


class Line:
    """Carries messages between what is outstanding and a broker, in a thread of its own.

    Parameters
    ----------
    path
        The broker's socket.
    outstanding
        What is to be sent, and who waits for what is heard.
    lost_after
        Time that a broker has to come back, in seconds.
    silent_after
        Time that it has for a sign of life.
    """

    def __init__(
        self, path: Path, outstanding: Outstanding, lost_after: float, silent_after: float
    ) -> None:
        self._path = path
        self._outstanding = outstanding
        self._lost_after = lost_after
        self._silent_after = silent_after
        self._acks: list[str] = []
        self._connected = False
        self._thread = threading.Thread(
            target=self._run, name=f"hybridflow-client-{path.stem}", daemon=True
        )

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until what was closed has ended, unless this is its own thread."""
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    def lost_error(self) -> BrokerLostError:
        """Return what is said when there is no broker."""
        pid = server_of(self._path)
        what = f"there is no broker at {self._path}: it died, or has not answered,"
        then = "run the task again in another slot"
        if pid is not None:
            state = "was stopped" if is_stopped(pid) else "is there"
            what = f"the broker at {self._path}, process {pid}, {state} and does not answer,"
            then = f"let it go on (`kill -CONT {pid}`), or {then}" if is_stopped(pid) else then
        return BrokerLostError(f"{what} and did not come back in {self._lost_after:g} s; {then}")

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.set(zmq.LINGER, _LINGER_MILLISECONDS)
        dealer.set_hwm(0)
        dealer.set(zmq.ROUTING_ID, b"\x01" + uuid.uuid4().bytes)
        dealer.set(zmq.RECONNECT_IVL, _RECONNECT_MILLISECONDS)
        dealer.set(zmq.HEARTBEAT_IVL, round(1000 * self._silent_after / _SIGNS))
        dealer.set(zmq.HEARTBEAT_TIMEOUT, round(1000 * self._silent_after))
        monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        dealer.connect(f"ipc://{self._path}")
        poller = zmq.Poller()
        for source in (dealer, monitor, self._outstanding.wake):
            poller.register(source, zmq.POLLIN)
        try:
            while self._outstanding.closed is None:
                self._turn(poller, dealer, monitor)
        except Exception as error:
            # Nobody waits for this thread, but many for what is outstanding.
            _log.exception("the connection to the broker at %s failed", self._path)
            self._outstanding.close(ErrorRecord.of(error).error())
        finally:
            if self._connected:
                dealer.send(protocol.encode(Bye()))
            dealer.disable_monitor()
            monitor.close(0)
            dealer.close()
            assert self._outstanding.closed is not None
            self._outstanding.fail_all(self._outstanding.closed)
            context.term()

    def _turn(self, poller: zmq.Poller, dealer: _Socket, monitor: _Socket) -> None:
        is_lost = self._outstanding.lost_since is not None
        for source, _ in poller.poll(round(1000 * LOOK_SECONDS) if is_lost else None):
            if source is dealer:
                self._receive(dealer)
            elif source is monitor:
                self._follow(dealer, monitor)
            else:
                self._outstanding.wake.clear()
        if self._connected:
            self._send(dealer)
        if self._outstanding.lost_since is not None:
            self._look_for_lost()

    def _send(self, dealer: _Socket) -> None:
        for data in self._outstanding.messages():
            dealer.send(data)
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
                self._outstanding.send_again(request_id)
            case Later():
                pass  # it is kept until it has an outcome, anyway
            case Status(request_id, state):
                self._outstanding.answer(request_id, state)
            case Expected(number, outlook):
                self._outstanding.foretell(number, outlook)
            case Welcome():
                self._outstanding.found(message.description)
            case Refused(error):
                self._outstanding.close(error.error())

    def _settle(self, request_id: str, outcome: Reply | HybridflowError) -> None:
        self._acks.append(request_id)
        self._outstanding.settle(request_id, outcome)

    # -- lost and found -------------------------------------------------------------------------

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
                self._outstanding.lost()

    def _resend(self, dealer: _Socket) -> None:
        # Perhaps to another broker than before, which knows of nothing.
        everything = self._outstanding.everything()
        self._outstanding.answer_all()
        for asked in everything:
            if asked.unwanted:
                dealer.send(protocol.encode(Cancel(asked.request_id)))
                self._settle(asked.request_id, _cancelled(asked.request_id))
            else:
                dealer.send(asked.data)

    def _look_for_lost(self) -> None:
        if not self._outstanding:
            return
        error: HybridflowError = self.lost_error()
        latest = time.monotonic() - self._lost_after
        try:
            check_folder(self._path.parent)
        except HybridflowError as gone:
            error, latest = gone, math.inf
        for asked in self._outstanding.waiting_since(latest):
            self._settle(asked.request_id, copy_of(error))


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

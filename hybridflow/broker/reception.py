"""Who is there, and what each client has asked for: messages in, outcomes out.

An outcome is kept until its client acknowledges it, so that a client that lost the connection gets
it by asking again: a request's id runs once. What a client left behind when its process ended is
dropped, and its requests are abandoned. A request that finds the queue full is called in later.
"""

import functools
import logging
from collections import deque
from collections.abc import Callable

import msgspec

from hybridflow.broker import protocol
from hybridflow.broker.core import Broker
from hybridflow.broker.entry import Entry, request_bytes
from hybridflow.broker.kept import Kept, Outcome, message_of
from hybridflow.broker.outside import Outside
from hybridflow.broker.processes import Processes
from hybridflow.broker.protocol import (
    Ack,
    Again,
    Ask,
    Bye,
    Cancel,
    Expect,
    Expected,
    Failed,
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
)
from hybridflow.records import ClientInfo, Reply, Request

__all__ = ["Reception"]

_log = logging.getLogger(__name__)


class _Client:
    __slots__ = ("info", "requests")

    def __init__(self, info: ClientInfo) -> None:
        self.info = info
        self.requests: dict[str, Entry | Outcome] = {}

    def share_info(self, request: Request) -> None:
        # One object for all requests of a task that wait, which may be many.
        if request.client == self.info:
            msgspec.structs.force_setattr(request, "client", self.info)
        else:
            self.info = request.client


class Reception:
    """Stands between clients and their broker. For one thread.

    Parameters
    ----------
    broker
        The broker.
    send
        Sends a message to a client.
    processes
        Watches the clients' processes.
    wake
        Wakes the thread when there is an outcome.
    kept_bytes
        Bound of the outcomes that no client has acknowledged yet.
    """

    def __init__(
        self,
        broker: Broker,
        send: Callable[[bytes, bytes], None],
        processes: Processes,
        wake: Wake,
        kept_bytes: int,
    ) -> None:
        self._broker = broker
        self._send = send
        self._processes = processes
        self._wake = wake
        self._clients: dict[bytes, _Client] = {}
        self._outcomes: deque[tuple[bytes, str, Reply | HybridflowError]] = deque()
        self._kept = Kept(kept_bytes)
        self._outside = Outside()

    # From clients

    def take(self, identity: bytes, message: protocol.FromClient) -> None:
        """Take a client's message.

        Raises
        ------
        RequestError
            If the client has not said who it is.
        """
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
            case Expect(number):
                self._send(identity, protocol.encode(Expected(number, self._broker.outlook())))
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
            self._clients[identity] = _Client(hello.client)
            self._processes.watch(identity, hello)
        welcome = Welcome(protocol.VERSION, self._broker.description)
        self._send(identity, protocol.encode(welcome))

    def _submit(self, identity: bytes, client: _Client, request: Request) -> None:
        known = client.requests.get(request.id)
        if isinstance(known, Outcome):
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

    # To clients

    def _deliver(self, identity: bytes, request_id: str, outcome: Reply | HybridflowError) -> None:
        # In the dispatcher's thread, or here for a cancelled request.
        self._outcomes.append((identity, request_id, outcome))
        self._wake.signal()

    @property
    def has_outcomes(self) -> bool:
        """Whether outcomes have not been sent yet."""
        return bool(self._outcomes)

    def send_outcomes(self) -> None:
        """Send what has come of requests, and call in others for which there is room now."""
        while self._outcomes:
            identity, request_id, outcome = self._outcomes.popleft()
            client = self._clients.get(identity)
            entry = client.requests.get(request_id) if client else None
            if client is None or not isinstance(entry, Entry):
                continue
            data = message_of(request_id, outcome)
            kept = client.requests[request_id] = Outcome(entry.state, data)
            self._kept.add(identity, request_id, kept)
            self._send(identity, data)
        self._call_in()

    def _forget(self, identity: bytes, client: _Client, request_id: str) -> None:
        if isinstance(client.requests.get(request_id), Outcome):
            del client.requests[request_id]
            self._kept.forget(identity, request_id)

    # Who has gone

    def ended(self, identity: bytes) -> None:
        """Note that a client's process has ended; nothing, if it had said goodbye."""
        if identity not in self._clients:
            return
        _log.info("the process of client %s has ended", identity.hex())
        self._broker.part(self._clients[identity].info)
        self._part(identity, self._broker.abandon)

    def _part(self, identity: bytes, drop: Callable[[Entry], object]) -> None:
        client = self._clients.pop(identity)
        self._processes.leave(identity)
        self._outside.leave_all(identity)
        for request_id, known in client.requests.items():
            if isinstance(known, Entry):
                drop(known)
            else:
                self._kept.forget(identity, request_id)
        self._call_in()

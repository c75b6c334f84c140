"""The processes that a broker has to do with: clients, whose end it sees, and the door's orders."""

import logging
import os
import select
from collections.abc import Iterator

from hybridflow.broker import protocol
from hybridflow.broker.protocol import Deadline, Drain, Hello
from hybridflow.kernel import process_namespace

__all__ = ["Ended", "Processes"]

_log = logging.getLogger(__name__)
_PIPE_BYTES = 65536


class Ended:
    """A client's process has ended."""

    __slots__ = ("client",)

    def __init__(self, client: bytes) -> None:
        self.client = client


class Processes:
    """Watches them all, as one descriptor for a poll.

    Parameters
    ----------
    control
        Descriptor of the pipe from the door; its end means that the door has died.
    """

    def __init__(self, control: int | None) -> None:
        self._control = control
        self._buffer = bytearray()
        self._clients: dict[int, bytes] = {}
        self._descriptors: dict[bytes, int] = {}
        self._epoll = select.epoll()
        if control is not None:
            self._epoll.register(control, select.EPOLLIN)

    def fileno(self) -> int:
        """Return the descriptor, for a poll."""
        return self._epoll.fileno()

    def watch(self, client: bytes, hello: Hello) -> None:
        """Watch a client's process, if it can be seen from here."""
        if hello.namespace != process_namespace():
            return
        try:
            descriptor = os.pidfd_open(hello.client.pid)
        except (OSError, ValueError, OverflowError) as error:
            _log.info("client %s cannot be watched: %s", client.hex(), error)
            return
        self._clients[descriptor] = client
        self._descriptors[client] = descriptor
        self._epoll.register(descriptor, select.EPOLLIN)

    def leave(self, client: bytes) -> None:
        """Watch a client's process no more."""
        descriptor = self._descriptors.pop(client, None)
        if descriptor is not None:
            self._epoll.unregister(descriptor)
            del self._clients[descriptor]
            os.close(descriptor)

    def news(self) -> Iterator[Ended | Drain | Deadline | None]:
        """Return what has happened; None: the door has ended."""
        for descriptor, _ in self._epoll.poll(0):
            if descriptor == self._control:
                yield from self._orders()
            elif descriptor in self._clients:
                yield Ended(self._clients[descriptor])

    def _orders(self) -> Iterator[Drain | Deadline | None]:
        assert self._control is not None
        data = os.read(self._control, _PIPE_BYTES)
        if not data:
            self._epoll.unregister(self._control)
            yield None
            return
        self._buffer += data
        for order in protocol.frames(self._buffer):
            if isinstance(order, Drain | Deadline):
                yield order

    def close(self) -> None:
        """Watch nothing more."""
        for descriptor in self._clients:
            os.close(descriptor)
        self._epoll.close()

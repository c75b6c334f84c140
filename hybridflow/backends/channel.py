"""The messages between a hosted backend's process and its owner: length-prefixed msgpack.

The owner sends :data:`ToHost`, the host answers with :data:`ToOwner`. A call has a number, and one
:class:`Answer` with the same number. :class:`Ended` comes by itself, as soon as a job has ended,
and with all that there is to know about it. There is no pickle here: only the records below.

Host and owner may run in different interpreters, with other versions of hybridflow and of Qiskit:
both say which protocol they speak, and the host which QPY it reads.
"""

import socket
import struct
import threading
from typing import Any, Generic, TypeVar, cast

import msgspec

from hybridflow import wire
from hybridflow.backends.hello import PROTOCOL, Hello
from hybridflow.errors import ErrorRecord
from hybridflow.records import (
    Batch,
    Capabilities,
    JobStatus,
    PackedResult,
    Resource,
    TargetSnapshot,
    Usage,
)

__all__ = [
    "Acquire",
    "Answer",
    "Channel",
    "Ended",
    "Find",
    "Metadata",
    "Open",
    "Release",
    "Start",
    "Stop",
    "Target",
    "ToHost",
    "ToOwner",
    "Watch",
]

_LENGTH = struct.Struct("!Q")


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of the messages; `call` is the number that its answer will have."""

    call: int


class Open(Message, frozen=True, kw_only=True):
    """The first message: which backend to make. Answered with its capabilities.

    Attributes
    ----------
    resource, credentials
        Of what to make.
    foreign
        Whether the host is in another interpreter, and is to say what it has.
    protocol
        The owner's.
    """

    resource: Resource
    credentials: dict[str, str]
    foreign: bool = False
    protocol: int = PROTOCOL

    def __repr__(self) -> str:
        return f"Open(resource={self.resource.name!r}, credentials=<{len(self.credentials)} keys>)"


class Acquire(Message, frozen=True, kw_only=True):
    """``acquire()``."""


class Release(Message, frozen=True, kw_only=True):
    """``release()``."""


class Target(Message, frozen=True, kw_only=True):
    """``target()``."""


class Metadata(Message, frozen=True, kw_only=True):
    """``metadata()``."""


class Start(Message, frozen=True, kw_only=True):
    """``start(batch, tag=tag)``; the job is then watched."""

    batch: Batch
    tag: str


class Watch(Message, frozen=True, kw_only=True):
    """Watch a job that an earlier process started; answered with its status."""

    job_id: str


class Stop(Message, frozen=True, kw_only=True):
    """``stop(job_id)``."""

    job_id: str


class Find(Message, frozen=True, kw_only=True):
    """``find(tag)``."""

    tag: str


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a call returned: the one field that fits it, or an error."""

    call: int
    error: ErrorRecord | None = None
    capabilities: Capabilities | None = None
    hello: Hello | None = None
    target: TargetSnapshot | None = None
    metadata: dict[str, str] | None = None
    job_id: str | None = None
    status: JobStatus | None = None


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A job has ended."""

    job_id: str
    status: JobStatus
    results: tuple[PackedResult, ...] | None = None
    usage: Usage = Usage()
    error: ErrorRecord | None = None


ToHost = Open | Acquire | Release | Target | Metadata | Start | Watch | Stop | Find
ToOwner = Answer | Ended

_Received = TypeVar("_Received")


class Channel(Generic[_Received]):
    """One end of a stream socket. Any thread may send; one thread receives.

    Parameters
    ----------
    stream
        A connected stream socket, which belongs to the channel from now on.
    kind
        Union of the messages that arrive here.
    """

    def __init__(self, stream: socket.socket, kind: Any) -> None:
        self._stream = stream
        self._kind = kind
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """Return the socket's file descriptor, for a selector."""
        return self._stream.fileno()

    def send(self, message: ToHost | ToOwner) -> None:
        """Send a message.

        Raises
        ------
        OSError
            If the other end is gone.
        """
        data = wire.encode(message)
        with self._sending:
            self._stream.sendall(_LENGTH.pack(len(data)))
            self._stream.sendall(data)

    def receive(self) -> _Received | None:
        """Wait for the next message; None: the other end is gone."""
        try:
            header = self._exactly(_LENGTH.size)
            if header is None:
                return None
            data = self._exactly(_LENGTH.unpack(header)[0])
        except OSError:
            return None  # closed here, or reset by the other end
        return None if data is None else cast(_Received, wire.decode(data, self._kind))

    def _exactly(self, count: int) -> memoryview | None:
        buffer = memoryview(bytearray(count))
        filled = 0
        while filled < count:
            got = self._stream.recv_into(buffer[filled:])
            if got == 0:
                return None
            filled += got
        return buffer

    def shut(self) -> None:
        """End both directions; wakes a thread that receives here."""
        try:
            self._stream.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other end was quicker

    def close(self) -> None:
        """Close the socket."""
        self._stream.close()

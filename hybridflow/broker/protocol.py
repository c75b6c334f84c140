"""What client and broker say to each other: msgpack, tagged, without pickle.

::

    client                                    broker
      Hello ─────────────────────────────────►  first, and again after every reconnection
      ◄───────────────────────────── Welcome    or Refused: another version
      Submit ────────────────────────────────►  resent after a reconnection: an id runs once
      ◄──────────────────────── Later, Again    the queue is full; there is room: submit it again
      ◄──────────────────── Finished │ Failed   kept by the broker until
      Ack ───────────────────────────────────►  the client has them
      Ask ───────────────────────────────────►
      ◄─────────────────────────────── Status
      Expect ────────────────────────────────►  what would become of a request that came now?
      ◄───────────────────────────── Expected
      Cancel, Bye ───────────────────────────►

Each message is one ZeroMQ frame. What the door says to its broker goes through the broker's
standard input instead (:class:`Start`, then perhaps :class:`Deadline` and :class:`Drain`), each
with its length in front; the broker's first and only line on its standard output is :class:`Ready`.
"""

import struct
from typing import TypeVar

import msgspec

from hybridflow.broker.outlook import Outlook
from hybridflow.errors import ErrorRecord, RequestError
from hybridflow.records import ClientInfo, Description, JobState, Reply, Request, Resource

__all__ = [
    "MAX_MESSAGE_BYTES",
    "VERSION",
    "Ack",
    "Again",
    "Ask",
    "Bye",
    "Cancel",
    "Deadline",
    "Drain",
    "Expect",
    "Expected",
    "Failed",
    "Finished",
    "FromBroker",
    "FromClient",
    "FromDoor",
    "Hello",
    "Later",
    "Ready",
    "Refused",
    "Start",
    "Status",
    "Submit",
    "Welcome",
    "encode",
    "frame",
    "frames",
    "read_broker",
    "read_client",
    "read_door",
]

VERSION = 4
"""Version of this file; a broker and its clients must have the same."""

MAX_MESSAGE_BYTES = 128 * 2**20
"""Size of a client's message at most; a larger request has to be split."""

_T = TypeVar("_T")


class _Message(msgspec.Struct, frozen=True, tag=True):
    pass


class Hello(_Message, frozen=True):
    """I am this client; `namespace` tells in which space of process ids its `pid` counts."""

    version: int
    client: ClientInfo
    namespace: int = 0


class Submit(_Message, frozen=True):
    """Run this request."""

    request: Request


class Cancel(_Message, frozen=True):
    """Drop this request; it is answered by its outcome, whichever that is."""

    id: str


class Ask(_Message, frozen=True):
    """Tell me the state of this request."""

    id: str


class Expect(_Message, frozen=True):
    """Tell me what is to be expected of a request that comes now; `id` is this question's."""

    id: int


class Ack(_Message, frozen=True):
    """These outcomes have arrived, and need not be kept."""

    ids: tuple[str, ...]


class Bye(_Message, frozen=True):
    """Nobody here wants anything any more."""


class Welcome(_Message, frozen=True):
    """The broker knows the client, and describes its resource."""

    version: int
    description: Description


class Refused(_Message, frozen=True):
    """The broker cannot talk to this client: nothing more will come."""

    error: ErrorRecord


class Finished(_Message, frozen=True):
    """A request's results."""

    id: str
    reply: Reply


class Failed(_Message, frozen=True):
    """A request's error; without an id, the error of a message that could not be taken."""

    id: str | None
    error: ErrorRecord


class Later(_Message, frozen=True):
    """The queue has no room for this request now: keep it."""

    id: str


class Again(_Message, frozen=True):
    """The queue has room for a request that was to come later: submit it again."""

    id: str


class Status(_Message, frozen=True):
    """A request's state; None: it is not known here."""

    id: str
    state: JobState | None


class Expected(_Message, frozen=True):
    """The answer to an :class:`Expect`."""

    id: int
    outlook: Outlook


class Start(_Message, frozen=True):
    """What a broker process is to be.

    No vendor job may run after `deadline` (Unix time). What brokers in the Slurm jobs `ended_jobs`
    have left behind is this one's.
    """

    resource: Resource
    credentials: dict[str, str]
    folder: str
    drain_seconds: float
    deadline: float | None = None
    ended_jobs: tuple[str, ...] = ()


class Drain(_Message, frozen=True):
    """Take no more requests, end those that are there within `seconds`, exit."""

    seconds: float


class Deadline(_Message, frozen=True):
    """The slot ends at `at` (Unix time; None: never) from now on: its job's limit was changed."""

    at: float | None


class Ready(msgspec.Struct, frozen=True):
    """The broker serves; or why it does not."""

    error: ErrorRecord | None = None


FromClient = Hello | Submit | Cancel | Ask | Expect | Ack | Bye
FromBroker = Welcome | Refused | Finished | Failed | Later | Again | Status | Expected
FromDoor = Start | Deadline | Drain

_encoder = msgspec.msgpack.Encoder()
_from_client: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)
_from_broker: msgspec.msgpack.Decoder[FromBroker] = msgspec.msgpack.Decoder(FromBroker)
_from_door: msgspec.msgpack.Decoder[FromDoor] = msgspec.msgpack.Decoder(FromDoor)

_length = struct.Struct("!I")


def encode(message: FromClient | FromBroker | FromDoor) -> bytes:
    """Return a message as bytes."""
    return _encoder.encode(message)


def read_client(data: bytes) -> FromClient:
    """Return a client's message.

    Raises
    ------
    RequestError
        If it is none.
    """
    return _read(_from_client, data)


def read_broker(data: bytes) -> FromBroker:
    """Return a broker's message.

    Raises
    ------
    RequestError
        If it is none.
    """
    return _read(_from_broker, data)


def read_door(data: bytes) -> FromDoor:
    """Return the door's message.

    Raises
    ------
    RequestError
        If it is none.
    """
    return _read(_from_door, data)


def _read(decoder: "msgspec.msgpack.Decoder[_T]", data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"a message could not be read: {error}") from error


def frame(message: FromDoor) -> bytes:
    """Return a message with its length in front, for a pipe."""
    data = encode(message)
    return _length.pack(len(data)) + data


def frames(buffer: bytearray) -> list[FromDoor]:
    """Take the complete messages from the beginning of what was read from a pipe."""
    found = []
    while len(buffer) >= _length.size:
        end = _length.size + _length.unpack_from(buffer)[0]
        if len(buffer) < end:
            break
        found.append(read_door(bytes(buffer[_length.size : end])))
        del buffer[:end]
    return found

"""The steps of a run's requests and vendor jobs, as they stand in a ledger's files.

::

    Opened ── Admitted ──► Intended ──► Started ──► Stored ──► Delivered
                   │           │           └──► Voided
                   │           └──► Doubted ──► Resolved (by a person)
                   └──► Claimed ──► Delivered     Failed, Cancelled, Released

Times are for people; nothing depends on a clock.
"""

import time

import msgspec

from hybridflow.broker.ledger.owner import Owner
from hybridflow.broker.merging import Cut
from hybridflow.errors import ErrorRecord
from hybridflow.records import ClientInfo, Usage

__all__ = [
    "VERSION",
    "Admitted",
    "Cancelled",
    "Claimed",
    "Closed",
    "Delivered",
    "Doubted",
    "Failed",
    "Intended",
    "Opened",
    "Released",
    "Resolved",
    "Started",
    "Step",
    "Stored",
    "Voided",
    "decode",
    "encode",
]

VERSION = 1
"""Version of this file; a newer one's ledger is not read."""


def _now() -> float:
    return round(time.time(), 3)


class _Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="step", omit_defaults=True):
    time: float = msgspec.field(default_factory=_now)


class Opened(_Step, frozen=True, kw_only=True, tag="opened"):
    """A file begins; all steps in it are its owner's."""

    version: int
    owner: Owner
    resource: str
    backend: str


class Admitted(_Step, frozen=True, kw_only=True, tag="admitted"):
    """A request came in; `digest` tells equal ones."""

    request: str
    digest: bytes
    client: ClientInfo
    key: str | None = None
    pubs: int = 1
    circuits: int = 1
    shots: int = 0


class Intended(_Step, frozen=True, kw_only=True, tag="intended"):
    """The vendor is about to be asked for a job with these requests; `cuts` are their parts.

    It may take so many device `seconds`, by an estimate.
    """

    tag: str
    requests: tuple[str, ...]
    cuts: tuple[Cut, ...]
    seconds: float = 0.0


class Started(_Step, frozen=True, kw_only=True, tag="started"):
    """The vendor has taken the job, under its own `id`."""

    tag: str
    id: str


class Stored(_Step, frozen=True, kw_only=True, tag="stored"):
    """The job's results are in its file."""

    tag: str
    id: str
    usage: Usage


class Voided(_Step, frozen=True, kw_only=True, tag="voided"):
    """The job has no results."""

    tag: str
    error: ErrorRecord
    id: str | None = None
    usage: Usage = Usage()


class Doubted(_Step, frozen=True, kw_only=True, tag="doubted"):
    """Whether the job was started cannot be looked up."""

    tag: str


class Resolved(_Step, frozen=True, kw_only=True, tag="resolved"):
    """A person has decided: its requests may be run, and paid for, once more."""

    tag: str


class Claimed(_Step, frozen=True, kw_only=True, tag="claimed"):
    """A request gets what stands in a place of a vendor job."""

    request: str
    tag: str
    place: int


class Delivered(_Step, frozen=True, kw_only=True, tag="delivered"):
    """A request was given its reply."""

    request: str


class Failed(_Step, frozen=True, kw_only=True, tag="failed"):
    """A request was given an error."""

    request: str
    error: ErrorRecord


class Cancelled(_Step, frozen=True, kw_only=True, tag="cancelled"):
    """Nobody wants a request any more; `died`: because its process has died."""

    request: str
    died: bool = False


class Released(_Step, frozen=True, kw_only=True, tag="released"):
    """An attempt at a task has failed: what it was given is for the next equal requests."""

    attempt: str


class Closed(_Step, frozen=True, kw_only=True, tag="closed"):
    """The owner has ended; nothing comes after this."""


Step = (
    Opened
    | Admitted
    | Intended
    | Started
    | Stored
    | Voided
    | Doubted
    | Resolved
    | Claimed
    | Delivered
    | Failed
    | Cancelled
    | Released
    | Closed
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Step] = msgspec.msgpack.Decoder(Step)


def encode(step: Step) -> bytes:
    """Return a step as msgpack."""
    return _encoder.encode(step)


def decode(data: bytes) -> Step:
    """Return the step in `data`.

    Raises
    ------
    msgspec.DecodeError
        If it is none that this version knows.
    """
    return _decoder.decode(data)

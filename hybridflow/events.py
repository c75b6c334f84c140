"""What happened in a run, as typed records: one stream for progress, pages and reports.

Every process appends to a file of its own in the run's folder (``HYBRIDFLOW_RUN``), a JSON line an
event; :func:`read_events` merges them by time. Times are seconds since the epoch.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from hybridflow import environment

__all__ = [
    "BrokerStarted",
    "BrokerStopped",
    "Event",
    "EventLog",
    "EventReader",
    "Iteration",
    "PhaseEnded",
    "PhaseStarted",
    "RequestRouted",
    "RunEnded",
    "RunStarted",
    "TaskEnded",
    "TaskStarted",
    "VendorJobEnded",
    "VendorJobStarted",
    "event_log",
    "read_events",
]

_log = logging.getLogger(__name__)


def _now() -> float:
    return time.time()


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of all events; `time` is in seconds since the epoch."""

    time: float = msgspec.field(default_factory=_now)


class RunStarted(Event, frozen=True, kw_only=True, tag="run_started"):
    """A workflow began."""

    workflow: str
    engine: str
    resource: str
    arguments: dict[str, Any] = {}


class RunEnded(Event, frozen=True, kw_only=True, tag="run_ended"):
    """A workflow ended; `error` is empty if it ended well."""

    error: str = ""


class PhaseStarted(Event, frozen=True, kw_only=True, tag="phase_started"):
    """A part of a workflow's main line began."""

    phase: str


class PhaseEnded(Event, frozen=True, kw_only=True, tag="phase_ended"):
    """A part of a workflow's main line ended."""

    phase: str


class TaskStarted(Event, frozen=True, kw_only=True, tag="task_started"):
    """A worker began a task; `attempt` is this execution of it, where a task may have several."""

    task: str
    kind: environment.Role
    name: str
    worker: str
    attempt: str = ""


class TaskEnded(Event, frozen=True, kw_only=True, tag="task_ended"):
    """A worker ended a task; `error` is empty if it ended well."""

    task: str
    worker: str
    error: str = ""
    attempt: str = ""


class BrokerStarted(Event, frozen=True, kw_only=True, tag="broker_started"):
    """A broker is ready."""

    resource: str
    backend: str
    broker: str


class BrokerStopped(Event, frozen=True, kw_only=True, tag="broker_stopped"):
    """A broker has drained and released its backend."""

    resource: str
    broker: str
    reason: str = ""


class VendorJobStarted(Event, frozen=True, kw_only=True, tag="vendor_job_started"):
    """A broker started a vendor job with the PUBs of one or more requests.

    `tasks` are the ids of the tasks that sent them (``ClientInfo.task``), where they are known: a
    report shows from them when a quantum task was on the QPU and when it waited.
    """

    resource: str
    vendor_job_id: str
    requests: int
    pubs: int
    tasks: tuple[str, ...] = ()


class VendorJobEnded(Event, frozen=True, kw_only=True, tag="vendor_job_ended"):
    """A vendor job ended; `error` is empty if it ended well."""

    resource: str
    vendor_job_id: str
    qpu_seconds: float
    shots: int
    queue_seconds: float
    error: str = ""


class RequestRouted(Event, frozen=True, kw_only=True, tag="request_routed"):
    """A request has a result by a route; `fallback` says why it fell back, and is empty else."""

    route: str
    resource: str
    simulator: bool
    fallback: str = ""


class Iteration(Event, frozen=True, kw_only=True, tag="iteration"):
    """An iterative workflow finished a round; `values` are the figures that it reports."""

    number: int
    values: dict[str, float]


AnyEvent = (
    RunStarted
    | RunEnded
    | PhaseStarted
    | PhaseEnded
    | TaskStarted
    | TaskEnded
    | BrokerStarted
    | BrokerStopped
    | VendorJobStarted
    | VendorJobEnded
    | RequestRouted
    | Iteration
)

_decoder = msgspec.json.Decoder(AnyEvent)
_encoder = msgspec.json.Encoder()


class EventLog:
    """Appends events to this process's file in a run's folder; without a folder, drops them.

    Safe to use from several threads and across a fork (the child opens a file of its own). A full
    disk costs the record of what happened, never the result of a task or of a vendor job: what
    cannot be written is dropped, and the first time that is said in the log.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self._folder = Path(folder) if folder else None
        self._lock = threading.Lock()
        self._descriptor = -1
        self._pid = 0
        self._complained = False

    def emit(self, event: Event) -> None:
        """Append one event; durable against the death of this process, not of the machine."""
        if self._folder is None:
            return
        with self._lock:
            try:
                if self._pid != os.getpid():
                    self._open(self._folder)
                os.write(self._descriptor, _encoder.encode(event) + b"\n")
            except OSError as error:
                if not self._complained:
                    _log.warning("events of the run in %s are lost: %s", self._folder, error)
                self._complained = True

    def _open(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder / f"events-{socket.gethostname()}-{os.getpid()}.jsonl"
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._pid = os.getpid()

    def close(self) -> None:
        """Close the file, if this process opened one."""
        with self._lock:
            if self._descriptor >= 0 and self._pid == os.getpid():
                os.close(self._descriptor)
            self._descriptor, self._pid = -1, 0


_logs: dict[str, EventLog] = {}


def _after_fork() -> None:
    # A thread of the parent may have held the lock, and is not here to let go of it.
    for log in _logs.values():
        log._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def event_log() -> EventLog:
    """Return the log of the run in ``HYBRIDFLOW_RUN``; without one, it drops what it is given."""
    folder = os.environ.get(environment.RUN, "")
    if folder not in _logs:
        _logs[folder] = EventLog(folder)
    return _logs[folder]


def read_events(
    folder: str | os.PathLike[str],
    *,
    on_damage: Callable[[Path, int], None] | None = None,
) -> list[Event]:
    """Return all events of a run, by time.

    Parameters
    ----------
    folder
        The run's folder.
    on_damage
        Called with the file and the number (from 1) of each line that cannot be read, which is then
        left out. Without it, a torn last line (its writer was killed) is left out in silence.

    Raises
    ------
    msgspec.DecodeError
        Without `on_damage`: for any other line that is no event.
    """
    events: list[Event] = [
        event
        for file in sorted(Path(folder).glob("events-*.jsonl"))
        for event in _read(file, on_damage)
    ]
    return sorted(events, key=lambda event: event.time)


class EventReader:
    """Reads the events of a run while they are written: each time those that are new.

    Parameters
    ----------
    folder
        The run's folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._read_bytes: dict[Path, int] = {}

    def read(self) -> list[Event]:
        """Return what has been written since the last call, by time.

        A line that is still being written is left for the next call; one that is no event is left
        out.
        """
        events: list[Event] = []
        for file in sorted(self._folder.glob("events-*.jsonl")):
            with file.open("rb") as stream:
                stream.seek(self._read_bytes.get(file, 0))
                whole = stream.read().rpartition(b"\n")[0]
            if whole:
                self._read_bytes[file] = self._read_bytes.get(file, 0) + len(whole) + 1
                events += _decoded(whole)
        return sorted(events, key=lambda event: event.time)


def _decoded(lines: bytes) -> Iterator[Event]:
    for line in filter(None, lines.split(b"\n")):
        # A writer that was killed and has come back leaves half a line; newer ones, other events.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            yield _decoder.decode(line)


def _read(file: Path, on_damage: Callable[[Path, int], None] | None) -> Iterator[Event]:
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            if line:
                yield _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            if on_damage is not None:
                on_damage(file, number)
            # Only the last line can be torn; anything else is damage that must be seen.
            elif number != len(lines):
                raise

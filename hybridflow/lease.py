"""The driver's lease: a file that says "I am still here", on any node that shares the folder.

A driver (the process of a workflow) holds the lease; keepers on this node and on others watch it
and end their command when it is lost. On the holder's own machine its death is seen at once,
through the operating system. Elsewhere the counter in the file tells, which the holder advances
every few seconds, measured by the watcher's own clock: clocks are never compared. A lease that was
released (its file removed) ends the commands too.
"""

import atexit
import json
import os
import select
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from hybridflow import reaper

__all__ = ["BEAT_SECONDS", "LEASE_SECONDS", "Lease", "Watch"]

BEAT_SECONDS = 5.0
"""Time between two beats of a holder's counter, in seconds."""

LEASE_SECONDS = 60.0
"""Time without news after which a lease is lost, in seconds."""

_SIZE = 512


class _Holder(NamedTuple):
    host: str
    machine: str
    pid: int
    start: int
    counter: int

    def encode(self) -> bytes:
        # Of one size, so that a beat overwrites the file in place: one that was removed stays so.
        return json.dumps(self._asdict()).ljust(_SIZE - 1).encode() + b"\n"

    @classmethod
    def decode(cls, text: bytes) -> "Self | None":
        # A beat that is half written is no news, good or bad.
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None


def _machine() -> str:
    # Where a process id means the same process: one boot of one kernel, one namespace of ids.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def _this_process() -> _Holder:
    own = reaper.process(os.getpid())
    assert own is not None
    return _Holder(socket.gethostname(), _machine(), own.pid, own.start, 0)


class Lease:
    """A held lease; :meth:`hold` makes it. A context manager: leaving it releases the lease."""

    def __init__(self, path: Path, holder: _Holder, beat_seconds: float) -> None:
        self.path = path
        self._holder = holder
        self._beat_seconds = beat_seconds
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="hybridflow-lease", daemon=True)

    @classmethod
    def hold(cls, path: str | os.PathLike[str], *, beat_seconds: float = BEAT_SECONDS) -> Self:
        """Make the lease file and keep it fresh until it is closed or this process ends.

        Parameters
        ----------
        path
            A file (mode 0600) in a folder that all watchers share; it must not exist.
        beat_seconds
            Time between two beats, in seconds.

        Raises
        ------
        InputError
            If the file exists, or if it cannot be made.
        """
        file, holder = Path(path).absolute(), _this_process()
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            # Imported here: a keeper starts faster without it.
            from hybridflow.errors import InputError

            raise InputError(
                f"the lease {file} cannot be held: {error.strerror}; each driver needs a file of "
                "its own (remove one that a dead driver has left)"
            ) from error
        try:
            os.write(descriptor, holder.encode())
        finally:
            os.close(descriptor)
        lease = cls(file, holder, beat_seconds)
        atexit.register(lease.close)
        lease._thread.start()
        return lease

    def close(self) -> None:
        """Release the lease: stop beating and remove the file. May be called twice."""
        if self._holder.pid != os.getpid() or self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _beat(self) -> None:
        holder = self._holder
        while not self._released.wait(self._beat_seconds):
            holder = holder._replace(counter=holder.counter + 1)
            try:
                _overwrite(self.path, holder.encode())
            except FileNotFoundError:
                return  # somebody has released the lease for us
            except OSError:
                continue  # a shared folder in trouble: the next beat may get through


def _overwrite(file: Path, content: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


class Watch:
    """Somebody else's lease, watched.

    Parameters
    ----------
    path
        The lease file.
    lease_seconds
        Time without news after which a lease held on another machine is lost, in seconds.

    Attributes
    ----------
    pidfd
        On the holder's machine: becomes readable when the holder ends. None elsewhere.
    interval_seconds
        How often :meth:`lost` should be asked, in seconds.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self.path = Path(path).absolute()
        self.pidfd: int | None = None
        self.interval_seconds = min(1.0, lease_seconds / 4)
        self._lease_seconds = lease_seconds
        self._machine = _machine()
        self._last: _Holder | None = None
        self._news = time.monotonic()

    def lost(self) -> str | None:
        """Return why the lease is lost; None while it is held."""
        try:
            holder = _Holder.decode(self.path.read_bytes())
        except FileNotFoundError:
            return f"the driver's lease {self.path} was released"
        except OSError:
            holder = None  # a shared folder in trouble says nothing of the driver
        first = self._last is None
        if holder is not None and holder != self._last:
            self._last, self._news = holder, time.monotonic()
            if first and holder.machine == self._machine:
                self.pidfd = _open_holder(holder)
                if self.pidfd is None:
                    return self._gone(holder)
        if self.pidfd is not None and self._last is not None:
            return self._gone(self._last) if _readable(self.pidfd, 0) else None
        if time.monotonic() - self._news > self._lease_seconds:
            return (
                f"the driver's lease {self.path} is lost: no sign of life from "
                f"{self._last.host if self._last else 'its holder'} for {self._lease_seconds:g} s"
            )
        return None

    def wait(self, timeout: float) -> str | None:
        """Return why the lease is lost as soon as it is; None after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (reason := self.lost()) is None:
            left = min(deadline - time.monotonic(), self.interval_seconds)
            if left <= 0:
                return None
            if self.pidfd is None:
                time.sleep(left)
            else:
                _readable(self.pidfd, left)
        return reason

    def close(self) -> None:
        """Stop watching."""
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None

    def _gone(self, holder: _Holder) -> str:
        return f"the driver (process {holder.pid} on {holder.host}), holder of {self.path}, is gone"


def _open_holder(holder: _Holder) -> int | None:
    # None if the process is gone, also when its id has passed to another one.
    try:
        handle = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return None
    now = reaper.process(holder.pid)
    if now is None or now.start != holder.start:
        os.close(handle)
        return None
    return handle


def _readable(handle: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(seconds * 1000))

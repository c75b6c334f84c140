"""A broker's process, as the door holds it: started, watched, restarted, drained, killed."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from hybridflow import environment
from hybridflow.broker import protocol
from hybridflow.broker.place import check_folder, check_path, socket_path
from hybridflow.broker.protocol import Deadline, Drain, Ready, Start
from hybridflow.errors import AcquireError, BrokerLostError
from hybridflow.records import Resource

__all__ = ["BrokerProcess", "socket_path"]

_START_SECONDS = 600.0
_GRACE_SECONDS = 5.0


class BrokerProcess:
    """The broker of one resource, in a process and a session of its own.

    It ends when this process does, whatever ends it. Safe to use from several threads.

    Parameters
    ----------
    resource
        The resource.
    credentials
        Handed over through a pipe; they stand in no argument, file or environment.
    folder
        Where the socket lies and the log (``NAME.log``): a folder of this user with mode 0700.
    run
        The run's folder, where the broker writes its events.
    drain_seconds
        Time for what is under way when the broker gets SIGTERM, or when this process dies.
    deadline
        Unix time at which the slot ends, if it does: no vendor job is started that cannot end then.
    ended_jobs
        Slurm jobs that have ended: what their brokers have left behind in the run is taken over.
    """

    def __init__(
        self,
        resource: Resource,
        credentials: Mapping[str, str],
        folder: str | os.PathLike[str],
        run: str | os.PathLike[str] | None = None,
        *,
        drain_seconds: float = 20.0,
        deadline: float | None = None,
        ended_jobs: Collection[str] = (),
    ) -> None:
        self._resource = resource
        self._credentials = dict(credentials)
        self._folder = Path(folder)
        self._run = run
        self._drain_seconds = drain_seconds
        self._deadline = deadline
        self._ended_jobs = tuple(ended_jobs)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Path of the broker's socket."""
        return socket_path(self._folder, self._resource.name)

    @property
    def log(self) -> Path:
        """Path of the broker's log."""
        return self._folder / f"{self._resource.name}.log"

    @property
    def pid(self) -> int:
        """Process id; 0 before the first start."""
        return self._process.pid if self._process else 0

    def start(self, timeout_seconds: float = _START_SECONDS) -> None:
        """Start the broker and wait until it serves.

        Raises
        ------
        AcquireError
            If the resource cannot be had, or not within `timeout_seconds`.
        SiteError
            If the folder is not private, or its path too long for a socket.
        HybridflowError
            Whatever else kept the broker from starting, as it said itself.
        """
        check_folder(self._folder)
        check_path(self.socket)
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                raise RuntimeError(f"the broker of {self._resource.name!r} is already running")
            self._process = process = self._launch()
            self._hand_over(process)
        try:
            self._await_ready(process, timeout_seconds)
        except BaseException:
            self.kill()
            raise

    def _launch(self) -> "subprocess.Popen[bytes]":
        variables = environment.clean(os.environ)
        if self._run is not None:
            variables[environment.RUN] = os.fspath(self._run)
        variables[environment.SESSION] = environment.session(os.environ)
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(
                # -P: what happens to lie in the working directory must not be imported.
                [sys.executable, "-P", "-m", "hybridflow.broker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=variables,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def _hand_over(self, process: "subprocess.Popen[bytes]") -> None:
        start = Start(
            self._resource,
            self._credentials,
            str(self._folder.absolute()),
            self._drain_seconds,
            self._deadline,
            self._ended_jobs,
        )
        self._tell(process, protocol.frame(start))

    def _tell(self, process: "subprocess.Popen[bytes]", data: bytes) -> None:
        assert process.stdin is not None
        # A broker that has ended: seen, and said, by whoever waits for its answer or its end.
        with contextlib.suppress(BrokenPipeError, ValueError):
            process.stdin.write(data)
            process.stdin.flush()

    def _await_ready(self, process: "subprocess.Popen[bytes]", timeout_seconds: float) -> None:
        assert process.stdout is not None
        until = time.monotonic() + timeout_seconds
        line = b""
        with process.stdout as stdout:
            while not line.endswith(b"\n"):
                left = max(0.0, until - time.monotonic())
                if not select.select([stdout], [], [], left)[0]:
                    raise AcquireError(
                        f"the broker of {self._resource.name!r} did not acquire its resource in "
                        f"{timeout_seconds:g} s; see {self.log}",
                        transient=True,
                        resource=self._resource.name,
                    )
                data = os.read(stdout.fileno(), 65536)
                if not data:
                    break
                line += data
        if not line.endswith(b"\n"):
            raise BrokerLostError(
                f"the broker of {self._resource.name!r} ended before it was ready (exit status "
                f"{process.wait()}); see {self.log}",
                resource=self._resource.name,
            )
        error = msgspec.json.decode(line, type=Ready).error
        if error is not None:
            self.wait(_GRACE_SECONDS)
            raise error.error()

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """Wait for the process's end; return its exit status, or None if it has not ended in time.

        0: drained; -n: ended by signal n; anything else: it gave up.
        """
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None

    def restart(self, timeout_seconds: float = _START_SECONDS) -> None:
        """Start it again, after ending what is left of it; raises what :meth:`start` raises."""
        self.kill()
        self.start(timeout_seconds)

    def set_deadline(self, at: float | None) -> None:
        """Tell the broker, and any that takes its place, that the slot ends at another time.

        `at` is in Unix time; None: it has no end.
        """
        with self._lock:  # not before a broker that is just being started has its configuration
            self._deadline = at
            if self._process is not None:
                self._tell(self._process, protocol.frame(Deadline(at)))

    def drain(self, timeout_seconds: float) -> bool:
        """Have what is under way ended, then the process; False if it has not ended in time.

        The broker takes no more requests; what has not ended after `timeout_seconds` fails with a
        transient error.
        """
        process = self._process
        if process is None:
            return True
        self._tell(process, protocol.frame(Drain(timeout_seconds)))
        ended = self.wait(timeout_seconds + _GRACE_SECONDS) is not None
        if ended:
            self._close_pipe(process)
        return ended

    def kill(self) -> None:
        """End the process, and all it has started, at once; nothing if it has ended."""
        process = self._process
        if process is None:
            return
        # It leads a group of its own, with whatever its backend has started; a backend's own
        # process dies with it. Another thread, which waits for its end, may see that end first.
        with contextlib.suppress(ProcessLookupError):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._close_pipe(process)

    def _close_pipe(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()

"""One daemon of a local cluster, under a reaper of its own that ends with the cluster's maker.

::

    maker ── control socket ──► reaper (hybridflow/reaper.py) ──► slurmd ──► slurmstepd ──► jobs
      if the maker closes the socket, or is killed, the reaper ends everything below it
"""

import contextlib
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from hybridflow import reaper

__all__ = ["Daemon"]

_TAIL_LINES = 15


class Daemon:
    """A running daemon and all that it has started.

    Parameters
    ----------
    name
        What people call it: ``slurmctld``, ``slurmd-q1``.
    command
        Program and arguments; it must stay in the foreground.
    environment
        Its whole environment.
    log
        Where its output is appended.
    keep_open
        A descriptor that it and its children inherit: how the sweeper knows that they live.
    umask
        Its umask.
    grace_seconds
        Time between SIGTERM and SIGKILL for it and what it has started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log: Path,
        keep_open: int,
        umask: int,
        grace_seconds: float,
    ) -> None:
        self.name = name
        self.log = log
        self._status: int | None = None
        self._control, theirs = socket.socketpair()
        try:
            with theirs, log.open("ab") as output:
                self._reaper = subprocess.Popen(
                    [
                        *(sys.executable, "-I", "-S", reaper.__file__, str(theirs.fileno())),
                        # A process group of its own: the terminal's Ctrl-C is not for the daemons.
                        *("0", str(grace_seconds), "", *command),
                    ],
                    env=dict(environment),
                    pass_fds=[theirs.fileno(), keep_open],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    umask=umask,
                    process_group=0,
                )
        except BaseException:
            self._control.close()
            raise
        self._control.sendall(bytes([reaper.GO]))

    def exit_status(self) -> int | None:
        """Return the daemon's exit status; None while it runs."""
        if self._status is None and _readable(self._control, 0):
            self._status = self._answer()
        return self._status

    def tail(self) -> str:
        """Return the end of the daemon's log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def kill(self) -> None:
        """End it and all that it has started by SIGKILL, at once, as if its node lost power."""
        below = psutil.Process(self._reaper.pid)
        while children := _alive(below.children(recursive=True)):
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            psutil.wait_procs(children, timeout=1)
        self.close()

    def let_go(self) -> None:
        """Have everything ended in good order, SIGTERM first. May be called twice."""
        with contextlib.suppress(OSError):  # the reaper is gone, or this is the second call
            # Not close() alone: a process that the maker has forked may hold the socket too.
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()

    def close(self) -> None:
        """Have everything ended, and wait for it. May be called twice."""
        self.let_go()
        self._reaper.wait()

    def _answer(self) -> int:
        with contextlib.suppress(ConnectionResetError):
            answer = self._control.recv(1)
            if answer:
                return answer[0]
        return 128 + signal.SIGKILL


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    alive = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


def _readable(control: socket.socket, seconds: float) -> bool:
    poller = select.poll()
    poller.register(control, select.POLLIN)
    return bool(poller.poll(seconds * 1000))

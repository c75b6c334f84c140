"""The keeper: runs a command under a reaper, so that nothing of it outlives whoever started it.

::

    keeper ──► reaper ──► COMMAND ──► …
       if the keeper is killed, the reaper ends all below it;
       if the reaper is killed, its orphans land at the keeper, which ends them.

It passes signals on to the command and the command's exit status back, and it ends the command when
the driver's lease is lost (``lease.py``). The door (``door.py``) is a keeper with a broker beside
it; ``python -m hybridflow.keeper [--lease FILE] [--role ROLE] -- COMMAND`` is one without, for
classical workers and for an engine's own processes, which get a clean environment too.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hybridflow import reaper

if TYPE_CHECKING:
    from hybridflow.lease import Watch

__all__ = ["GRACE_SECONDS", "LOST", "Keeper", "main"]

GRACE_SECONDS = 10.0
"""Time that a process has between SIGTERM and SIGKILL, in seconds."""

LOST = 128 + signal.SIGTERM
"""Exit status when the command was ended because a lease was lost: as if by SIGTERM."""


class Keeper:
    """One command and all that it leaves behind; a context manager, for the main thread.

    Parameters
    ----------
    command
        Program and arguments.
    environment
        The command's environment.
    folder
        A folder that is removed at the end, even if this process is killed.
    lease
        Ends the command when it is lost.
    grace_seconds
        Time between SIGTERM and SIGKILL for what has to be ended.

    Notes
    -----
    Meant for a process of its own: it becomes the parent of all orphans below it and, at the end,
    ends all its children but those it had before.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        folder: str = "",
        lease: "Watch | None" = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._command = list(command)
        self._environment = environment
        self._folder = folder
        self._lease = lease
        self._grace_seconds = grace_seconds
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start the reaper; the command itself waits for :meth:`run`."""
        own = os.getpid()
        seen = reaper.processes().values()
        self._spare = frozenset(process.pid for process in seen if process.parent == own)
        reaper.become_subreaper()
        self._signals = self._stack.enter_context(reaper.noted_signals())
        self._control, theirs = socket.socketpair()
        theirs.set_inheritable(True)
        try:
            self._reaper = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", reaper.__file__),
                    *(str(theirs.fileno()), str(os.getpgrp())),
                    *(str(self._grace_seconds), self._folder, *self._command),
                ],
                env=dict(self._environment),
                # What the caller's shell has opened for the command (`<(...)`) must reach it.
                close_fds=False,
                process_group=0,
            )
        except BaseException:
            self._control.close()
            self._stack.close()
            raise
        finally:
            theirs.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the reaper end what is left; when it was killed, do it here."""
        self._control.close()
        self._reaper.wait()
        left = reaper.end_descendants(self._grace_seconds, self._spare)
        if left:
            _report(f"these processes are not ours to end: {', '.join(map(str, left))}")
        if self._folder:
            reaper.remove_folder(self._folder)
        self._stack.close()

    def run(self, stop: int | None = None) -> int:
        """Start the command and wait for its end.

        Parameters
        ----------
        stop
            A descriptor; when there is something to read from it, the command is ended.

        Returns
        -------
        int
            The command's exit status; 128 + n if signal n ended it; 127 if it was not found, 126 if
            it could not be started; :data:`LOST` if it was ended here.
        """
        if self._lease_lost():
            return LOST
        self._order(reaper.GO)
        poller = select.poll()
        for descriptor in (self._control.fileno(), self._signals, stop):
            if descriptor is not None:
                poller.register(descriptor, select.POLLIN)
        if self._lease is not None and self._lease.pidfd is not None:
            poller.register(self._lease.pidfd, select.POLLIN)
        milliseconds = self._lease.interval_seconds * 1000 if self._lease else None
        while True:
            ready = {descriptor for descriptor, _ in poller.poll(milliseconds)}
            if self._control.fileno() in ready:
                return self._status()
            if self._signals in ready:
                self._pass_on(reaper.drained(self._signals))
            if stop in ready or self._lease_lost():
                return self._end()

    def _lease_lost(self) -> bool:
        reason = self._lease.lost() if self._lease else None
        if reason:
            _report(reason)
        return reason is not None

    def _pass_on(self, signals: bytes) -> None:
        for number in signals:
            if number in reaper.PASSED_ON:
                self._order(number)

    def _order(self, number: int) -> None:
        # A reaper that is gone is noticed, and dealt with, where its answer is read.
        with contextlib.suppress(BrokenPipeError):
            self._control.sendall(bytes([number]))

    def _end(self) -> int:
        self._control.shutdown(socket.SHUT_WR)
        self._status()
        return LOST

    def _status(self) -> int:
        with contextlib.suppress(ConnectionResetError):
            answer = self._control.recv(1)
            if answer:
                return answer[0]
        _report("the reaper of the command was killed: its processes are ended")
        return 128 + signal.SIGKILL


def _report(text: str) -> None:
    print(f"hybridflow: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m hybridflow.keeper``; returns the command's exit status."""
    import argparse

    from hybridflow import environment
    from hybridflow.lease import Watch

    parser = argparse.ArgumentParser(
        prog="python -m hybridflow.keeper",
        description="Run COMMAND, and end all that it started when it, this process or the "
        "driver's lease ends.",
        epilog="example: python -m hybridflow.keeper --lease run/driver.lease -- worker --port 1",
    )
    parser.add_argument("--lease", metavar="FILE", help="end COMMAND when this lease is lost")
    parser.add_argument(
        "--role",
        type=environment.Role,
        choices=list(environment.Role),
        help="start COMMAND in the environment of such a worker",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help="time between SIGTERM and SIGKILL (%(default)s)",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    chosen = parser.parse_args(arguments)
    command = chosen.command[1:] if chosen.command[:1] == ["--"] else chosen.command
    if not command:
        parser.error("there is no COMMAND; put it after --")
    # Credentials are nobody's here: what needs them is started by the door.
    variables = environment.clean(os.environ, chosen.role)
    lease = Watch(chosen.lease) if chosen.lease else None
    with Keeper(command, variables, lease=lease, grace_seconds=chosen.grace) as keeper:
        return keeper.run()


if __name__ == "__main__":
    sys.exit(main())

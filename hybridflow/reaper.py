"""The reaper: the parent of a command, which leaves nothing of it behind, whoever is killed.

::

    keeper (or the door) ── control socket ──► reaper ──► COMMAND ──► children, daemons, …
         signals to pass on, end of file ──►        ◄── the command's exit status

It adopts every orphan below it (it is a *child subreaper*), so that a process which has left the
command's session and group is still found. When the command has ended, or the other end of the
control socket is gone, it ends what is left. It stands in a process group of its own: neither the
terminal nor a ``kill`` of the whole group reaches it; the command stays in its keeper's group.

Run by path (``python -I -S reaper.py``) and made of the standard library alone, it starts in some
20 ms and nothing in the user's environment can break it.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["GO", "PASSED_ON", "become_subreaper", "end_descendants", "processes", "remove_folder"]

GO = 0
"""Order of the keeper: start the command. Every other order is the number of a signal."""

PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that are passed on to the command."""

OUTLIVED = (*PASSED_ON, signal.SIGINT, signal.SIGQUIT)
"""Signals that do not end a keeper or a reaper (the terminal sends the last two to the command)."""

_PR_SET_CHILD_SUBREAPER = 36
_RESCAN_SECONDS = 0.5
_WATCHED = 256
_ECHO_SECONDS = 1.0


class Process(NamedTuple):
    """A process as the kernel lists it; `start` tells it from a later one with the same id."""

    pid: int
    parent: int
    start: int
    state: str


def processes() -> dict[int, Process]:
    """Return all processes of this machine that can be seen."""
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {seen.pid: seen for seen in found if seen is not None}


def process(pid: int) -> Process | None:
    """Return one process; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may itself hold blanks and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Process(pid, int(fields[1]), int(fields[19]), fields[0].decode())


def become_subreaper() -> None:
    """Make this process the parent of every orphan below it.

    Raises
    ------
    OSError
        If the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def end_descendants(grace_seconds: float, spare: frozenset[int] = frozenset()) -> list[int]:
    """End everything below this process: SIGTERM, and after a while SIGKILL, until nothing is left.

    Parameters
    ----------
    grace_seconds
        Time between the two signals.
    spare
        Children of this process that live on, with all below them.

    Returns
    -------
    list of int
        Processes that this user may not end (of another user, say).
    """
    deadline = time.monotonic() + grace_seconds
    told: set[tuple[int, int]] = set()
    while strays := _reap(_descendants(spare)):
        patience = deadline - time.monotonic()
        if patience > 0:
            for stray in strays:
                if (stray.pid, stray.start) not in told:
                    # A stopped process would not see the first without the second.
                    _send(stray, signal.SIGTERM)
                    _send(stray, signal.SIGCONT)
            told |= {(stray.pid, stray.start) for stray in strays}
        elif not any([_send(stray, signal.SIGKILL) for stray in strays]):
            return [stray.pid for stray in strays]
        _await_any(strays, min(patience, _RESCAN_SECONDS) if patience > 0 else _RESCAN_SECONDS)
    return []


def _descendants(spare: frozenset[int]) -> list[Process]:
    children: dict[int, list[Process]] = {}
    for seen in processes().values():
        children.setdefault(seen.parent, []).append(seen)
    found: list[Process] = []
    parents = [os.getpid()]
    while parents:
        below = [seen for seen in children.get(parents.pop(), []) if seen.pid not in spare]
        found += below
        parents += [seen.pid for seen in below]
    return found


def _reap(found: list[Process]) -> list[Process]:
    # Those still alive. A dead one that is not our child becomes ours when its parent ends.
    alive = []
    for seen in found:
        if seen.state not in "ZX":
            alive.append(seen)
        elif seen.parent == os.getpid():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(seen.pid, os.WNOHANG)
    return alive


def _send(target: Process, number: int) -> bool:
    # False if this user may not. The handle is opened before the identity is checked: the id may
    # have passed to another process since the list was made.
    try:
        handle = os.pidfd_open(target.pid)
    except ProcessLookupError:
        return True
    try:
        now = process(target.pid)
        if now is not None and now.start == target.start:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    finally:
        os.close(handle)
    return True


def _await_any(found: list[Process], seconds: float) -> None:
    poller = select.poll()
    with contextlib.ExitStack() as handles:
        for seen in found[:_WATCHED]:
            try:
                handle = os.pidfd_open(seen.pid)
            except ProcessLookupError:
                return
            handles.callback(os.close, handle)
            poller.register(handle, select.POLLIN)
        poller.poll(seconds * 1000)


def remove_folder(folder: str) -> None:
    """Remove a broker's folder with what is in it; no error if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
        os.rmdir(folder)


@contextlib.contextmanager
def noted_signals(*extra: signal.Signals) -> Iterator[int]:
    """Write the numbers of signals that arrive to a pipe, instead of dying of them.

    A signal that was ignored from the start (``nohup``) stays so, also for the command.

    Yields
    ------
    int
        The reading end: one byte a signal, never blocking.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    noted = [n for n in (*OUTLIVED, *extra) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: None) for number in noted}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def drained(reader: int) -> bytes:
    """Return the signals noted since the last call, one byte each; may be empty."""
    with contextlib.suppress(BlockingIOError):
        return os.read(reader, 4096)
    return b""


def exit_status(wait_status: int) -> int:
    """Return a program's exit status as a shell would: ``128 + n`` for one that signal n ended."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


class _Reaper:
    def __init__(self, control: int, group: int, command: list[str]) -> None:
        self._control = control
        self._group = group
        self._command = command
        self._felt: dict[int, float] = {}
        # It stands in the background of a terminal, and may have something to say there.
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})

    def run(self) -> int | None:
        """Return the command's exit status; None if the keeper was gone before its end."""
        with noted_signals(signal.SIGCHLD) as signals:
            if _received(self._control, 1) != bytes([GO]):
                return None
            try:
                child = self._spawn()
            except OSError as error:
                print(f"hybridflow: {self._command[0]}: {error.strerror}", file=sys.stderr)
                return 127 if isinstance(error, FileNotFoundError) else 126
            return self._watch(child, signals)

    def _spawn(self) -> int:
        return os.posix_spawnp(
            self._command[0],
            self._command,
            os.environ,
            setpgroup=self._group,
            setsigmask=self._mask,
            # Python ignores these two; a program expects them as they were.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )

    def _watch(self, child: int, signals: int) -> int | None:
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(signals, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poller.poll()}
            # Always: a signal may come between the poll's look at its pipe and its return.
            self._felt |= dict.fromkeys(drained(signals), time.monotonic())
            if self._control in ready:
                orders = _received(self._control)
                if not orders:
                    return None
                for order in orders:
                    self._pass_on(order, child)
            status = _reap_until(child)
            if status is not None:
                return status

    def _pass_on(self, number: int, child: int) -> None:
        # What the reaper feels itself was sent to every process here (as Slurm does): the command
        # has had it, and a second one would break into its clean-up.
        if time.monotonic() - self._felt.get(number, -_ECHO_SECONDS) >= _ECHO_SECONDS:
            os.kill(child, number)
            if number in (signal.SIGTERM, signal.SIGHUP):
                # A stopped process would not see the first without the second.
                os.kill(child, signal.SIGCONT)


def _received(control: int, size: int = 4096) -> bytes:
    # A keeper that was killed before it read its answer resets the connection.
    with contextlib.suppress(ConnectionResetError):
        return os.read(control, size)
    return b""


def _reap_until(child: int) -> int | None:
    # Collects all dead children, adopted ones too; the exit status of `child` if it is among them.
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                return exit_status(status)
            if pid == 0:
                break
    return None


def main(arguments: list[str]) -> None:
    """Run one command; `arguments` are what :class:`hybridflow.keeper.Keeper` passes."""
    control, group, grace, folder, *command = arguments
    descriptor = int(control)
    os.set_inheritable(descriptor, False)
    become_subreaper()
    status = _Reaper(descriptor, int(group), command).run()
    end_descendants(float(grace))
    # The keeper may be gone by now, and then nobody asks.
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, bytes([128 + signal.SIGTERM if status is None else status]))
    while _received(descriptor):
        pass
    if folder:
        remove_folder(folder)


if __name__ == "__main__":
    main(sys.argv[1:])

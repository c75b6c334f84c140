"""A command under a keeper or a door, seen from outside: who is in it, and when all have ended.

Every process of the family inherits the writing end of one pipe. The command and its children
write down who they are; the end of the pipe is the end of the last process that has not closed it,
and process descriptors tell of those that have (daemons).
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE_SECONDS = 30.0

CHILD = """\
import os, signal, sys, time
tell = int(os.environ["TELL"])
def say(word):
    os.write(tell, f"{word} {os.getpid()}\\n".encode())
def daemon(word, *, deaf=False):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if deaf:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            say(word)
            os.close(tell)
            time.sleep(600)
        os._exit(0)
"""
"""What test commands begin with: `say` announces a process, `daemon` starts one that has left."""


class Family:
    """A started command with all its descendants."""

    def __init__(self, process: "subprocess.Popen[bytes]", reader: int) -> None:
        self.process = process
        self.members: dict[str, int] = {}
        self._handles: dict[str, int] = {}
        self._reader = reader
        self._text = b""

    def wait_for(self, *words: str) -> None:
        """Wait until processes have announced themselves under these words."""
        while not set(words) <= set(self.members):
            data = self._read()
            assert data, f"ended before {set(words) - set(self.members)} came; stderr above"
            *lines, self._text = (self._text + data).split(b"\n")
            for line in lines:
                word, pid = line.decode().split()
                self.watch(word, int(pid))

    def watch(self, word: str, pid: int) -> None:
        """Add a process that was found in another way."""
        self.members[word] = pid
        with suppress(ProcessLookupError):  # it may have said its last word
            self._handles[word] = os.pidfd_open(pid)

    def kill(self, word: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one process."""
        os.kill(self.members[word], number)

    def wait_gone(self, *words: str) -> None:
        """Wait until processes have ended: those named, or all that there are."""
        for word in words or self._handles:
            handle = self._handles.get(word)
            assert handle is None or readable(handle), f"{word} lives on"
        if not words:
            while self._read():
                pass

    def close(self) -> None:
        """End what a failed test has left, so that it fails alone."""
        for handle in self._handles.values():
            if not readable(handle, 0):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        os.close(self._reader)

    def _read(self) -> bytes:
        assert readable(self._reader), "nothing was said in time, and not all have ended"
        return os.read(self._reader, 4096)


def readable(descriptor: int, seconds: float = PATIENCE_SECONDS) -> bool:
    """Wait for something to read, the end of a pipe, or the end of a process."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


@contextmanager
def family(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    stderr: int | None = None,
) -> Iterator[Family]:
    """Start a program, in a session of its own, that runs a command and watches over it."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    variables = {**(os.environ if environment is None else environment), "TELL": str(writer)}
    process = subprocess.Popen(
        arguments, env=variables, pass_fds=[writer], start_new_session=True, stderr=stderr
    )
    os.close(writer)
    started = Family(process, reader)
    try:
        yield started
    finally:
        started.close()


def python(body: str) -> list[str]:
    """Return a command: a Python program that begins with :data:`CHILD`."""
    return [sys.executable, "-I", "-S", "-c", CHILD + body]


def children(pid: int) -> list[int]:
    """Return the processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def eventually(condition: "object", seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until `condition()` holds, for what the system has no event for."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)

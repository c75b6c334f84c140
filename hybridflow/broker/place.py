"""Where a broker's socket lies, and whether that place is private.

A slot's folder belongs to its user and has mode 0700: who can reach a socket in it may use the QPU,
and see what others run on it.
"""

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from hybridflow.errors import AcquireError, BrokerLostError, SiteError
from hybridflow.kernel import process_born

__all__ = ["MAX_PATH_BYTES", "check_folder", "check_path", "lock", "server_of", "socket_path"]

MAX_PATH_BYTES = 107
"""Length of a Unix socket's path at most, in bytes."""


def socket_path(folder: str | os.PathLike[str], resource: str) -> Path:
    """Return the path of the socket of a resource's broker in a slot's folder."""
    return Path(folder) / f"{resource}.sock"


def check_path(socket: Path) -> None:
    """Refuse a path that the operating system would refuse, or cut.

    Raises
    ------
    SiteError
        If it is longer than :data:`MAX_PATH_BYTES`.
    """
    length = len(os.fsencode(socket))
    if length > MAX_PATH_BYTES:
        raise SiteError(
            f"the socket's path {socket} has {length} bytes; the operating system allows "
            f"{MAX_PATH_BYTES}: set TMPDIR to a shorter folder, or shorten the resource's name"
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not there, or that others could get into.

    Raises
    ------
    BrokerLostError
        If it is not there: the slot has ended.
    SiteError
        If it is not a folder of this user with mode 0700.
    """
    try:
        seen = os.lstat(folder)
    except FileNotFoundError as error:
        raise BrokerLostError(
            f"the broker's folder {folder} does not exist (any more): the slot has ended; run the "
            "task in a slot (`hybridflow slot run -- COMMAND`)"
        ) from error
    if not stat.S_ISDIR(seen.st_mode):
        raise SiteError(f"{folder} is no folder; a broker's sockets need one of their own")
    if seen.st_uid != os.geteuid():
        raise SiteError(
            f"the broker's folder {folder} belongs to user {seen.st_uid}, not to {os.geteuid()}: "
            "use a folder of your own"
        )
    if stat.S_IMODE(seen.st_mode) != 0o700:
        raise SiteError(
            f"the broker's folder {folder} has mode {stat.S_IMODE(seen.st_mode):04o}; others could "
            "get in: make it 0700"
        )


def lock(socket: Path) -> int:
    """Make sure that only one broker serves a socket; the lock ends with the process.

    The lock's file says which process that is.

    Returns
    -------
    int
        The descriptor that holds the lock.

    Raises
    ------
    AcquireError
        If another broker serves it.
    """
    descriptor = os.open(_lock_file(socket), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise AcquireError(
            f"another broker serves {socket}: end it first, or use another folder"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {process_born(os.getpid())}".encode(), 0)
    return descriptor


def server_of(socket: Path) -> int | None:
    """Return the id of the process that serves a socket; None: it has ended, or is not known."""
    with contextlib.suppress(OSError, ValueError):
        pid, born = map(int, _lock_file(socket).read_bytes().split())
        return pid if process_born(pid) == born else None
    return None


def _lock_file(socket: Path) -> Path:
    return socket.with_suffix(".lock")

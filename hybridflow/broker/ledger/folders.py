"""Folders of a ledger: their owner's alone, and durable once something in them is."""

import errno
import os
import stat
from pathlib import Path

__all__ = ["check_folder", "make_folder", "sync_folder"]


def make_folder(folder: Path, *, durable: bool) -> None:
    """Make a folder, if it is not there, and see to it that it is this user's alone.

    Raises
    ------
    OSError
        If it is not, or cannot be made.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        check_folder(folder)
        return
    if durable:
        sync_folder(folder.parent)


def check_folder(folder: Path) -> None:
    """Raise PermissionError if others could have put something into a folder, or put it there.

    Raises
    ------
    OSError
        If it is another user's, writable for others, or no folder (a link to one is none).
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(errno.EPERM, f"{folder.name!r} is no folder; a link will not do")
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"{folder.name!r} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, f"{folder.name!r} can be written by others")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

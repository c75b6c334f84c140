"""The sweeper: removes a cluster's folder when the last of its processes has ended.

The cluster's maker and all its daemons hold the writing end of one pipe; its end is theirs, however
they end. The maker, when it has ended them all, says so with one byte: a process that it has forked
may hold the pipe too.

Run by path (``python -I -S sweeper.py DESCRIPTOR FOLDER``) and made of the standard library alone.
"""

import os
import shutil
import signal
import sys

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Wait for a byte or for the end of the pipe, then remove the folder."""
    descriptor, folder = arguments
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.read(int(descriptor), 1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])

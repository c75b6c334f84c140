"""What our processes ask of the kernel about themselves: how they end, and who may look into them.

``reaper.py`` makes one such call of its own, because it is run by path and imports nothing of ours.
"""

import contextlib
import ctypes
import os
import signal
import sys

__all__ = [
    "die_with",
    "forbid_dumps",
    "is_stopped",
    "process_born",
    "process_namespace",
    "signal_when_parent_ends",
]

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def _prctl(option: int, value: int, name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({name}) failed")


def forbid_dumps() -> None:
    """Keep this process's memory out of core dumps, and from other processes of its user."""
    _prctl(_PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")


def signal_when_parent_ends(number: signal.Signals) -> None:
    """Have a signal sent to this process when the *thread* that started it ends.

    The kernel does not know of processes here: whoever handles the signal has to see for himself
    whether the parent's process has ended too (``os.getppid``).
    """
    _prctl(_PR_SET_PDEATHSIG, int(number), "PR_SET_PDEATHSIG")


def die_with(parent: int) -> None:
    """Have this process killed when the thread that started it ends, however it ends.

    Parameters
    ----------
    parent
        Process id of the parent; if it has ended already, this process exits now.
    """
    signal_when_parent_ends(signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(f"process {parent}, which started this one, has ended")


def process_born(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since the machine was; None: it has ended.

    One that only waits for its parent to notice has ended.
    """
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        state, *fields = file.read().rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    return None


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped, and waits for somebody to let it go on (SIGSTOP, SIGCONT)."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] in "Tt"
    return False


def process_namespace() -> int:
    """Return what tells this process's space of process ids from a container's; 0: not known."""
    with contextlib.suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino
    return 0

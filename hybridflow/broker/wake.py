"""Wakes a thread that sleeps in a poll from any other thread, at the price of a system call."""

import os
from collections.abc import Callable

__all__ = ["Wake"]


class Wake:
    """A descriptor that becomes readable when :meth:`signal` is called."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._signalled = False

    def fileno(self) -> int:
        """Return the descriptor, for a poll."""
        return self._descriptor

    def signal(self) -> None:
        """Wake the sleeper; cheap when it has been told already."""
        if not self._signalled:
            self._signalled = True
            os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """To be called by the sleeper, before it looks at what it was woken for."""
        os.eventfd_read(self._descriptor)
        self._signalled = False

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Not earlier: another thread that holds this object may still signal. When the interpreter
        # ends, `os` may be gone before this object is.
        close(self._descriptor)

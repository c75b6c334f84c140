"""A lock between processes that a killed process does not take along."""

import errno
import fcntl
import os
import time
from multiprocessing.reduction import DupFd
from types import TracebackType
from typing import Any

__all__ = ["ProcessLock"]

_SECONDS_BETWEEN_TRIES = 0.001


class ProcessLock:
    """A lock between processes that ends with the process that holds it.

    One thread of each process may use it; it is passed on when a process is spawned.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("hybridflow-lock")

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take the lock; without `block`, False if another process has it.

        `timeout` is not kept: whoever has the lock of a queue gives it back when it has waited for
        that long itself.
        """
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
                return True
            except BlockingIOError:
                return False
            except OSError as error:
                # The kernel looks for deadlocks between processes, not threads: it sees one where
                # a thread waits for a process of which another thread waits for this process.
                if error.errno != errno.EDEADLK:
                    raise
                time.sleep(_SECONDS_BETWEEN_TRIES)

    def release(self) -> None:
        """Give the lock back."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __getstate__(self) -> Any:
        return DupFd(self._file)

    def __setstate__(self, descriptor: Any) -> None:
        self._file = descriptor.detach()

"""One thread of this process for what must not be done in a broker's, and cannot wait."""

import os
import queue
import threading
from collections.abc import Callable

__all__ = ["afterwards"]

_Steps = queue.SimpleQueue[Callable[[], None]]
_steps: _Steps | None = None
_lock = threading.Lock()


def afterwards(step: Callable[[], None]) -> None:
    """Have a function called soon, in order; it must not raise. A forked child has its own."""
    global _steps
    with _lock:
        if _steps is None:
            _steps = queue.SimpleQueue()
            threading.Thread(
                target=_run, args=(_steps,), name="hybridflow-afterwards", daemon=True
            ).start()
        _steps.put(step)


def _run(steps: _Steps) -> None:
    while True:
        steps.get()()


def _forget() -> None:
    # The thread is the parent's, and so is what it has to do.
    global _steps, _lock
    _steps, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)

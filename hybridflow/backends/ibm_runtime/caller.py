"""The one thread that touches the package: calls with a deadline, and its warnings as log lines.

The package waits for ever for an answer (and 15 minutes for that to a new job), and keeps its
connection in objects that several threads must not share. A call that is late is given up with its
thread, which may hang as long as it likes; the connection that it used is not used again.
"""

import contextlib
import logging
import queue
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from hybridflow.redaction import redact

__all__ = ["Caller", "LateError", "quietly"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_Item = tuple[Callable[[], Any], "Future[Any]"]


class LateError(Exception):
    """A call has taken longer than its deadline allows; whether it does anything is not known."""


class Caller:
    """Runs calls one after the other, in a thread of its own.

    Parameters
    ----------
    name
        Start of the thread's name.
    seconds
        Time that a call may take.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._items: queue.SimpleQueue[_Item | None] | None = None
        self._timers: list[threading.Timer] = []

    def call(self, work: Callable[[], _T]) -> _T:
        """Return what `work` returns.

        Raises
        ------
        LateError
            If it does not in time.
        """
        future = self._post(work)
        try:
            return future.result(self._seconds)
        except FutureTimeoutError:
            if future.done():
                raise  # its own
            self._end()  # the thread, once what it hangs in lets go
            raise LateError(f"no answer after {self._seconds:g} s") from None

    def later(self, seconds: float, work: Callable[[], object]) -> None:
        """Run `work` after a time, if the thread is still there; nobody waits for it."""
        items = self._items
        timer = threading.Timer(seconds, self._fire, (items, work))
        timer.name, timer.daemon = f"{self._name}-later", True
        self._timers = [other for other in self._timers if other.is_alive()] + [timer]
        timer.start()

    def close(self) -> None:
        """End the thread, when it has done what it was asked to, and forget what is to come."""
        for timer in self._timers:
            timer.cancel()
            timer.join()
        self._timers = []
        self._end()

    def _end(self) -> None:
        items, self._items = self._items, None
        if items is not None:
            items.put(None)

    def _fire(
        self, items: "queue.SimpleQueue[_Item | None] | None", work: Callable[[], object]
    ) -> None:
        if items is not None and items is self._items:
            items.put((work, Future()))

    def _post(self, work: Callable[[], _T]) -> "Future[_T]":
        items = self._items
        if items is None:
            items = self._items = queue.SimpleQueue()
            thread = threading.Thread(target=_serve, args=(items,), name=self._name, daemon=True)
            thread.start()
            weakref.finalize(self, items.put, None)  # whoever forgets to close it leaves no thread
        future: Future[_T] = Future()
        items.put((work, future))
        return future


def _serve(items: "queue.SimpleQueue[_Item | None]") -> None:
    while (item := items.get()) is not None:
        work, future = item
        try:
            future.set_result(work())
        except BaseException as error:  # whoever waits gets it
            future.set_exception(error)
        del item, work, future  # a connection that was given up must not live on here


@contextlib.contextmanager
def quietly(secrets: Iterable[str] = ()) -> Iterator[None]:
    """Log the package's warnings, without secrets, in place of printing them (or raising them)."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    for warning in seen:
        # What is deprecated is our business, not the user's.
        ours = issubclass(warning.category, DeprecationWarning | PendingDeprecationWarning)
        text = redact(str(warning.message), secrets)
        _log.log(logging.DEBUG if ours else logging.WARNING, "qiskit-ibm-runtime: %s", text)

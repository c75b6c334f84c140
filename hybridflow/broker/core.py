"""The broker, whatever carries its messages: requests in from any thread, outcomes out.

``server.py`` puts it behind a socket, ``embedded.py`` into the process of a script.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from hybridflow.backends.base import Backend
from hybridflow.broker.batching import check, compatibility
from hybridflow.broker.dispatch import Dispatcher
from hybridflow.broker.entry import Deliver, Entry
from hybridflow.broker.queue import Queue
from hybridflow.broker.work import Limits
from hybridflow.errors import BrokerLostError, HybridflowError
from hybridflow.events import EventLog, event_log
from hybridflow.records import Description, Request, Resource

__all__ = ["Broker"]


def _nobody() -> None:
    pass


class Broker:
    """Owns a slot's backend: queue → batches → vendor jobs → results.

    Parameters
    ----------
    resource
        The resource.
    backend
        Its backend; from :meth:`start` on it belongs to the broker's own thread.
    limits
        Bounds.
    log
        Where events go; the run's log if not given.
    on_end
        Called when the broker has ended, in its thread.
    """

    def __init__(
        self,
        resource: Resource,
        backend: Backend,
        *,
        limits: Limits | None = None,
        log: EventLog | None = None,
        on_end: Callable[[], None] = _nobody,
    ) -> None:
        limits = limits or Limits()
        self._resource = resource
        self._capabilities = backend.capabilities
        self._queue = Queue(resource.name, limits.queue_bytes)
        self._dispatcher = Dispatcher(
            resource, backend, self._queue, limits, log or event_log(), on_end
        )
        self._thread = threading.Thread(
            target=self._dispatcher.run, name=f"hybridflow-broker-{resource.name}", daemon=True
        )

    def begin(self) -> "Future[Description]":
        """Begin to acquire the backend, then to serve; return the description to come."""
        self._thread.start()
        return self._dispatcher.ready

    def start(self) -> None:
        """Acquire the backend, and serve.

        Raises
        ------
        AcquireError
            If the resource cannot be had.
        """
        self.begin().result()

    @property
    def description(self) -> Description:
        """What a started broker says of its resource."""
        return self._dispatcher.ready.result()

    @property
    def running(self) -> bool:
        """Whether the broker has been started and has not ended."""
        return self._thread.is_alive()

    @property
    def error(self) -> HybridflowError | None:
        """Why the broker gave up; None while it runs, and when it was asked to end."""
        return self._dispatcher.error

    def submit(self, request: Request, deliver: Deliver) -> Entry:
        """Take a request; `deliver` gets its outcome once, in any thread.

        Raises
        ------
        RequestError
            If the resource cannot run it: nothing was queued.
        ResourceError
            If the queue is full, or the broker stops (transient).
        """
        check(request, self._resource, self._capabilities)
        entry = Entry(request, compatibility(request, self._capabilities), deliver)
        self._queue.put(entry)
        return entry

    def cancel(self, entry: Entry) -> bool:
        """Drop a request; False if it has already ended.

        It is delivered :class:`~hybridflow.errors.RequestCancelledError`. A vendor job that nobody
        wants any more is stopped.
        """
        return self._queue.cancel(entry)

    def set_deadline(self, at: float | None) -> None:
        """Note that the slot ends at another time (Unix time; None: it has no end)."""
        self._dispatcher.deadline = at

    def drain(self, seconds: float) -> None:
        """Take no more requests, and end when those that are here have, or after `seconds`.

        What has not ended by then fails with a transient error. Returns at once; may be called
        again to shorten the time.
        """
        self._queue.close(
            BrokerLostError(
                f"the broker of {self._resource.name!r} is stopping: try again in another slot",
                resource=self._resource.name,
            ),
            seconds,
        )

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the broker has ended; False after `timeout` seconds without that."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

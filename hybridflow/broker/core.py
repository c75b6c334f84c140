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
from hybridflow.broker.estimate import work_of
from hybridflow.broker.journal import Journal, NoJournal
from hybridflow.broker.outlook import Outlook
from hybridflow.broker.queue import Queue
from hybridflow.broker.work import Limits
from hybridflow.errors import BrokerLostError, HybridflowError
from hybridflow.events import EventLog, event_log
from hybridflow.records import ClientInfo, Description, Request, Resource

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
    journal
        The run's record; nothing is recorded if not given.
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
        journal: Journal | None = None,
        log: EventLog | None = None,
        on_end: Callable[[], None] = _nobody,
    ) -> None:
        limits = limits or Limits()
        self._resource = resource
        self._capabilities = backend.capabilities
        self._journal: Journal = journal or NoJournal()
        self._queue = Queue(resource.name, limits.queue_bytes)
        self._dispatcher = Dispatcher(
            resource, backend, self._queue, limits, self._journal, log or event_log(), on_end
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

    def submit(self, request: Request, deliver: Deliver, *, wait: bool = False) -> Entry:
        """Take a request; `deliver` gets its outcome once, in any thread.

        With `wait`, where the queue is full, until there is room in it.

        Raises
        ------
        RequestError
            If the resource cannot run it: nothing was queued.
        QueueFullError
            If the queue is full.
        ResourceError
            If the broker stops (transient).
        """
        check(request, self._resource, self._capabilities)
        group = compatibility(request, self._capabilities)
        entry = Entry(request, group, deliver, work_of(request, self._capabilities))
        self._queue.put(entry, wait=wait)
        return entry

    @property
    def room(self) -> int:
        """Bytes of payload for which there is room in the queue."""
        return self._queue.room

    def outlook(self) -> Outlook:
        """Return what is to be expected of a request that comes now; in any thread, at once."""
        return self._dispatcher.outlook()

    def cancel(self, entry: Entry) -> bool:
        """Drop a request; False if it has already ended.

        It is delivered :class:`~hybridflow.errors.RequestCancelledError`. A vendor job that nobody
        wants any more is stopped.
        """
        return self._queue.cancel(entry)

    def abandon(self, entry: Entry) -> None:
        """Note that the process that made a request has died.

        Where results are kept for the next equal request, a vendor job that has the request goes
        on; or else it is cancelled.
        """
        if self._journal.keeps:
            self._queue.abandon(entry)
        else:
            self._queue.cancel(entry)

    def part(self, client: ClientInfo) -> None:
        """Note that a process has died: what it was given was perhaps for nothing."""
        self._queue.part(client)

    def set_deadline(self, at: float | None) -> None:
        """Note that the slot ends at another time (Unix time; None: it has no end)."""
        self._dispatcher.allowance.deadline = at
        self._queue.stir()

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

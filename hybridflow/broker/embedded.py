"""The broker inside the process of a script or a notebook: the same core, without a socket."""

import atexit
import os
import threading
import weakref
from collections.abc import Mapping
from typing import Any

from hybridflow.backends import open_backend
from hybridflow.backends.discreet import discreet
from hybridflow.broker.core import Broker
from hybridflow.broker.entry import Entry
from hybridflow.broker.ledger.opening import open_journal
from hybridflow.broker.outlook import Outlook
from hybridflow.broker.pending import ReplyFuture, copy_of
from hybridflow.errors import BrokerLostError, HybridflowError
from hybridflow.qiskit_thread import import_qiskit
from hybridflow.records import Description, JobState, Request, Resource

__all__ = ["EmbeddedBroker", "EmbeddedTicket"]

_CLOSE_SECONDS = 10.0


class EmbeddedTicket:
    """A request under way in this process; see :class:`hybridflow.broker.base.Ticket`."""

    def __init__(self, broker: Broker, request: Request) -> None:
        self.request_id = request.id
        self.future = ReplyFuture(request.id)
        self._broker = broker
        self._entry: Entry = broker.submit(request, self.future.settle, wait=True)

    def state(self) -> JobState:
        """Return the request's state."""
        return self.future.state() or self._entry.state

    def cancel(self) -> bool:
        """Ask for the request to be dropped; False if it has already ended."""
        return self._broker.cancel(self._entry)


class EmbeddedBroker:
    """A broker in this process; see :class:`hybridflow.broker.base.Connection`.

    The backend is acquired when it is first needed, and released when the process ends. A forked
    child acquires one of its own.

    Parameters
    ----------
    resource
        The resource.
    credentials
        For its backend.
    """

    def __init__(self, resource: Resource, credentials: Mapping[str, str] | None = None) -> None:
        self._resource = resource
        self._credentials = dict(credentials or {})
        self._lock = threading.Lock()
        self._broker: Broker | None = None
        self._inherited: list[Any] = []
        self._closed: HybridflowError | None = None
        _all.add(self)

    def describe(self) -> Description:
        """Return the resource's description; acquires the resource when it is first called.

        Raises
        ------
        AcquireError
            If the resource cannot be had.
        """
        return self._started().description

    def outlook(self) -> Outlook:
        """Return what is to be expected of a request that comes now.

        Raises
        ------
        AcquireError
            If the resource cannot be had.
        """
        return self._started().outlook()

    def submit(self, request: Request) -> EmbeddedTicket:
        """Hand a request over, without waiting for its result.

        Raises
        ------
        AcquireError
            If the resource cannot be had.
        RequestError
            If the resource cannot run the request.
        ResourceError
            If the broker was closed.
        """
        return EmbeddedTicket(self._started(), request)

    def close(self) -> None:
        """End the broker; pending requests fail with :class:`BrokerLostError`."""
        with self._lock:
            if self._closed is None:
                self._closed = BrokerLostError(
                    f"the broker of {self._resource.name!r} in this process was closed",
                    resource=self._resource.name,
                )
            broker = self._broker
        if broker is not None:
            broker.drain(0)
            broker.join(_CLOSE_SECONDS)

    def _started(self) -> Broker:
        with self._lock:
            if self._closed is not None:
                raise copy_of(self._closed)
            # One that gave up, because its backend stayed lost, is replaced.
            if self._broker is None or not self._broker.running:
                import_qiskit()
                backend = open_backend(self._resource, self._credentials)
                backend = discreet(backend, self._credentials)
                journal = open_journal(self._resource, backend.capabilities)
                broker = Broker(self._resource, backend, journal=journal)
                broker.start()
                self._broker = broker
            return self._broker

    def _after_fork(self) -> None:
        # The thread and the backend are the parent's. Kept, so that nothing of them is closed here.
        self._lock = threading.Lock()
        self._inherited.append(self._broker)
        self._broker = None


_all: "weakref.WeakSet[EmbeddedBroker]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for broker in list(_all):
        broker.close()


def _forget_all() -> None:
    for broker in list(_all):
        broker._after_fork()


os.register_at_fork(after_in_child=_forget_all)

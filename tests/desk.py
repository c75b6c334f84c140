"""A broker that a test holds in its hand: it answers when it is told to."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import msgspec

from hybridflow.errors import HybridflowError, RequestCancelledError
from hybridflow.records import (
    Batch,
    Description,
    JobState,
    Provenance,
    Reply,
    Request,
    TargetSnapshot,
)
from hybridflow.testing import FakeQPU
from hybridflow.testing.fake_qpu import FakeOptions


class DeskTicket:
    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.future: Future[Reply] = Future()
        self.now = JobState.QUEUED

    def state(self) -> JobState:
        return self.now

    def cancel(self) -> bool:
        if self.now.final:
            return False
        self.now = JobState.CANCELLED
        self.future.set_exception(RequestCancelledError("the request was cancelled"))
        return True


class Desk:
    """Implements ``Connection`` over a fake QPU in this thread.

    Capabilities can be overridden; with ``hold()``, requests wait until ``answer()``.
    """

    def __init__(self, fake: FakeOptions | None = None, **capabilities: Any) -> None:
        self.backend = FakeQPU("desk", fake)
        self.backend.acquire()
        self.capabilities = msgspec.structs.replace(self.backend.capabilities, **capabilities)
        self.snapshot: TargetSnapshot = self.backend.target()
        self.requests: list[Request] = []
        self.tickets: list[DeskTicket] = []
        self.held = False
        self._lock = threading.Lock()

    def describe(self) -> Description:
        return Description(
            resource="desk", backend="fake", capabilities=self.capabilities, target=self.snapshot
        )

    def submit(self, request: Request) -> DeskTicket:
        ticket = DeskTicket(request.id)
        with self._lock:
            self.requests.append(request)
            self.tickets.append(ticket)
        if not self.held:
            self.answer(ticket, request)
        return ticket

    @contextmanager
    def holding(self) -> Iterator[None]:
        self.held = True
        yield
        self.held = False

    def answer(self, ticket: DeskTicket, request: Request) -> None:
        batch = Batch(primitive=request.primitive, pubs=request.pubs)
        job = self.backend.start(batch, tag=request.id)
        while not self.backend.status(job, wait=1.0).state.final:
            pass
        try:
            results = self.backend.result(job)
        except HybridflowError as error:
            self.fail(ticket, error)
            return
        origin = Provenance(
            resource="desk",
            backend="fake",
            simulator=True,
            vendor_job_id=job,
            batch_requests=1,
            batch_pubs=len(request.pubs),
            queue_seconds=0.0,
            run_seconds=0.5,
            qpu_seconds=0.25,
            calibration="today",
        )
        ticket.now = JobState.DONE
        ticket.future.set_result(Reply(results=results, provenance=origin))

    def fail(self, ticket: DeskTicket, error: HybridflowError) -> None:
        ticket.now = JobState.FAILED
        ticket.future.set_exception(error)

    def close(self) -> None:
        self.backend.release()

"""A backend for tests of the broker, without Qiskit: its PUBs say what happens to them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import msgspec

from hybridflow.backends.discreet import DiscreetBackend
from hybridflow.broker.core import Broker
from hybridflow.broker.work import Limits
from hybridflow.errors import BackendLostError, HybridflowError, RequestError, ResourceError
from hybridflow.records import (
    Batch,
    Capabilities,
    ClientInfo,
    JobState,
    JobStatus,
    PackedPub,
    PackedResult,
    Primitive,
    Reply,
    Request,
    Resource,
    TargetSnapshot,
    Usage,
)

OPTIONS = {Primitive.SAMPLER: ("speed", "level")}


class Device:
    """A backend whose PUBs say what happens to them: their circuit is the name of a fault.

    The result of a PUB is its circuit. A job with a PUB `hold` runs until `gate` is set.
    """

    def __init__(self, **capabilities: Any) -> None:
        capabilities.setdefault("options", OPTIONS)
        self.capabilities = Capabilities(**capabilities)
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.jobs: dict[str, Batch] = {}
        self.batches: list[Batch] = []
        self.stopped: list[str] = []
        self.acquired = 0
        self.released = 0
        self.threads: set[int] = set()
        self.acquire_errors: list[Exception] = []
        self.silences = 0
        self.crashes = 10**6

    def acquire(self) -> None:
        self.threads.add(threading.get_ident())
        if self.acquire_errors:
            raise self.acquire_errors.pop(0)
        self.acquired += 1

    def release(self) -> None:
        self.released += 1

    def target(self) -> TargetSnapshot:
        return TargetSnapshot(num_qubits=5, operations=(), calibration="today")

    def metadata(self) -> dict[str, str]:
        return {}

    def start(self, batch: Batch, *, tag: str) -> str:
        self.threads.add(threading.get_ident())
        self.batches.append(batch)
        names = {pub.circuit for pub in batch.pubs}
        if b"refused" in names:
            raise RequestError("this gate is not in the basis")
        if b"bug" in names:
            raise KeyError("gate")
        job_id = f"job-{len(self.batches)}"
        self.jobs[job_id] = batch
        self.started.release()
        return job_id

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        names = {pub.circuit for pub in self.jobs[job_id].pubs}
        if b"crash" in names and self.crashes > 0:
            self.crashes -= 1
            raise BackendLostError("the process of the backend died")
        if job_id in self.stopped:
            return JobStatus(state=JobState.CANCELLED, message="stopped")
        if b"hold" in names and not self.gate.wait(wait):
            return JobStatus(state=JobState.RUNNING)
        if b"bad" in names:
            return JobStatus(state=JobState.FAILED, message="error 1517: circuit too bad")
        if b"busy" in names:
            return JobStatus(state=JobState.FAILED, message="recalibrating", transient=True)
        return JobStatus(state=JobState.DONE)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        if self.silences:
            self.silences -= 1
            raise ResourceError("503 service unavailable", transient=True)
        if any(pub.circuit == b"unreadable" for pub in self.jobs[job_id].pubs):
            raise KeyError("counts")
        return tuple(PackedResult(arrays={"of": pub.circuit}) for pub in self.jobs[job_id].pubs)

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)

    def find(self, tag: str) -> str | None:
        return None

    def usage(self, job_id: str) -> Usage:
        pubs = self.jobs[job_id].pubs
        return Usage(qpu_seconds=float(len(pubs)), shots=sum(pub.shots or 0 for pub in pubs))


_count = iter(range(10**9))


def request(
    *names: str,
    shots: int = 10,
    seed: int | None = None,
    primitive: Primitive = Primitive.SAMPLER,
    size: int = 0,
    client: ClientInfo | None = None,
    priority: int = 0,
    **options: Any,
) -> Request:
    pubs = tuple(
        PackedPub(circuit=name.encode() + b" " * size, shots=shots, seed=seed) for name in names
    )
    return Request(
        id=f"r{next(_count)}",
        primitive=primitive,
        pubs=pubs,
        options=options,
        client=client or ClientInfo(),
        priority=priority,
    )


def names(future: "Future[Reply]") -> list[str]:
    return [part.arrays["of"].decode().strip() for part in future.result(10).results]


FAST = Limits(backoff_seconds=0.001)


class Desk:
    """A started broker in front of a device."""

    def __init__(self, device: Device, *, secrets: Sequence[str] = (), **options: Any) -> None:
        options.setdefault("limits", FAST)
        self.device = device
        keys = {key: options.pop(key) for key in Resource.__struct_fields__ if key in options}
        self.resource = msgspec.structs.replace(Resource(name="dev", backend="device"), **keys)
        backend = DiscreetBackend(device, secrets) if secrets else device
        self.broker = Broker(self.resource, backend, **options)

    def submit(self, request: Request) -> "Future[Reply]":
        future: Future[Reply] = Future()

        def deliver(outcome: Reply | HybridflowError) -> None:
            if isinstance(outcome, Reply):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)

        future.entry = self.broker.submit(request, deliver)  # type: ignore[attr-defined]
        return future

    def cancel(self, future: "Future[Reply]") -> bool:
        return self.broker.cancel(future.entry)  # type: ignore[attr-defined]

    def hold(self) -> "Future[Reply]":
        """Keep the device's lane busy until its gate opens."""
        future = self.submit(request("hold"))
        assert self.device.started.acquire(timeout=10)
        return future


@contextmanager
def desks() -> Iterator[Callable[..., Desk]]:
    """Give what opens a desk; they are closed at the end."""
    made: list[Desk] = []

    def make(device: Device | None = None, **options: Any) -> Desk:
        desk = Desk(device or Device(), **options)
        desk.broker.start()
        made.append(desk)
        return desk

    yield make
    for desk in made:
        desk.device.gate.set()
        desk.broker.drain(5)
        assert desk.broker.join(10)
        assert desk.device.released >= 1

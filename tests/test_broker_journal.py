"""What the dispatcher tells its journal, in which order, and what it does with what it is told."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from device import Device, desks, names, request
from family import eventually

from hybridflow.broker.entry import Entry
from hybridflow.broker.journal import Attached, Claimed, LeftBehind, NoJournal
from hybridflow.broker.merging import Cut, Part
from hybridflow.broker.work import VendorJob
from hybridflow.errors import (
    BudgetError,
    HybridflowError,
    RequestCancelledError,
    ResourceError,
    VendorJobError,
)
from hybridflow.records import Batch, ClientInfo, JobState, PackedResult, Provenance, Reply, Usage


def circuit_of(entry: Entry) -> str:
    return entry.request.pubs[0].circuit.decode()


class Recorder(NoJournal):
    """Notes what it is told, one line a step, and knows what a test gives it."""

    keeps = True

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.known: dict[str, Claimed | HybridflowError] = {}
        self.left: list[LeftBehind] = []
        self.spent = 0.0
        self.full: HybridflowError | None = None
        self.kept: dict[str, Sequence[Reply]] = {}

    def admit(self, entry: Entry) -> Claimed | None:
        self.steps.append(f"admit {circuit_of(entry)}")
        known = self.known.get(circuit_of(entry))
        if isinstance(known, HybridflowError):
            raise known
        return known

    def intend(self, job: VendorJob, seconds: float = 0.0) -> None:
        if self.full is not None:
            raise self.full
        self.steps.append(f"intend {' '.join(map(circuit_of, job.work.entries))}")

    def started(self, job: VendorJob) -> None:
        self.steps.append(f"started {job.id}")

    def stored(self, job: VendorJob, replies: Sequence[Reply], usage: Usage) -> None:
        self.kept[job.tag] = replies
        self.steps.append(f"stored {job.id}: {len(replies)}, {usage.qpu_seconds:g} s")

    def void(self, job: VendorJob, error: HybridflowError, usage: Usage) -> None:
        self.steps.append(f"void {job.id}: {usage.qpu_seconds:g} s")

    def uncertain(self, job: VendorJob) -> None:
        self.steps.append(f"uncertain {job.tag}")

    def delivered(self, entry: Entry) -> None:
        self.steps.append(f"delivered {circuit_of(entry)}")

    def failed(self, entry: Entry, error: HybridflowError) -> None:
        self.steps.append(f"failed {circuit_of(entry)}")

    def cancelled(self, entry: Entry) -> None:
        self.steps.append(f"cancelled {circuit_of(entry)}")

    def abandoned(self, entry: Entry) -> None:
        self.steps.append(f"abandoned {circuit_of(entry)}")

    def gone(self, client: ClientInfo) -> None:
        self.steps.append(f"gone {client.pid}")

    def left_behind(self) -> Sequence[LeftBehind]:
        return self.left

    def booked(self) -> float:
        return self.spent

    def close(self) -> None:
        self.steps.append("close")


@pytest.fixture
def journal() -> Recorder:
    return Recorder()


@pytest.fixture
def open_desk() -> Iterator[Any]:
    with desks() as make:
        yield make


def reply_of(name: bytes) -> Reply:
    origin = Provenance(
        resource="dev",
        backend="device",
        simulator=False,
        vendor_job_id="job-0",
        batch_requests=1,
        batch_pubs=1,
        queue_seconds=0,
        run_seconds=1,
        qpu_seconds=1,
    )
    return Reply(results=(PackedResult(arrays={"of": name}),), provenance=origin)


def left(tag: str, job_id: str | None) -> LeftBehind:
    return LeftBehind(tag=tag, id=job_id, cuts=(Cut(parts=(Part(pub=0),), share=1.0),))


def test_every_step_of_a_request(open_desk: Any, journal: Recorder) -> None:
    desk = open_desk(journal=journal)
    assert names(desk.submit(request("a", "b"))) == ["a", "b"]
    desk.broker.drain(5)
    assert desk.broker.join(10)
    assert journal.steps == [
        "admit a",
        "intend a",
        "started job-1",
        "stored job-1: 1, 2 s",
        "delivered a",
        "close",
    ]


def test_a_failed_job_is_void_before_its_halves_are_intended(
    open_desk: Any, journal: Recorder
) -> None:
    desk = open_desk(journal=journal)
    desk.hold()
    good, bad = desk.submit(request("a")), desk.submit(request("bad"))
    desk.device.gate.set()
    assert names(good) == ["a"]
    with pytest.raises(VendorJobError):
        bad.result(10)
    eventually(lambda: "failed bad" in journal.steps)
    steps = [step for step in journal.steps if "hold" not in step and "job-1" not in step]
    assert steps == [
        "admit a",
        "admit bad",
        "intend a bad",
        "started job-2",
        "void job-2: 2 s",
        "intend a",
        "started job-3",
        "stored job-3: 1, 1 s",
        "delivered a",
        "intend bad",
        "started job-4",
        "void job-4: 1 s",
        "failed bad",
    ]


def test_what_the_journal_has_is_not_run(open_desk: Any, journal: Recorder) -> None:
    journal.known["a"] = reply_of(b"stored")
    journal.known["b"] = ResourceError("whether it was paid for is uncertain")
    desk = open_desk(journal=journal)
    assert names(desk.submit(request("a"))) == ["stored"]
    with pytest.raises(ResourceError, match="is uncertain"):
        desk.submit(request("b")).result(10)
    assert desk.device.batches == []


def test_what_cannot_be_intended_is_not_started(open_desk: Any, journal: Recorder) -> None:
    journal.full = ResourceError("the disk is full", transient=True)
    desk = open_desk(journal=journal)
    with pytest.raises(ResourceError, match="the disk is full"):
        desk.submit(request("a")).result(10)
    assert desk.device.batches == []
    journal.full = None
    assert names(desk.submit(request("b"))) == ["b"]


def test_a_request_waits_for_the_job_that_has_it(open_desk: Any, journal: Recorder) -> None:
    device = Device(durable_jobs=True)
    device.jobs["job-0"] = Batch(primitive=request().primitive, pubs=request("hold").pubs)
    journal.left = [left("t", "job-0")]
    journal.known["a"] = Attached(tag="t")
    desk = open_desk(device, journal=journal)
    waiting = desk.submit(request("a"))
    eventually(lambda: "admit a" in journal.steps)
    assert not waiting.done()
    journal.known["a"] = reply_of(b"stored")
    device.gate.set()
    assert names(waiting) == ["stored"]
    assert journal.steps[:4] == ["started job-0", "admit a", "stored job-0: 1, 1 s", "admit a"]
    assert journal.kept["t"][0].results[0].arrays == {"of": b"hold"}
    assert device.batches == []


def test_a_request_is_run_when_the_job_that_had_it_failed(
    open_desk: Any, journal: Recorder
) -> None:
    device = Device(durable_jobs=True)
    bad = request("hold", "bad").pubs
    device.jobs["job-0"] = Batch(primitive=request().primitive, pubs=bad)
    journal.left = [left("t", "job-0")]
    journal.known["a"] = Attached(tag="t")
    desk = open_desk(device, journal=journal)
    waiting = desk.submit(request("a"))
    eventually(lambda: "admit a" in journal.steps)
    del journal.known["a"]
    device.gate.set()
    assert names(waiting) == ["a"]
    assert "void job-0: 2 s" in journal.steps


@pytest.mark.parametrize(
    ("tags", "found", "step"),
    [
        (True, "job-0", "started job-0"),
        (True, None, "void None: 0 s"),
        (False, None, "uncertain t"),
    ],
)
def test_a_job_whose_id_was_lost_is_looked_up(
    open_desk: Any, journal: Recorder, tags: bool, found: str | None, step: str
) -> None:
    device = Device(durable_jobs=True, tags=tags)
    device.jobs["job-0"] = Batch(primitive=request().primitive, pubs=request("a").pubs)
    device.find = lambda tag: found  # type: ignore[method-assign]
    journal.left = [left("t", None)]
    desk = open_desk(device, journal=journal)
    assert names(desk.submit(request("b"))) == ["b"]
    assert journal.steps[0] == step


def test_a_job_whose_owners_have_died_goes_on_for_the_next_equal_request(
    open_desk: Any, journal: Recorder
) -> None:
    desk = open_desk(journal=journal)
    held = desk.hold()
    waiting = desk.submit(request("a"))
    desk.broker.part(ClientInfo(pid=7))
    desk.broker.abandon(held.entry)
    desk.broker.abandon(waiting.entry)
    with pytest.raises(RequestCancelledError):
        waiting.result(10)
    eventually(lambda: "gone 7" in journal.steps)
    assert held.entry.state is JobState.RUNNING
    desk.device.gate.set()
    eventually(lambda: "stored job-1: 1, 1 s" in journal.steps)
    assert {"cancelled a", "abandoned hold"} <= set(journal.steps)
    assert desk.device.stopped == []
    assert names(desk.submit(request("b"))) == ["b"]
    assert not held.done()
    assert "delivered hold" not in journal.steps


def test_where_nothing_is_kept_it_is_stopped(open_desk: Any) -> None:
    desk = open_desk()
    held = desk.hold()
    desk.broker.abandon(held.entry)
    eventually(lambda: desk.device.stopped == ["job-1"])


def test_what_others_of_the_run_have_booked_counts(open_desk: Any, journal: Recorder) -> None:
    journal.spent = 99.5
    desk = open_desk(Device(circuit_seconds=1.0), journal=journal, budget_seconds=100.0)
    with pytest.raises(BudgetError, match=r"budget of 100 s, 99\.5 s are used"):
        desk.submit(request("a")).result(10)

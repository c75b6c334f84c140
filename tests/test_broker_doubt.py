"""What is, or may be, paid for and cannot be had now: it is neither given up nor paid for again."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from device import FAST, Desk, Device, desks, names, request
from family import eventually

from hybridflow.broker.ledger.journal import LedgerJournal
from hybridflow.broker.ledger.owner import this_process
from hybridflow.broker.work import Limits
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    BudgetError,
    HybridflowError,
    InternalError,
    RequestCancelledError,
    ResourceError,
    UncertainError,
)
from hybridflow.records import Batch, ClientInfo, JobStatus, PackedResult, Request, Resource

HASTY = Limits(backoff_seconds=0.001, attempts=3, patience_seconds=0.01)


class Doubtful(Device):
    """A device with durable jobs: `faults` are raised first by status, result and start."""

    def __init__(self, **capabilities: Any) -> None:
        super().__init__(**{"durable_jobs": True} | capabilities)
        self.faults: dict[str, list[Exception]] = {"status": [], "result": [], "start": []}
        self.tags: dict[str, str] = {}
        self.cut_short = 0

    def _stumble(self, what: str) -> None:
        if self.faults[what]:
            raise self.faults[what].pop(0)

    def start(self, batch: Batch, *, tag: str) -> str:
        job_id = super().start(batch, tag=tag)
        self.tags[tag] = job_id
        self._stumble("start")
        return job_id

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        self._stumble("status")
        return super().status(job_id, wait=wait)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        self._stumble("result")
        results = super().result(job_id)
        if self.cut_short:
            self.cut_short -= 1
            return results[:-1]
        return results

    def find(self, tag: str) -> str | None:
        return self.tags.get(tag)


Open = Callable[..., Desk]


@pytest.fixture
def open_desk(tmp_path: Path) -> Iterator[Open]:
    with desks() as make:

        def with_ledger(device: Device, name: str = "one", **options: Any) -> Desk:
            journal = LedgerJournal(
                tmp_path,
                Resource(name="dev", backend="device"),
                this_process(name, "session", {}),
                free=device.capabilities.simulator,
            )
            return make(device, journal=journal, **options)

        yield with_ledger


def attempt(number: int, name: str = "x", key: str | None = None) -> Request:
    client = ClientInfo(host=os.uname().nodename, pid=os.getpid(), attempt=f"a{number}")
    return msgspec.structs.replace(request(name, client=client), key=key)


LOST = BackendLostError("the connection broke")
SILENT = ResourceError("504 gateway timeout", transient=True)


@pytest.mark.parametrize(
    ("where", "faults", "kind"),
    [
        ("status", [SILENT] * 20, ResourceError),
        ("status", [ResourceError("401 the token has expired")], ResourceError),
        ("status", [LOST] * 6, BackendLostError),
        ("result", [KeyError("counts")], InternalError),
    ],
)
def test_a_job_that_nobody_can_tell_of_is_asked_about_and_not_run_again(
    open_desk: Open, where: str, faults: list[Exception], kind: type[Exception]
) -> None:
    device = Doubtful()
    device.faults[where] = list(faults)
    desk = open_desk(device, limits=HASTY)
    with pytest.raises(kind):
        desk.submit(attempt(1)).result(10)
    device.faults[where].clear()
    assert names(desk.submit(attempt(2))) == ["x"]
    assert len(device.batches) == 1
    assert names(desk.submit(attempt(3, "y"))) == ["y"]


SLOW = Limits(backoff_seconds=60.0, attempts=100)


def test_what_is_there_is_given_out_while_a_lost_backend_is_away(open_desk: Open) -> None:
    device = Doubtful()
    desk = open_desk(device, limits=SLOW)
    assert names(desk.submit(attempt(1, key="k"))) == ["x"]
    device.acquire_errors = [AcquireError("in maintenance", transient=True)] * 100
    device.faults["status"] = [LOST]
    running = desk.submit(attempt(2, "y", key="y"))
    eventually(lambda: len(device.acquire_errors) < 100)
    assert names(desk.submit(attempt(3, key="k"))) == ["x"]
    waiting = desk.submit(attempt(4, "z"))
    assert desk.cancel(waiting)
    desk.broker.drain(0)
    with pytest.raises(BackendLostError, match="in maintenance"):
        running.result(10)
    assert device.acquired == 1
    assert len(device.batches) == 2


@pytest.mark.parametrize("tags", [True, False])
def test_who_comes_while_a_job_is_looked_for_gets_what_is_found(
    open_desk: Open, tags: bool
) -> None:
    device = Doubtful(tags=tags)
    desk = open_desk(device, limits=Limits(backoff_seconds=0.3))
    device.acquire_errors = [AcquireError("not yet", transient=True)]
    device.faults["start"] = [LOST]
    first = desk.submit(attempt(1, key="k"))
    eventually(lambda: not device.acquire_errors)
    second = desk.submit(attempt(2, key="k"))
    for one in (first, second):
        if tags:
            assert names(one) == ["x"]
        else:
            with pytest.raises(UncertainError):
                one.result(10)
    assert len(device.batches) == 1


def test_results_that_do_not_fit_are_not_paid_for_again(open_desk: Open) -> None:
    device = Doubtful()
    device.cut_short = 1
    desk = open_desk(device, limits=HASTY)
    with pytest.raises(InternalError, match="0 results"):
        desk.submit(attempt(1)).result(10)
    assert names(desk.submit(attempt(2))) == ["x"]
    assert len(device.batches) == 1


def test_a_job_that_was_given_up_holds_no_lane(open_desk: Open) -> None:
    device = Doubtful()
    device.faults["result"] = [KeyError("counts")] * 10**6
    desk = open_desk(device, limits=HASTY)
    for number in range(3):
        with pytest.raises(InternalError):
            desk.submit(attempt(number, f"c{number}")).result(10)
    device.faults["result"].clear()
    assert names(desk.submit(attempt(4, "d"))) == ["d"]
    assert names(desk.submit(attempt(5, "c1"))) == ["c1"]
    assert len(device.batches) == 4


def test_an_answer_without_sense_may_mean_that_the_job_was_taken(open_desk: Open) -> None:
    device = Doubtful(tags=True)
    device.faults["start"] = [KeyError("id")]
    desk = open_desk(device)
    assert names(desk.submit(attempt(1))) == ["x"]
    assert len(device.batches) == 1


def test_without_tags_such_an_answer_is_for_a_person_to_judge(open_desk: Open) -> None:
    device = Doubtful()
    device.faults["start"] = [KeyError("id")]
    desk = open_desk(device)
    for number in range(2):
        with pytest.raises(UncertainError):
            desk.submit(attempt(number)).result(10)
    assert len(device.batches) == 1


def test_on_a_simulator_it_is_searched_for_the_guilty(open_desk: Open) -> None:
    device = Device(simulator=True)
    desk = open_desk(device)
    desk.hold()
    waiting = [desk.submit(attempt(i, "bug" if i == 2 else f"c{i}")) for i in range(4)]
    device.gate.set()
    for i in (0, 1, 3):
        assert names(waiting[i]) == [f"c{i}"]
    with pytest.raises(InternalError, match="KeyError: 'gate'"):
        waiting[2].result(10)


def test_a_job_that_somebody_waits_for_is_not_stopped(open_desk: Open) -> None:
    device = Doubtful()
    desk = open_desk(device)
    first = desk.submit(attempt(1, "hold", key="k"))
    assert device.started.acquire(timeout=10)
    second = desk.submit(attempt(2, "hold", key="k"))
    assert desk.cancel(first)
    with pytest.raises(RequestCancelledError):
        first.result(10)
    device.gate.set()
    assert names(second) == ["hold"]
    assert not device.stopped


def test_a_broker_that_fails_leaves_what_is_paid_for_to_the_run(open_desk: Open) -> None:
    device = Doubtful()
    desk = open_desk(device, limits=FAST)
    waiting = desk.submit(attempt(1, "hold", key="k"))
    assert device.started.acquire(timeout=10)

    def broken(*_: object, **__: object) -> JobStatus:
        raise SystemExit("a bug of ours")

    device.status = broken  # type: ignore[method-assign]
    with pytest.raises(HybridflowError):
        waiting.result(10)
    assert desk.broker.join(10)
    assert not device.stopped
    del device.status
    device.gate.set()
    later = open_desk(device, name="two")
    again = later.submit(attempt(2, "hold", key="k"))
    assert names(again) == ["hold"]
    assert len(device.batches) == 1


def test_no_credential_stands_in_what_a_vendor_says(open_desk: Open, tmp_path: Path) -> None:
    """It would be kept in the ledger, and shown to whoever is sent a report."""
    device = Doubtful()
    device.faults["start"] = [ResourceError("the header 'Bearer s3cr3t-key' was refused")]
    device.faults["result"] = [KeyError("s3cr3t-key")] * 10**6
    desk = open_desk(device, secrets=["s3cr3t-key"], limits=HASTY)
    with pytest.raises(ResourceError, match=r"Bearer \*\*\*"):
        desk.submit(attempt(1)).result(10)
    with pytest.raises(InternalError, match=r"KeyError: '\*\*\*'"):
        desk.submit(attempt(2, "y")).result(10)
    desk.broker.drain(5)
    assert desk.broker.join(10)
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"***" in written
    assert b"s3cr3t" not in written


def test_what_may_have_been_paid_for_counts_in_the_budget(open_desk: Open) -> None:
    device = Doubtful(circuit_seconds=1.0)
    device.faults["start"] = [KeyError("id")] * 10**6
    desk = open_desk(device, budget_seconds=3.0, on_uncertain="repeat")
    with pytest.raises(BudgetError, match="3 s are used"):
        desk.submit(attempt(1)).result(10)
    assert len(device.batches) == 3

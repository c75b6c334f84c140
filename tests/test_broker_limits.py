"""How much the broker starts: budgets, the slot's end, jobs started ahead, a queue that is full."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from device import FAST, Device, desks, names, request
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridflow.broker.estimate import Estimate, work_of
from hybridflow.broker.lanes import Lanes
from hybridflow.broker.ledger.journal import LedgerJournal
from hybridflow.broker.ledger.owner import this_process
from hybridflow.broker.outside import Outside
from hybridflow.broker.work import Limits, VendorJob, Work
from hybridflow.errors import BrokerLostError, BudgetError, DeadlineError, QueueFullError
from hybridflow.records import Capabilities, Reply, Resource

SLOW = {"fixed_seconds": 10.0, "circuit_seconds": 1.0}


@pytest.fixture
def open_desk() -> Iterator[Any]:
    with desks() as make:
        yield make


# -- estimates ---------------------------------------------------------------------------------


def test_work_is_what_the_device_declares() -> None:
    declared = Capabilities(circuit_seconds=0.01, shot_seconds=0.001)
    assert work_of(request("a", "b", shots=10), declared) == pytest.approx(0.04)
    assert work_of(request("a", shots=10), Capabilities()) == pytest.approx(1e-5)


@settings(deadline=None)
@given(
    fixed=st.floats(0, 10),
    rate=st.floats(0, 100),
    works=st.lists(st.floats(0.01, 10), min_size=60, max_size=80),
)
def test_an_estimate_learns_the_line(fixed: float, rate: float, works: list[float]) -> None:
    works[-20:] = [1.0, 9.0] * 10  # they must differ, or there is no line
    estimate = Estimate(Capabilities(fixed_seconds=1.0, shot_seconds=1.0))
    for work in works:
        estimate.learn(work, fixed + rate * work)
    assert estimate.seconds(5.0) == pytest.approx(fixed + 5 * rate, rel=0.1, abs=0.1)
    assert estimate.within(estimate.seconds(5.0)) >= 5.0 * 0.99 or estimate.rate == 0


def test_without_a_measurement_the_declaration_counts_and_without_that_little_is_known() -> None:
    declared = Estimate(Capabilities(fixed_seconds=2.0, circuit_seconds=0.5))
    assert declared.seconds(3.0) == 5.0
    assert declared.within(1.0) < 0
    unknown = Estimate(Capabilities())
    unknown.learn(1e-3, 4.0)
    assert unknown.seconds(1e-3) == pytest.approx(4.0)
    assert unknown.seconds(2e-3) == pytest.approx(8.0)


def test_a_margin_is_learned_from_what_was_wrong() -> None:
    estimate = Estimate(Capabilities())
    for seconds in (1.0, 3.0) * 20:
        estimate.learn(1.0, seconds)
    assert 1.5 < estimate.margin < 3.0


# -- budgets -----------------------------------------------------------------------------------


def test_what_would_pass_the_budget_fails_before_it_is_sent(open_desk: Any) -> None:
    desk = open_desk(Device(**SLOW), budget_seconds=12.5)
    with pytest.raises(BudgetError, match=r"would take 13 s of 'dev'; .* of 12\.5 s, 0 s are used"):
        desk.submit(request("a", "b", "c")).result(10)
    assert desk.device.batches == []
    assert names(desk.submit(request("a", "b"))) == ["a", "b"]  # the device bills a second a PUB


def test_what_was_used_is_booked(open_desk: Any) -> None:
    desk = open_desk(Device(circuit_seconds=1.0), budget_seconds=5.0)
    for name in "ab":
        assert desk.submit(request(name, name)).result(10).provenance.qpu_seconds == 2.0
    with pytest.raises(BudgetError, match=r"budget of 5 s, 4 s are used") as caught:
        desk.submit(request("c", "c")).result(10)
    assert not caught.value.transient
    assert names(desk.submit(request("d"))) == ["d"]


def test_a_batch_ends_where_the_budget_does(open_desk: Any) -> None:
    desk = open_desk(Device(circuit_seconds=1.0), budget_seconds=4.0)
    held = desk.hold()
    waiting = [desk.submit(request(str(i))) for i in range(5)]
    desk.device.gate.set()
    assert names(held) == ["hold"]
    assert [names(one) for one in waiting[:3]] == [["0"], ["1"], ["2"]]
    for one in waiting[3:]:
        with pytest.raises(BudgetError):
            one.result(10)
    assert [len(batch.pubs) for batch in desk.device.batches] == [1, 3]


def test_a_batch_keeps_to_its_seconds(open_desk: Any) -> None:
    desk = open_desk(Device(circuit_seconds=1.0), batch_seconds=3.0)
    desk.hold()
    waiting = [desk.submit(request(*"ab")), desk.submit(request("c")), desk.submit(request("d"))]
    waiting.append(desk.submit(request(*"efghij")))
    desk.device.gate.set()
    for one in waiting:
        one.result(10)
    assert [len(batch.pubs) for batch in desk.device.batches] == [1, 3, 1, 6]


# -- the slot's end ----------------------------------------------------------------------------


def test_a_batch_ends_in_time_and_what_cannot_is_handed_back(open_desk: Any) -> None:
    desk = open_desk(Device(circuit_seconds=100.0), batch_seconds=10**6)
    held = desk.hold()
    too_long = desk.submit(request(*"abcdefghij"))
    waiting = [desk.submit(request(str(i))) for i in range(7)]
    desk.broker.set_deadline(time.time() + 600)
    assert desk.cancel(held)
    with pytest.raises(DeadlineError, match="may take 1000 s") as caught:
        too_long.result(10)
    assert caught.value.transient
    assert [names(one) for one in waiting] == [[str(i)] for i in range(7)]
    assert [len(batch.pubs) for batch in desk.device.batches] == [1, 5, 2]  # it was quicker


def test_a_deadline_that_changes_is_heeded(open_desk: Any) -> None:
    desk = open_desk(Device(fixed_seconds=60), limits=FAST)
    desk.broker.set_deadline(time.time() + 30)
    with pytest.raises(DeadlineError, match=r"ends in \d+ s, a vendor job may take 60 s"):
        desk.submit(request("a")).result(10)
    desk.broker.set_deadline(time.time() + 3600)
    assert names(desk.submit(request("b"))) == ["b"]
    desk.broker.set_deadline(None)
    assert names(desk.submit(request("c"))) == ["c"]


# -- jobs started ahead ------------------------------------------------------------------------


def test_a_serial_device_is_given_the_next_job_ahead_only_if_that_is_full(open_desk: Any) -> None:
    """Or else what comes back when the first one ends would need a job of its own."""
    desk = open_desk(Device(lanes=4, serial=True, max_pubs=3), max_in_flight=2)
    desk.hold()
    waiting = [desk.submit(request("hold")) for _ in range(2)]
    assert not desk.device.started.acquire(timeout=0.2)
    waiting += [desk.submit(request("hold")) for _ in range(2)]
    assert desk.device.started.acquire(timeout=10)
    assert [len(batch.pubs) for batch in desk.device.batches] == [1, 3]
    desk.device.gate.set()
    for one in waiting:
        one.result(10)
    assert [len(batch.pubs) for batch in desk.device.batches] == [1, 3, 1]


@pytest.mark.parametrize(
    ("serial", "running", "share"), [(False, 0, 4), (False, 1, 5), (False, 2, 10), (True, 0, 10)]
)
def test_free_lanes_that_overlap_share_what_waits(serial: bool, running: int, share: int) -> None:
    resource = Resource(name="dev", backend="device", max_in_flight=3)
    lanes = Lanes(resource, Capabilities(lanes=8, serial=serial))
    lanes.running = [VendorJob(Work([]), ()) for _ in range(running)]
    assert lanes.share(10) == share


# -- a full queue ------------------------------------------------------------------------------


def test_a_full_queue_makes_who_can_wait_wait(open_desk: Any) -> None:
    desk = open_desk(limits=Limits(queue_bytes=1000))
    held = desk.hold()
    desk.submit(request("a", size=900))
    with pytest.raises(QueueFullError):
        desk.submit(request("b", size=200))
    outcome: Future[Any] = Future()

    def wait() -> None:
        desk.broker.submit(request("b", size=200), outcome.set_result, wait=True)

    waiter = threading.Thread(target=wait)
    waiter.start()
    waiter.join(0.1)
    assert waiter.is_alive()
    desk.device.gate.set()
    waiter.join(10)
    assert isinstance(outcome.result(10), Reply)
    assert names(held) == ["hold"]


def test_who_waits_for_room_is_told_when_the_broker_stops(open_desk: Any) -> None:
    desk = open_desk(limits=Limits(queue_bytes=1000))
    desk.hold()
    desk.submit(request("a", size=900))
    raised: Future[BaseException] = Future()

    def wait() -> None:
        try:
            desk.broker.submit(request("b", size=200), lambda _: None, wait=True)
        except BrokerLostError as error:
            raised.set_result(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    desk.broker.drain(5)
    assert "is stopping" in str(raised.result(10))
    waiter.join(10)


def test_those_outside_are_called_in_in_order_as_far_as_there_is_room() -> None:
    outside = Outside()
    keys = [(b"one", "a"), (b"two", "b"), (b"one", "c")]
    assert outside.has_turn(keys[0])
    for key, size in zip(keys, (50, 60, 10), strict=True):
        outside.keep(key, size)
    assert not outside.has_turn((b"new", "d"))
    assert outside.call(49) == []
    assert outside.call(100) == keys[:1]
    assert outside.call(100) == []  # half of it is for the first one, which is on its way
    assert outside.has_turn(keys[0])
    outside.keep(keys[0], 50)  # others were quicker: it comes first again
    assert outside.call(100) == keys[:1]
    outside.entered(keys[0])
    assert not outside.has_turn(keys[0])
    outside.leave_all(b"two")
    assert not outside.leave(keys[1])
    assert outside.call(10) == keys[2:]
    assert not outside.has_turn((b"new", "d"))
    outside.entered(keys[2])
    assert outside.has_turn((b"new", "d"))


# -- several brokers of a run ------------------------------------------------------------------


class InStep(LedgerJournal):
    """Waits at its first intent: what is left has been looked at, and nothing is written yet."""

    meet: Any = None

    def intend(self, job: VendorJob, seconds: float = 0.0) -> None:
        meet, self.meet = self.meet, None
        if meet:
            meet()
        super().intend(job, seconds)


@pytest.mark.parametrize("who_waits", ["both", "one"])
def test_brokers_that_decide_in_the_same_instant_keep_a_budget(
    open_desk: Any, tmp_path: Path, who_waits: str
) -> None:
    resource = Resource(name="dev", backend="device")
    journals = [InStep(tmp_path, resource, this_process(name, "run", {})) for name in "ab"]
    reached, done, together = threading.Event(), threading.Event(), threading.Barrier(2)
    if who_waits == "both":
        journals[0].meet = journals[1].meet = lambda: together.wait(10)
    else:
        journals[0].meet = lambda: (reached.set(), done.wait(10))
    one, two = (
        open_desk(Device(circuit_seconds=1.0), journal=journal, budget_seconds=1.5)
        for journal in journals
    )
    first = one.submit(request("a"))
    assert who_waits == "both" or reached.wait(10)
    second = two.submit(request("b"))
    if who_waits == "one":
        assert names(second) == ["b"]
        done.set()
    errors = [future.exception(20) for future in (first, second)]
    assert [type(error) for error in errors if error is not None] == [BudgetError]
    assert len(one.device.batches) + len(two.device.batches) == 1

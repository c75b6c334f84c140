"""What the broker does when a vendor refuses, is silent or loses a job: nothing is paid twice."""

from collections.abc import Iterator
from typing import Any

import pytest
from device import FAST, Device, desks, names, request
from family import eventually

from hybridflow.broker.work import Limits
from hybridflow.errors import (
    BackendLostError,
    RequestCancelledError,
    ResourceError,
    UncertainError,
    VendorJobError,
)
from hybridflow.records import Batch, JobState, JobStatus, Usage

NOT_NOW = ResourceError("429 too many requests", transient=True)


class Moody(Device):
    """A device that does not do what it is asked, as often as it is told not to.

    Attributes
    ----------
    refusals
        Errors of the next calls of `start`, which then starts nothing.
    lost_replies
        Calls of `start` that are heard, and whose answers get lost.
    bad_days
        Jobs that fail for now, and are not billed.
    """

    def __init__(self, **capabilities: Any) -> None:
        super().__init__(**capabilities)
        self.refusals: list[Exception] = []
        self.lost_replies = 0
        self.bad_days = 0
        self.asked = 0
        self.tags: dict[str, str] = {}
        self.unbilled: set[str] = set()

    def start(self, batch: Batch, *, tag: str) -> str:
        self.asked += 1
        if self.refusals:
            raise self.refusals.pop()
        job_id = self.tags[tag] = super().start(batch, tag=tag)
        if self.bad_days:
            self.bad_days -= 1
            self.unbilled.add(job_id)
        if self.lost_replies:
            self.lost_replies -= 1
            raise BackendLostError("the connection broke")
        return job_id

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        if job_id in self.unbilled:
            return JobStatus(state=JobState.FAILED, message="session expired", transient=True)
        return super().status(job_id, wait=wait)

    def usage(self, job_id: str) -> Usage:
        return Usage() if job_id in self.unbilled else super().usage(job_id)

    def find(self, tag: str) -> str | None:
        return self.tags.get(tag)


@pytest.fixture
def open_desk() -> Iterator[Any]:
    with desks() as make:
        yield make


def test_a_vendor_that_takes_no_jobs_for_now_is_asked_again(open_desk: Any) -> None:
    device = Moody()
    device.refusals = [NOT_NOW] * 8
    desk = open_desk(device)
    assert names(desk.submit(request("a"))) == ["a"]
    assert device.asked == 9
    assert len(device.batches) == 1


def test_many_requests_outlast_a_vendor_that_is_offline(open_desk: Any) -> None:
    device = Moody(max_pubs=400)
    device.refusals = [NOT_NOW] * 9
    desk = open_desk(device)
    waiting = [desk.submit(request(f"c{i}")) for i in range(1000)]
    assert [names(one) for one in waiting] == [[f"c{i}"] for i in range(1000)]
    assert sum(len(batch.pubs) for batch in device.batches) == 1000


def test_what_is_no_circuits_fault_is_not_searched_for_a_culprit(open_desk: Any) -> None:
    device = Moody()
    desk = open_desk(device)
    desk.hold()
    waiting = [desk.submit(request(f"c{i}")) for i in range(8)]
    device.refusals = [ResourceError("401 no such key")]
    device.gate.set()
    for one in waiting:
        with pytest.raises(ResourceError, match="401 no such key"):
            one.result(10)
    assert device.asked == 2


def test_patience_ends_with_the_vendors_reason(open_desk: Any) -> None:
    device = Moody()
    device.refusals = [NOT_NOW] * 10**4
    desk = open_desk(device, limits=Limits(backoff_seconds=0.001, patience_seconds=0.05))
    with pytest.raises(ResourceError, match="429 too many") as caught:
        desk.submit(request("a")).result(20)
    assert caught.value.transient
    with pytest.raises(ResourceError, match="429 too many"):
        desk.submit(request("b")).result(20)
    device.refusals = []
    assert names(desk.submit(request("c"))) == ["c"]


def test_what_is_cancelled_while_the_vendor_refuses_is_not_sent(open_desk: Any) -> None:
    device = Moody()
    device.refusals = [NOT_NOW] * 10**6
    desk = open_desk(device, limits=Limits(backoff_seconds=0.02))
    dropped = desk.submit(request("a"))
    eventually(lambda: device.asked > 1)
    assert desk.cancel(dropped)
    with pytest.raises(RequestCancelledError):
        dropped.result(0)
    kept = desk.submit(request("b"))
    device.refusals = []
    assert names(kept) == ["b"]
    assert [pub.circuit for batch in device.batches for pub in batch.pubs] == [b"b"]


def test_a_job_that_fails_for_now_and_costs_nothing_is_run_again(open_desk: Any) -> None:
    device = Moody()
    device.bad_days = 3
    assert names(open_desk(device).submit(request("a"))) == ["a"]
    assert len(device.batches) == 4


def test_a_job_that_fails_for_ever_for_now_is_given_up(open_desk: Any) -> None:
    device = Moody()
    device.bad_days = 10**6
    desk = open_desk(device, limits=Limits(backoff_seconds=0.001, patience_seconds=0.05))
    with pytest.raises(VendorJobError, match="session expired") as caught:
        desk.submit(request("a")).result(20)
    assert caught.value.transient


@pytest.mark.parametrize("durable", [True, False])
def test_a_job_whose_id_was_lost_is_found_by_its_tag(open_desk: Any, durable: bool) -> None:
    device = Moody(tags=True, durable_jobs=durable)
    device.lost_replies = 1
    assert names(open_desk(device).submit(request("a"))) == ["a"]
    assert len(device.batches) == 1
    assert device.acquired == 2


def test_a_job_that_the_vendor_never_took_is_started_anew(open_desk: Any) -> None:
    device = Moody(tags=True)
    device.refusals = [BackendLostError("the connection broke")]
    assert names(open_desk(device).submit(request("a"))) == ["a"]
    assert len(device.batches) == 1


@pytest.mark.parametrize("decision", ["ask", "fail"])
def test_a_job_that_cannot_be_looked_up_is_not_repeated(open_desk: Any, decision: str) -> None:
    device = Moody()
    device.lost_replies = 1
    desk = open_desk(device, on_uncertain=decision)
    with pytest.raises(UncertainError, match=r"connection broke .*is not known") as caught:
        desk.submit(request("a")).result(10)
    assert not caught.value.transient
    assert len(device.batches) == 1


def test_a_job_that_cannot_be_looked_up_is_repeated_where_the_site_says_so(open_desk: Any) -> None:
    device = Moody()
    device.lost_replies = 1
    assert names(open_desk(device, on_uncertain="repeat").submit(request("a"))) == ["a"]
    assert len(device.batches) == 2


def test_a_vendor_that_does_not_even_say_what_it_has_leaves_it_uncertain(open_desk: Any) -> None:
    device = Moody(tags=True)
    device.lost_replies = 1
    desk = open_desk(device, limits=FAST)

    def find(tag: str) -> str | None:
        raise ResourceError("503", transient=True)

    device.find = find  # type: ignore[method-assign]
    with pytest.raises(UncertainError):
        desk.submit(request("a")).result(10)
    assert len(device.batches) == 1


def test_others_are_served_while_one_job_cannot_be_asked_about(open_desk: Any) -> None:
    """A vendor may be silent about one job for minutes: the other lane does not stand still."""
    device = Moody(lanes=2, durable_jobs=True)
    desk = open_desk(device, max_in_flight=2)
    status = device.status

    def silent(job_id: str, *, wait: float = 0.0) -> JobStatus:
        if job_id == "job-1" and not device.gate.is_set():
            raise NOT_NOW
        return status(job_id, wait=wait)

    device.status = silent  # type: ignore[method-assign]
    first = desk.submit(request("a"))
    assert device.started.acquire(timeout=10)
    assert names(desk.submit(request("b"))) == ["b"]
    assert not first.done()
    device.gate.set()
    assert names(first) == ["a"]

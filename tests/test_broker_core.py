"""The broker itself, without a socket: batches, limits, isolation, cancellation, faults."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from device import Desk, Device, desks, names, request
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridflow.broker.core import Broker
from hybridflow.broker.estimate import work_of
from hybridflow.broker.merging import merge
from hybridflow.broker.wake import Wake
from hybridflow.broker.work import Limits
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    BrokerLostError,
    DeadlineError,
    InternalError,
    RequestCancelledError,
    RequestError,
    ResourceError,
    TooLargeError,
    VendorJobError,
)
from hybridflow.events import (
    BrokerStarted,
    BrokerStopped,
    EventLog,
    VendorJobEnded,
    VendorJobStarted,
    read_events,
)
from hybridflow.records import (
    Batch,
    Capabilities,
    ClientInfo,
    JobState,
    JobStatus,
    PackedPub,
    Primitive,
    Request,
    Resource,
    Usage,
)


@pytest.fixture
def open_desk() -> Iterator[Any]:
    with desks() as make:
        yield make


def test_callers_that_were_just_served_go_out_together(open_desk: Any) -> None:
    desk = open_desk(Device(fixed_seconds=500))  # they are waited for, for at most ten seconds
    desk.submit(request("a", client=ClientInfo(pid=2))).result(10)
    one = desk.submit(request("b"))
    two = desk.submit(request("c", client=ClientInfo(pid=2)))
    assert one.result(5).provenance.batch_requests == 2
    assert two.result(5).provenance.vendor_job_id == one.result(5).provenance.vendor_job_id


def test_no_vendor_job_starts_that_cannot_end_before_the_slot(open_desk: Any) -> None:
    limits = Limits(deadline=time.time() + 30)
    desk = open_desk(Device(fixed_seconds=60), limits=limits)
    with pytest.raises(DeadlineError, match=r"ends in \d+ s, a vendor job may take 60 s") as caught:
        desk.submit(request("a")).result(10)
    assert caught.value.transient
    assert not desk.device.batches


def test_how_long_a_vendor_job_takes_is_learned(open_desk: Any) -> None:
    desk = open_desk(limits=Limits(deadline=time.time() + 1.5, backoff_seconds=0.001))
    held = desk.hold()
    waited = threading.Event()
    waited.wait(1.0)  # the device is busy for so long
    desk.device.gate.set()
    held.result(10)
    with pytest.raises(DeadlineError):
        desk.submit(request("a")).result(10)


def test_before_its_deadline_a_broker_serves(open_desk: Any) -> None:
    desk = open_desk(limits=Limits(deadline=time.time() + 3600))
    assert desk.submit(request("a")).result(10)


def test_a_broker_that_drains_waits_for_nobody(open_desk: Any) -> None:
    desk = open_desk(Device(fixed_seconds=10**6))
    desk.submit(request("a", client=ClientInfo(pid=2))).result(10)
    last = desk.submit(request("b"))
    desk.broker.drain(60)
    assert last.result(5).provenance.batch_requests == 1


def test_one_request_gets_its_results_and_where_they_come_from(open_desk: Any) -> None:
    desk = open_desk()
    reply = desk.submit(request("a", "b")).result(10)
    assert [part.arrays["of"] for part in reply.results] == [b"a", b"b"]
    origin = reply.provenance
    assert (origin.resource, origin.backend, origin.simulator) == ("dev", "device", False)
    assert (origin.vendor_job_id, origin.calibration) == ("job-1", "today")
    assert (origin.batch_requests, origin.batch_pubs, origin.qpu_seconds) == (1, 2, 2.0)
    assert 0 <= origin.queue_seconds < 10
    assert 0 <= origin.run_seconds < 10


def test_one_thread_of_its_own_touches_the_backend(open_desk: Any) -> None:
    desk = open_desk()
    desk.submit(request("a")).result(10)
    assert len(desk.device.threads) == 1
    assert threading.get_ident() not in desk.device.threads


def test_what_waits_goes_out_together(open_desk: Any) -> None:
    desk = open_desk()
    first = desk.hold()
    others = [desk.submit(request(f"c{i}", shots=i + 1)) for i in range(20)]
    desk.device.gate.set()
    assert [names(other) for other in others] == [[f"c{i}"] for i in range(20)]
    assert first.result(10).provenance.batch_requests == 1
    assert [len(batch.pubs) for batch in desk.device.batches] == [1, 20]
    shared = [other.result().provenance for other in others]
    assert {origin.batch_requests for origin in shared} == {20}
    # Shots are 1 … 20 for one circuit each: the parts of the cost are as the shots.
    assert [origin.qpu_seconds for origin in shared] == pytest.approx(
        [20 * (i + 1) / 210 for i in range(20)]
    )


def test_primitives_and_options_are_not_mixed(open_desk: Any) -> None:
    desk = open_desk()
    desk.hold()
    mixed = [
        desk.submit(request("a", level=1, speed=2)),
        desk.submit(request("b")),
        desk.submit(request("c", speed=2, level=1)),
        desk.submit(request("d", level=True, speed=2)),
        desk.submit(request("e")),
    ]
    desk.device.gate.set()
    assert [names(one) for one in mixed] == [["a"], ["b"], ["c"], ["d"], ["e"]]
    circuits = [[pub.circuit for pub in batch.pubs] for batch in desk.device.batches]
    assert circuits == [[b"hold"], [b"a", b"c"], [b"b", b"e"], [b"d"]]


@pytest.mark.parametrize(("seeds", "batches"), [(True, [1, 3]), (False, [1, 1, 1, 1])])
def test_seeded_requests_merge_only_where_the_backend_promises_the_same_counts(
    open_desk: Any, seeds: bool, batches: list[int]
) -> None:
    desk = open_desk(Device(seeds=seeds))
    desk.hold()
    waiting = [desk.submit(request(str(seed), seed=seed)) for seed in (0, 1, 2)]
    desk.device.gate.set()
    assert [names(one) for one in waiting] == [["0"], ["1"], ["2"]]
    assert [len(batch.pubs) for batch in desk.device.batches] == batches


def test_a_batch_keeps_to_the_limits_and_to_the_order_of_arrival(open_desk: Any) -> None:
    desk = open_desk(Device(max_pubs=4), limits=Limits(batch_bytes=1000))
    desk.hold()
    waiting = [
        desk.submit(request("a", "b", "c")),
        desk.submit(request("d", "e")),
        desk.submit(request("f")),
        desk.submit(request("g", size=900)),
        desk.submit(request("h", size=200)),
        desk.submit(request("i", size=5000)),
    ]
    desk.device.gate.set()
    assert [len(names(one)) for one in waiting] == [3, 2, 1, 1, 1, 1]
    circuits = [[pub.circuit.strip() for pub in batch.pubs] for batch in desk.device.batches]
    assert circuits == [[b"hold"], [b"a", b"b", b"c"], [b"d", b"e", b"f", b"g"], [b"h"], [b"i"]]


@pytest.mark.parametrize(
    ("lanes", "max_in_flight", "expected"), [(3, 2, 2), (2, 3, 2), (1, 3, 1), (3, 1, 1)]
)
def test_vendor_jobs_in_flight(
    open_desk: Any, lanes: int, max_in_flight: int, expected: int
) -> None:
    desk = open_desk(Device(lanes=lanes), max_in_flight=max_in_flight)
    held = [desk.submit(request("hold", level=i)) for i in range(5)]
    for _ in range(expected):
        assert desk.device.started.acquire(timeout=10)
    assert not desk.device.started.acquire(timeout=0.1)
    desk.device.gate.set()
    for one in held:
        one.result(10)
    assert len(desk.device.batches) == 5


def test_a_free_lane_takes_what_comes_while_another_job_runs(open_desk: Any) -> None:
    desk = open_desk(Device(lanes=2), max_in_flight=2)
    held = desk.hold()
    assert names(desk.submit(request("quick"))) == ["quick"]
    assert not held.done()


@pytest.mark.parametrize(
    ("wrong", "kind", "text"),
    [
        (request(), RequestError, "no PUBs"),
        (request("a", shots=0), RequestError, "at least 1"),
        (request("a", shots=-5), RequestError, "at least 1"),
        (request("a", shots=1001), TooLargeError, "1,001 shots"),
        (request(*"abcdef"), TooLargeError, "6 PUBs"),
        (request("a", colour="red"), RequestError, "'colour'"),
        (request("a", primitive=Primitive.ESTIMATOR), RequestError, "no estimator"),
        (request("a", size=1550), TooLargeError, "1,551 bytes, the queue"),
        (request("a", size=2000), TooLargeError, "2,001 bytes, a vendor job"),
    ],
)
def test_admission_refuses_without_asking_the_backend(
    open_desk: Any, wrong: Request, kind: type[Exception], text: str
) -> None:
    device = Device(max_pubs=5, max_shots=1000, max_bytes=1600, primitives=(Primitive.SAMPLER,))
    desk = open_desk(device, limits=Limits(queue_bytes=1500))
    with pytest.raises(kind, match=text) as caught:
        desk.submit(wrong)
    assert not caught.value.transient
    assert device.batches == []


def estimate(observables: bytes | None, precision: float | None) -> Request:
    pub = PackedPub(circuit=b"a", observables=observables, precision=precision)
    return Request(id="e", primitive=Primitive.ESTIMATOR, pubs=(pub,))


@pytest.mark.parametrize(
    ("observables", "precision", "text"),
    [
        (None, 0.1, "no observables"),
        (b"[]", None, "precision None"),
        (b"[]", -1.0, "precision -1"),
        (b"[]", float("nan"), "precision nan"),
        (b"[]", float("inf"), "precision inf"),
        (b"[]", 0.0, "precision 0"),
    ],
)
def test_admission_of_estimators(
    open_desk: Any, observables: bytes | None, precision: float | None, text: str
) -> None:
    with pytest.raises(RequestError, match=text):
        open_desk().submit(estimate(observables, precision))


def test_an_exact_backend_takes_precision_zero(open_desk: Any) -> None:
    assert names(open_desk(Device(exact=True)).submit(estimate(b"[]", 0.0))) == ["a"]


def test_shares_of_an_estimators_cost_go_with_the_inverse_square_of_the_precision() -> None:
    requests = [estimate(b"[]", 0.1), estimate(b"[]", 0.05), estimate(b"[]", 1e-300)]
    works = [work_of(one, Capabilities()) for one in requests]
    _, cuts = merge(requests[:2], works[:2])
    assert [cut.share for cut in cuts] == pytest.approx([0.2, 0.8])
    _, cuts = merge(requests, works)
    assert sum(cut.share for cut in cuts) == pytest.approx(1)


def test_a_full_queue_refuses_and_takes_again(open_desk: Any) -> None:
    desk = open_desk(limits=Limits(queue_bytes=1000))
    desk.hold()
    waiting = desk.submit(request("a", size=900))
    with pytest.raises(ResourceError, match=r"queue of 'dev' is full: 905 of 1,000") as caught:
        desk.submit(request("b", size=200))
    assert caught.value.transient
    assert desk.cancel(waiting)
    later = desk.submit(request("b", size=200))
    desk.device.gate.set()
    assert names(later) == ["b"]


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("bad", VendorJobError, "error 1517: circuit too bad"),
        ("refused", RequestError, "not in the basis"),
    ],
)
@pytest.mark.parametrize("guilty", [{3}, {0, 7}, {0, 1, 2, 3, 4, 5, 6, 7}])
def test_only_the_guilty_fail(
    open_desk: Any, fault: str, kind: type[Exception], text: str, guilty: set[int]
) -> None:
    desk = open_desk()
    desk.hold()
    waiting = [desk.submit(request("x", fault if i in guilty else f"c{i}")) for i in range(8)]
    desk.device.gate.set()
    for i, one in enumerate(waiting):
        if i in guilty:
            with pytest.raises(kind, match=text) as caught:
                one.result(10)
            assert not caught.value.transient
        else:
            assert names(one) == ["x", f"c{i}"]
    raised = [one.exception() for i, one in enumerate(waiting) if i in guilty]
    assert len({id(error) for error in raised}) == len(guilty)


def test_a_transient_failure_is_not_searched_for_a_culprit(open_desk: Any) -> None:
    desk = open_desk()
    desk.hold()
    waiting = [desk.submit(request("busy")), desk.submit(request("a"))]
    desk.device.gate.set()
    for one in waiting:
        with pytest.raises(VendorJobError, match="recalibrating") as caught:
            one.result(10)
        assert caught.value.transient
        assert caught.value.vendor_job_id == "job-2"
    assert len(desk.device.batches) == 2


@pytest.mark.parametrize("simulator", [True, False])
def test_what_a_device_has_run_is_not_run_again_to_find_a_fault_of_the_backend(
    open_desk: Any, simulator: bool
) -> None:
    desk = open_desk(Device(simulator=simulator))
    desk.hold()
    good, unreadable = desk.submit(request("a")), desk.submit(request("unreadable"))
    desk.device.gate.set()
    with pytest.raises(InternalError, match="counts"):
        unreadable.result(10)
    if simulator:
        assert names(good) == ["a"]
    else:
        with pytest.raises(InternalError, match="counts"):
            good.result(10)
    assert len(desk.device.batches) == (4 if simulator else 2)


def test_a_vendor_that_does_not_answer_is_asked_again(open_desk: Any) -> None:
    desk = open_desk()
    desk.device.silences = 3
    assert names(desk.submit(request("a"))) == ["a"]
    assert len(desk.device.batches) == 1
    desk.device.silences = 100
    with pytest.raises(ResourceError, match="503") as caught:
        desk.submit(request("b")).result(10)
    assert caught.value.transient
    desk.device.silences = 0
    assert names(desk.submit(request("c"))) == ["c"]


def test_a_backend_with_too_few_results_is_said_to_be_wrong(open_desk: Any) -> None:
    desk = open_desk()
    desk.device.result = lambda job_id: ()
    with pytest.raises(InternalError, match=r"gave 0 results for 2 PUBs of vendor job job-1"):
        desk.submit(request("a", "b")).result(10)


# -- cancellation ------------------------------------------------------------------------------


def test_a_waiting_request_that_is_cancelled_leaves_the_queue(open_desk: Any) -> None:
    desk = open_desk()
    desk.hold()
    dropped, kept = desk.submit(request("a")), desk.submit(request("b"))
    assert dropped.entry.state is JobState.QUEUED
    assert desk.cancel(dropped)
    assert dropped.entry.state is JobState.CANCELLED
    assert not desk.cancel(dropped)
    with pytest.raises(RequestCancelledError):
        dropped.result(10)
    desk.device.gate.set()
    assert names(kept) == ["b"]
    assert not desk.cancel(kept)
    assert [pub.circuit for batch in desk.device.batches for pub in batch.pubs] == [b"hold", b"b"]


def test_a_vendor_job_is_stopped_when_nobody_wants_it(open_desk: Any) -> None:
    desk = open_desk()
    first = desk.hold()
    two = [desk.submit(request("hold")) for _ in range(2)]
    assert first.entry.state is JobState.RUNNING
    assert desk.cancel(first)
    with pytest.raises(RequestCancelledError):
        first.result(0)
    assert desk.device.started.acquire(timeout=10)
    assert desk.device.stopped == ["job-1"]
    assert desk.cancel(two[0])
    desk.device.gate.set()
    assert names(two[1]) == ["hold"]
    assert desk.device.stopped == ["job-1"]


def test_a_durable_job_is_asked_about_for_longer(open_desk: Any) -> None:
    """It goes on at the vendor, and whoever gives it up has it paid for again."""
    limits = Limits(backoff_seconds=0.001, patience_seconds=0.2)
    desk = open_desk(Device(durable_jobs=True), limits=limits)
    desk.device.silences = limits.attempts + 1
    assert names(desk.submit(request("a"))) == ["a"]
    assert len(desk.device.batches) == 1
    desk.device.silences = 10**9
    with pytest.raises(ResourceError, match="503"):
        desk.submit(request("a")).result(10)


@pytest.mark.parametrize("transient", [True, False])
def test_a_stop_that_was_not_heard_is_said_again(
    open_desk: Any, monkeypatch: pytest.MonkeyPatch, transient: bool
) -> None:
    """Or else a job that nobody wants runs on, and is paid for."""
    desk = open_desk()
    said: list[str] = []
    looks = threading.Semaphore(0)
    status = desk.device.status

    def stop(job_id: str) -> None:
        said.append(job_id)
        if len(said) < 3:
            raise ResourceError("no answer", transient=transient)

    def look(job_id: str, *, wait: float) -> JobStatus:
        looks.release()
        return status(job_id, wait=wait)

    first = desk.hold()
    monkeypatch.setattr(desk.device, "stop", stop)
    assert desk.cancel(first)
    monkeypatch.setattr(desk.device, "status", look)
    for _ in range(5):
        assert looks.acquire(timeout=10)
    desk.device.gate.set()
    assert names(desk.submit(request("a"))) == ["a"]
    assert len(said) == (3 if transient else 1)


def test_a_job_cancelled_at_the_vendor_fails_its_requests_and_is_not_repeated(
    open_desk: Any,
) -> None:
    desk = open_desk()
    desk.hold()
    waiting = [desk.submit(request("hold")) for _ in range(2)]
    desk.device.stopped.append("job-2")
    desk.device.gate.set()
    for one in waiting:
        with pytest.raises(VendorJobError, match="was cancelled: stopped"):
            one.result(10)
    assert len(desk.device.batches) == 2


# -- the backend is lost -----------------------------------------------------------------------


def test_a_simulator_runs_lost_work_again(open_desk: Any) -> None:
    desk = open_desk(Device(simulator=True))
    desk.device.crashes = 1
    assert names(desk.submit(request("crash", "a"))) == ["crash", "a"]
    assert desk.device.acquired == 2


def test_a_request_that_kills_a_simulator_fails_alone(open_desk: Any) -> None:
    desk = open_desk(Device(simulator=True))
    desk.hold()
    waiting = [desk.submit(request("crash" if i == 2 else "a")) for i in range(5)]
    desk.device.gate.set()
    for i, one in enumerate(waiting):
        if i == 2:
            with pytest.raises(BackendLostError, match="died") as caught:
                one.result(10)
            assert caught.value.transient
        else:
            assert names(one) == ["a"]


def test_lost_work_of_a_device_is_not_paid_twice(open_desk: Any) -> None:
    desk = open_desk()
    desk.device.crashes = 1
    with pytest.raises(BackendLostError, match="died"):
        desk.submit(request("crash")).result(10)
    assert names(desk.submit(request("a"))) == ["a"]
    assert desk.device.acquired == 2
    assert len(desk.device.batches) == 2


def test_a_durable_job_is_attached_to_again(open_desk: Any) -> None:
    desk = open_desk(Device(durable_jobs=True))
    desk.device.crashes = 2
    assert names(desk.submit(request("crash"))) == ["crash"]
    assert desk.device.acquired == 3
    assert len(desk.device.batches) == 1


def test_lost_while_starting_is_said_to_be_uncertain(open_desk: Any) -> None:
    desk = open_desk(Device(durable_jobs=True))
    original = desk.device.start

    def start(batch: Batch, *, tag: str) -> str:
        original(batch, tag=tag)
        raise BackendLostError("the connection broke")

    desk.device.start = start
    with pytest.raises(BackendLostError, match=r"broke .*is not known"):
        desk.submit(request("a")).result(10)
    desk.device.start = original
    assert names(desk.submit(request("b"))) == ["b"]


def test_a_backend_that_does_not_come_back_ends_the_broker(open_desk: Any) -> None:
    ended = threading.Event()
    desk = open_desk(Device(simulator=True), on_end=ended.set)
    desk.hold()
    waiting = [desk.submit(request("crash")), desk.submit(request("a", level=1))]
    desk.device.acquire_errors = [AcquireError("not now", transient=True) for _ in range(100)]
    desk.device.gate.set()
    for one in waiting:
        with pytest.raises(BackendLostError, match=r"died; it could not .* 5 attempts: not now"):
            one.result(10)
    assert ended.wait(10)
    assert isinstance(desk.broker.error, BackendLostError)
    with pytest.raises(BackendLostError):
        desk.submit(request("a"))


def test_nobody_waits_for_ever_whatever_the_backend_does(open_desk: Any) -> None:
    desk = open_desk()
    desk.hold()
    waiting = desk.submit(request("a", level=1))

    def status(job_id: str, *, wait: float = 0.0) -> JobStatus:
        raise SystemExit("a vendor's package wants to end the process")

    desk.device.status = status
    running = desk.submit(request("b"))
    for one in (waiting, running):
        with pytest.raises(InternalError, match="wants to end"):
            one.result(10)
    assert desk.broker.join(10)


# -- life --------------------------------------------------------------------------------------


def test_the_starter_learns_why_a_backend_could_not_be_acquired() -> None:
    device = Device()
    device.acquire_errors = [AcquireError("the QPU is in maintenance", transient=True)]
    desk = Desk(device)
    with pytest.raises(AcquireError, match="maintenance"):
        desk.broker.start()
    assert desk.broker.join(10)
    assert device.released == 1
    with pytest.raises(AcquireError):
        desk.submit(request("a"))


def test_draining_ends_what_is_there_and_takes_nothing_more(open_desk: Any) -> None:
    desk = open_desk()
    first = desk.hold()
    waiting = desk.submit(request("a", level=1))
    desk.broker.drain(60)
    with pytest.raises(BrokerLostError, match="is stopping") as caught:
        desk.submit(request("b"))
    assert caught.value.transient
    desk.device.gate.set()
    assert names(first) == ["hold"]
    assert names(waiting) == ["a"]
    assert desk.broker.join(10)
    assert desk.broker.error is None


def test_what_does_not_end_in_time_fails_with_a_transient_error(open_desk: Any) -> None:
    desk = open_desk()
    running = desk.hold()
    waiting = desk.submit(request("a", level=1))
    desk.broker.drain(0.05)
    for one in (running, waiting):
        with pytest.raises(BrokerLostError, match=r"was stopped|is stopping") as caught:
            one.result(10)
        assert caught.value.transient
    assert desk.broker.join(10)
    assert desk.device.stopped == ["job-1"]


def test_events_tell_what_happened(open_desk: Any, tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    desk = open_desk(log=log)
    held = desk.hold()
    client = ClientInfo(task="t1")
    pub = PackedPub(circuit=b"a", shots=10)
    one = desk.submit(Request(id="x", primitive=Primitive.SAMPLER, pubs=(pub,), client=client))
    bad = desk.submit(request("bad", level=1))
    desk.device.gate.set()
    held.result(10)
    one.result(10)
    with pytest.raises(VendorJobError):
        bad.result(10)
    desk.broker.drain(5)
    assert desk.broker.join(10)
    log.close()
    events = read_events(tmp_path)
    assert [type(event) for event in events] == [
        BrokerStarted,
        *[VendorJobStarted, VendorJobEnded] * 3,
        BrokerStopped,
    ]
    started, ended = events[3], events[4]
    assert isinstance(started, VendorJobStarted)
    assert isinstance(ended, VendorJobEnded)
    assert (started.vendor_job_id, started.requests, started.pubs) == ("job-2", 1, 1)
    assert started.tasks == ("t1",)
    assert (ended.vendor_job_id, ended.qpu_seconds, ended.shots) == ("job-2", 1.0, 10)
    assert isinstance(events[6], VendorJobEnded)
    assert "too bad" in events[6].error


def test_events_that_cannot_be_written_do_not_cost_the_result(
    open_desk: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    log = EventLog(tmp_path / "file" / "run")
    assert names(open_desk(log=log).submit(request("a"))) == ["a"]


def test_a_broker_that_cannot_begin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(EventLog):
        def emit(self, event: object) -> None:
            raise RuntimeError("a bug of ours")

    resource = Resource(name="dev", backend="device")
    broker = Broker(resource, Device(), log=Broken(None))
    with pytest.raises(RuntimeError, match="a bug of ours"):
        broker.begin().result(10)
    assert broker.join(10)


def test_a_wake_outlives_the_modules_of_an_ending_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wake = Wake()
    monkeypatch.setattr("hybridflow.broker.wake.os", None)
    del wake  # an exception here is a warning, and a warning is an error


def test_an_unknown_cost_does_not_hold_back_the_result(open_desk: Any) -> None:
    desk = open_desk()

    def usage(job_id: str) -> Usage:
        raise KeyError("no such figure")

    desk.device.usage = usage
    reply = desk.submit(request("a")).result(10)
    assert reply.provenance.qpu_seconds == 0


# -- whatever the mix --------------------------------------------------------------------------

_one = st.fixed_dictionaries(
    {
        "pubs": st.lists(
            st.sampled_from(["a", "b", "bad", "refused", "crash"] + [f"c{i}" for i in range(12)]),
            min_size=1,
            max_size=6,
        ),
        "level": st.sampled_from([None, 1, 2]),
        "seed": st.sampled_from([None, 7]),
        "cancel": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    mix=st.lists(_one, min_size=1, max_size=25),
    max_pubs=st.sampled_from([None, 6, 8]),
    lanes=st.integers(1, 3),
    seeds=st.booleans(),
)
def test_everyone_gets_exactly_their_own_results_in_order(
    mix: list[dict[str, Any]], max_pubs: int | None, lanes: int, seeds: bool
) -> None:
    device = Device(max_pubs=max_pubs, lanes=lanes, seeds=seeds, simulator=True)
    desk = Desk(device, max_in_flight=lanes)
    desk.broker.start()
    begun = time.monotonic()
    try:
        held = desk.hold()
        submitted = []
        for one in mix:
            options = {} if one["level"] is None else {"level": one["level"]}
            submitted.append(desk.submit(request(*one["pubs"], seed=one["seed"], **options)))
        cancelled = [
            one["cancel"] and desk.cancel(future)
            for one, future in zip(mix, submitted, strict=True)
        ]
        device.gate.set()
        assert names(held) == ["hold"]
        for one, future, gone in zip(mix, submitted, cancelled, strict=True):
            error = future.exception(20)
            if gone:
                assert isinstance(error, RequestCancelledError)
            elif {"bad", "refused", "crash"} & set(one["pubs"]):
                assert isinstance(error, VendorJobError | RequestError | BackendLostError)
            else:
                assert names(future) == one["pubs"]
    finally:
        device.gate.set()
        desk.broker.drain(5)
        assert desk.broker.join(10)
    assert time.monotonic() - begun < 30
    assert all(len(batch.pubs) <= (max_pubs or 10**9) for batch in device.batches)

"""Who goes next: shares of workflows, priorities, and a bound on every wait."""

from dataclasses import dataclass
from typing import Any

import pytest
from device import request
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridflow.broker.entry import Entry
from hybridflow.broker.estimate import Estimate
from hybridflow.broker.fair import FairOrder, Room
from hybridflow.records import Capabilities, ClientInfo

FIXED, AHEAD = 0.5, 4.0


def entry(
    workflow: str = "a",
    *,
    group: str | None = "x",
    work: float = 1.0,
    weight: float = 1.0,
    priority: int = 0,
    arrived: float = 0.0,
) -> Entry:
    client = ClientInfo(workflow=workflow, weight=weight)
    made = Entry(request("c", client=client, priority=priority), group, lambda _: None, work)
    made.arrived = arrived
    return made


@pytest.fixture
def order() -> FairOrder:
    return make_order()


def make_order() -> FairOrder:
    capabilities = Capabilities(fixed_seconds=FIXED, circuit_seconds=1.0)
    return FairOrder(Estimate(capabilities), ahead=AHEAD, ageing=10.0)


def workflows(entries: list[Entry]) -> str:
    return "".join(one.request.client.workflow for one in entries)


def test_what_can_ride_goes_together_in_order_of_arrival(order: FairOrder) -> None:
    entries = [entry(group=group, arrived=i) for i, group in enumerate("xyxyx")]
    for one in entries:
        order.add(one)
    assert order.take(Room()) == entries[::2]
    assert order.take(Room()) == entries[1::2]
    assert order.take(Room()) == []
    assert len(order) == 0


def test_what_stands_alone_goes_alone(order: FairOrder) -> None:
    for _ in range(3):
        order.add(entry(group=None))
    assert [len(order.take(Room())) for _ in range(4)] == [1, 1, 1, 0]


def test_a_batch_is_shared_by_weight(order: FairOrder) -> None:
    for _ in range(12):
        order.add(entry("a", weight=3, work=0.1))
        order.add(entry("b", weight=1, work=0.1))
    first = workflows(order.take(Room(pubs=8)))
    assert (first.count("a"), first.count("b")) == (6, 2)


def test_the_room_is_kept_to_and_one_goes_anyway(order: FairOrder) -> None:
    for _ in range(5):
        order.add(entry(work=1.0))
    assert len(order.take(Room(work=2.5))) == 2
    assert len(order.take(Room(work=0.1))) == 1
    assert order.fills(Room(work=1.5))
    assert not order.fills(Room(work=2.5))


def test_priority_is_worth_waiting_time(order: FairOrder) -> None:
    old, urgent, young = entry(arrived=0), entry(arrived=8, priority=1), entry(arrived=1)
    late = entry(arrived=12, priority=1)
    for one in (old, young, urgent, late):
        order.add(one)
    assert order.take(Room()) == [urgent, old, young, late]


def test_who_was_served_much_lets_others_go_first_when_he_comes_back(order: FairOrder) -> None:
    order.add(entry("a", group=None, work=3))
    order.add(entry("b", group="y"))
    order.add(entry("b", group="z"))
    assert workflows(order.take(Room())) == "a"
    order.add(entry("a", group=None, work=3))
    assert [workflows(order.take(Room())) for _ in range(3)] == ["b", "b", "a"]


def test_what_is_removed_is_not_taken(order: FairOrder) -> None:
    one, two = entry(), entry()
    order.add(one)
    order.add(two)
    order.remove(one)
    order.remove(one)
    assert len(order) == 1
    assert order.take(Room()) == [two]


def test_nobody_rides_ahead_of_those_who_wait_for_long(order: FairOrder) -> None:
    """A big workflow cannot hang on to one that is always first, for it asks for so little."""
    longest = FIXED + 9.0
    order.add(entry("patient", group=None, work=9.0))
    order.add(entry("small", group="g", work=0.01))
    assert workflows(order.take(Room())) == "patient"
    for i in range(200):
        order.add(entry("small", group=f"g{i}", work=0.01))
        for _ in range(3):
            order.add(entry("big", group=f"g{i}", work=1.0))
    order.add(entry("patient", group=None, work=1.0))
    waited = 0.0
    while "patient" not in workflows(taken := order.take(Room(work=AHEAD - FIXED))):
        waited += FIXED + sum(one.work for one in taken)
    assert waited <= 2 * longest * (2 + 2)


@dataclass
class Arrival:
    """When it comes (in device seconds), of whom, what it can ride with, and how much it is."""

    after: float
    workflow: int
    group: str | None
    work: float
    priority: int


_requests = st.lists(
    st.builds(
        Arrival,
        after=st.sampled_from([0.0, 0.0, 0.3, 2.0]),
        workflow=st.integers(0, 3),
        group=st.sampled_from(["x", "x", "y", None]),
        work=st.sampled_from([0.01, 0.1, 1.0, 3.0, 9.0]),
        priority=st.integers(-2, 2),
    ),
    min_size=1,
    max_size=120,
)
_weights = st.lists(st.sampled_from([0.25, 1.0, 4.0]), min_size=4, max_size=4)


@settings(max_examples=200, deadline=None)
@given(requests=_requests, weights=_weights)
def test_no_workflow_waits_longer_than_the_bound(
    requests: list[Arrival], weights: list[float]
) -> None:
    """Whatever the others ask for, and whenever it comes."""
    order = make_order()
    longest = max(AHEAD, FIXED + max(one.work for one in requests))
    bounds = [
        2 * longest * sum(1 + other / weight for i, other in enumerate(weights) if i != own)
        for own, weight in enumerate(weights)
    ]
    now = clock = 0.0
    coming: list[tuple[float, Entry]] = []
    for one in requests:
        clock += one.after
        made = entry(
            str(one.workflow),
            group=one.group,
            work=one.work,
            weight=weights[one.workflow],
            priority=one.priority,
            arrived=clock,
        )
        coming.append((clock, made))
    waiting: dict[int, list[Any]] = {own: [] for own in range(4)}
    since: dict[int, float] = {}
    served = 0
    while coming or len(order):
        if not len(order):
            now = max(now, coming[0][0])
        while coming and coming[0][0] <= now:
            _, made = coming.pop(0)
            own = int(made.request.client.workflow)
            order.add(made)
            waiting[own].append(made)
            since.setdefault(own, now)
        taken = order.take(Room(work=AHEAD - FIXED))
        assert taken
        served += len(taken)
        seconds = FIXED + sum(one.work for one in taken)
        assert seconds <= longest or len(taken) == 1
        for own in {int(one.request.client.workflow) for one in taken}:
            assert now - since[own] <= bounds[own] + 1e-6
            since.pop(own)
        for one in taken:
            waiting[int(one.request.client.workflow)].remove(one)
        now += seconds
        for own, left in waiting.items():
            if left:
                since.setdefault(own, now - seconds)
    assert served == len(requests)

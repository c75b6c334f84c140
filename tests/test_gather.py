"""The gather window: who is waited for before a batch goes out, and for how long."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridflow.broker import gather
from hybridflow.broker.gather import Gather
from hybridflow.records import ClientInfo

ONE, TWO = ClientInfo(host="node", pid=1), ClientInfo(host="node", pid=2)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gather, "time", clock)
    return clock


def after_a_batch(fixed_seconds: float, run_seconds: float, *served: ClientInfo) -> Gather:
    window = Gather(fixed_seconds)
    window.ended(run_seconds)
    for client in served:
        window.served(client)
    return window


def test_nobody_waits_where_nobody_else_is_expected(clock: Clock) -> None:
    assert Gather(10).rest([ONE]) == 0
    assert after_a_batch(10, 12, ONE).rest([ONE]) == 0
    assert after_a_batch(10, 12, ONE, TWO).rest([ONE, TWO]) == 0
    assert after_a_batch(10, 12, ONE, TWO).rest([]) == 0


def test_a_batch_waits_for_a_caller_that_was_just_served(clock: Clock) -> None:
    window = after_a_batch(10, 12, ONE, TWO)
    assert window.rest([ONE]) == pytest.approx(0.2)  # 2 % of the fixed cost
    clock.now += 0.15
    assert window.rest([ONE]) == pytest.approx(0.05)
    clock.now += 0.06
    assert window.rest([ONE]) == 0


@pytest.mark.parametrize(("run_seconds", "wait"), [(0.001, 0.001), (0.01, 0.01), (5.0, 0.02)])
def test_without_a_fixed_cost_it_waits_as_long_as_a_job_takes_but_not_long(
    clock: Clock, run_seconds: float, wait: float
) -> None:
    assert after_a_batch(0, run_seconds, ONE, TWO).rest([ONE]) == pytest.approx(wait)


def test_several_callers_of_one_process_are_counted(clock: Clock) -> None:
    window = after_a_batch(10, 12, ONE, ONE, ONE)
    assert window.rest([ONE, ONE]) > 0
    assert window.rest([ONE, ONE, ONE]) == 0


def test_who_has_left_again_is_not_expected_twice(clock: Clock) -> None:
    window = after_a_batch(10, 12, ONE, TWO)
    window.left([TWO])
    assert window.rest([ONE]) == 0


def test_who_computes_between_calls_is_not_waited_for_twice(clock: Clock) -> None:
    window = after_a_batch(0.1, 1, ONE, TWO)
    assert window.rest([ONE]) == pytest.approx(0.02)
    clock.now += 0.02
    assert window.rest([ONE]) == 0
    window.left([ONE])
    window.served(TWO)
    assert window.rest([ONE]) == 0
    window.came(TWO, clock.now + 0.001)  # but again, when it has come at once
    window.left([TWO])
    window.served(TWO)
    assert window.rest([ONE]) == pytest.approx(0.02)


@given(
    st.floats(0, 100),
    st.floats(0, 100),
    st.lists(st.sampled_from([ONE, TWO])),
    st.lists(st.sampled_from([ONE, TWO])),
)
def test_the_wait_is_bounded(
    fixed: float, run: float, served: list[Any], waiting: list[Any]
) -> None:
    rest = after_a_batch(fixed, run, *served).rest(waiting)
    assert 0 <= rest <= max(0.02 * fixed, 0.02) + 1e-9

"""What a broker tells those who choose among several, and what it gives back to them."""

import os
import select
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from device import Desk, Device, desks, names, request
from family import eventually

from hybridflow.broker.entry import Entry
from hybridflow.broker.journal import Claimed, NoJournal
from hybridflow.broker.work import Limits
from hybridflow.errors import AcquireError, DeclinedError, ResourceError
from hybridflow.records import Batch, Request
from hybridflow.supervisor import Charge, Supervisors

Make = Callable[..., Desk]


class Refusing(Device):
    """A device that is offline for so many starts."""

    refusals = 0

    def start(self, batch: Batch, *, tag: str) -> str:
        if self.refusals:
            self.refusals -= 1
            raise ResourceError("503 offline", transient=True)
        return super().start(batch, tag=tag)


@pytest.fixture
def make() -> Iterator[Make]:
    with desks() as opened:
        yield opened


def movable(*circuits: str) -> Request:
    return msgspec.structs.replace(request(*circuits), insist="try")


def test_what_runs_and_what_waits_comes_before_a_new_request(make: Make) -> None:
    desk = make(Device(fixed_seconds=30.0, circuit_seconds=10.0))
    idle = desk.broker.outlook()
    assert (idle.online, idle.keeps, idle.wait_seconds) == (True, False, 0.0)
    assert idle.seconds(10.0) == 40.0
    desk.hold()
    assert 30.0 < desk.broker.outlook().wait_seconds <= 40.0
    desk.submit(request("a", "b"))
    # The new one rides with those: their work counts, but no fixed cost of their own.
    assert 50.0 < desk.broker.outlook().wait_seconds <= 60.0


def test_each_full_batch_that_waits_has_its_fixed_cost(make: Make) -> None:
    desk = make(Device(fixed_seconds=5.0, circuit_seconds=1.0, max_pubs=1))
    desk.hold()
    for _ in range(3):
        desk.submit(request("a"))
    assert desk.broker.outlook().wait_seconds > 3 * 6.0


def test_lanes_that_are_free_are_no_wait(make: Make) -> None:
    desk = make(Device(fixed_seconds=5.0, lanes=2), max_in_flight=2)
    desk.hold()
    assert desk.broker.outlook().wait_seconds == 0


def test_what_can_go_elsewhere_is_declined_and_the_rest_waits(make: Make) -> None:
    device = Refusing()
    desk = make(device, limits=Limits(backoff_seconds=1.0))
    held = desk.hold()
    waiting = [desk.submit(one) for one in (movable("a"), request("b"), movable("c"))]
    device.refusals = 1
    device.gate.set()
    assert names(held) == ["hold"]
    for future in (waiting[0], waiting[2]):
        with pytest.raises(DeclinedError, match="503 offline") as caught:
            future.result(10)
        assert caught.value.transient
    eventually(lambda: waiting[1].done() or not desk.broker.outlook().online)
    assert names(waiting[1]) == ["b"]
    assert desk.broker.outlook().online


def test_what_only_claims_is_declined_where_nothing_is_known(make: Make) -> None:
    desk = make(Device())
    future = desk.submit(msgspec.structs.replace(request("a"), insist="claim"))
    with pytest.raises(DeclinedError):
        future.result(10)
    assert desk.device.batches == []


class Keyed(NoJournal):
    """Tells requests by their key, and has nothing for them."""

    keeps = True

    def admit(self, entry: Entry) -> Claimed | None:
        entry.identity = (entry.request.key or "").encode()
        return None

    def knows(self, entry: Entry) -> bool:
        entry.identity = (entry.request.key or "").encode()
        return False


def test_a_claim_waits_behind_one_with_its_key(make: Make) -> None:
    desk = make(Device(), journal=Keyed())
    desk.hold()
    named = msgspec.structs.replace(request("a"), key="energy")
    first = desk.submit(named)
    claim = desk.submit(msgspec.structs.replace(named, id="second", insist="claim"))
    other = msgspec.structs.replace(named, id="other", key="gradient", insist="claim")
    with pytest.raises(DeclinedError):
        desk.submit(other).result(10)
    assert not claim.done()
    assert desk.cancel(first)
    with pytest.raises(DeclinedError):
        claim.result(10)


class _Broker:
    """A broker that dies when told, and cannot be started again."""

    def __init__(self) -> None:
        self.ended = os.eventfd(0)
        self.log = type("Log", (), {"read_text": lambda self, errors: ""})()

    def wait(self, timeout: float | None = None) -> int:
        select.select([self.ended], [], [])
        return -9

    def restart(self) -> None:
        raise AcquireError("gone for good")

    def drain(self, seconds: float) -> bool:
        os.eventfd_write(self.ended, 1)
        return True

    def kill(self) -> None:
        pass


def test_a_command_goes_on_until_the_last_of_its_brokers_stays_dead(
    capfd: pytest.CaptureFixture[str],
) -> None:
    brokers = {"a": _Broker(), "b": _Broker()}
    charges: list[Any] = [Charge(broker, name, {}) for name, broker in brokers.items()]  # type: ignore[arg-type]
    supervisors = Supervisors(charges, 1.0)
    os.eventfd_write(brokers["a"].ended, 1)
    eventually(lambda: "the others of the route go on" in capfd.readouterr().err)
    assert not select.select([supervisors.lost], [], [], 0)[0]
    os.eventfd_write(brokers["b"].ended, 1)
    assert select.select([supervisors.lost], [], [], 10)[0]
    assert supervisors.failed
    supervisors.close()
    for broker in brokers.values():
        os.close(broker.ended)

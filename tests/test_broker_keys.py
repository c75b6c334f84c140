"""Requests with one key: the second gets what the first is given, also while both still wait."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from device import Desk, Device, desks, names, request

from hybridflow.broker.ledger.journal import LedgerJournal
from hybridflow.broker.ledger.owner import this_process
from hybridflow.errors import BudgetError, RequestCancelledError, ResourceError, VendorJobError
from hybridflow.records import ClientInfo, Request, Resource

Open = Callable[..., Desk]


@pytest.fixture
def open_desk(tmp_path: Path) -> Iterator[Open]:
    with desks() as make:

        def with_ledger(device: Device, **options: Any) -> Desk:
            resource = Resource(name="dev", backend="device")
            owner = this_process("one", "session", {})
            return make(device, journal=LedgerJournal(tmp_path, resource, owner), **options)

        yield with_ledger


def keyed(name: str, key: str | None = "mine", *, attempt: str = "a", shots: int = 10) -> Request:
    asked = request(name, client=ClientInfo(attempt=attempt), shots=shots)
    return msgspec.structs.replace(asked, key=key)


def circuits(device: Device) -> list[str]:
    return [pub.circuit.decode() for batch in device.batches for pub in batch.pubs]


def test_what_waits_is_run_once_for_all_with_its_key(open_desk: Open) -> None:
    desk = open_desk(Device())
    held = desk.hold()
    same = [desk.submit(keyed(f"x{number}", attempt=str(number))) for number in range(3)]
    other = desk.submit(keyed("y", "yours"))
    more_shots = desk.submit(keyed("z", shots=20))
    without = [desk.submit(keyed("w", None)) for _ in range(2)]
    desk.device.gate.set()
    assert names(held) == ["hold"]
    assert [names(future) for future in same] == [["x0"]] * 3
    assert names(other) == ["y"]
    assert names(more_shots) == ["z"]
    assert [names(future) for future in without] == [["w"]] * 2
    assert sorted(circuits(desk.device)) == ["hold", "w", "w", "x0", "y", "z"]


def test_a_second_takes_the_place_of_a_first_that_is_cancelled(open_desk: Open) -> None:
    desk = open_desk(Device())
    held = desk.hold()
    first, second, third = (desk.submit(keyed(f"x{number}")) for number in range(3))
    assert desk.cancel(first)
    assert desk.cancel(third)
    desk.device.gate.set()
    assert names(held) == ["hold"]
    assert names(second) == ["x1"]
    for cancelled in (first, third):
        with pytest.raises(RequestCancelledError):
            cancelled.result(10)
    assert circuits(desk.device) == ["hold", "x1"]


def test_a_first_that_leaves_its_vendor_job_leaves_it_to_the_second(open_desk: Open) -> None:
    desk = open_desk(Device())
    first = desk.submit(keyed("hold"))
    assert desk.device.started.acquire(timeout=10)
    second = desk.submit(keyed("hold", attempt="b"))
    assert desk.cancel(first)
    desk.device.gate.set()
    assert names(second) == ["hold"]
    assert not desk.device.stopped
    assert circuits(desk.device) == ["hold"]


def test_a_second_is_run_when_the_first_fails(open_desk: Open) -> None:
    desk = open_desk(Device())
    held = desk.hold()
    bad, good = desk.submit(keyed("bad")), desk.submit(keyed("x"))
    desk.device.gate.set()
    assert names(held) == ["hold"]
    with pytest.raises(VendorJobError, match="too bad"):
        bad.result(10)
    assert names(good) == ["x"]
    assert circuits(desk.device) == ["hold", "bad", "x"]


def test_nobody_waits_for_ever_behind_one_that_was_never_sent(open_desk: Open) -> None:
    desk = open_desk(Device(fixed_seconds=0.001), budget_seconds=1.0)
    held = desk.hold()
    refused = [desk.submit(keyed("x", attempt=str(number))) for number in range(3)]
    desk.device.gate.set()
    assert names(held) == ["hold"]  # a second is used up
    for future in refused:
        with pytest.raises(BudgetError):
            future.result(10)
    assert circuits(desk.device) == ["hold"]


def test_a_second_waits_while_the_first_is_sent_again(open_desk: Open) -> None:
    class Busy(Device):
        refusals = 3

        def start(self, batch: Any, *, tag: str) -> str:
            if self.refusals:
                self.refusals -= 1
                raise ResourceError("429 too many requests", transient=True)
            return super().start(batch, tag=tag)

    desk = open_desk(Busy())
    both = [desk.submit(keyed(f"x{number}")) for number in range(2)]
    assert [names(future) for future in both] == [["x0"]] * 2
    assert circuits(desk.device) == ["x0"]

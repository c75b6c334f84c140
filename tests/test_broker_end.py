"""What becomes of a vendor job that still runs when the slot's time is up."""

import time

import pytest
from device import Device, request

from hybridflow.broker.core import Broker
from hybridflow.records import Resource


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize(
    ("durable", "seconds_left", "stopped"),
    [(True, 0, []), (False, 0, ["job-1"]), (True, 3600, ["job-1"])],
)
def test_a_durable_vendor_job_is_left_running(
    durable: bool, seconds_left: float, stopped: list[str], cancelled: bool
) -> None:
    """Its clients are ended too, by the same time limit: that is no reason to stop it."""
    device = Device(durable_jobs=durable)
    broker = Broker(Resource(name="dev", backend="device"), device)
    broker.start()
    entry = broker.submit(request("hold"), lambda outcome: None)
    assert device.started.acquire(timeout=10)
    broker.set_deadline(time.time() + seconds_left)
    if cancelled:
        broker.cancel(entry)
    broker.drain(0.2)
    assert broker.join(10)
    assert device.stopped == stopped
    assert device.released == 1

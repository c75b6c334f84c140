"""Aer behind the emulated device: in a process of its own, since it holds the GIL.

It is driven by one thread, in which also the device's time passes.
"""

import math
import threading
import time

import msgspec

from hybridflow.backends.jobs import Outcome, StoppedError
from hybridflow.backends.process import BackendProcess
from hybridflow.backends.timing import count_circuits
from hybridflow.emulator.config import DeviceOptions
from hybridflow.errors import (
    BackendLostError,
    RequestCancelledError,
    RequestError,
    VendorJobError,
)
from hybridflow.records import (
    Batch,
    Capabilities,
    PackedResult,
    Resource,
    TargetSnapshot,
    Usage,
)

__all__ = ["Simulator"]

_LOOK_SECONDS = 0.1
_END_SECONDS = 2.0
"""Patience with Aer at the end, which cannot be interrupted while it executes."""


class Simulator:
    """Results and times of one device.

    Parameters
    ----------
    name, options
        Of the device.
    """

    def __init__(self, name: str, options: DeviceOptions) -> None:
        self._options = options
        resource = Resource(name=name, backend="aer", options=msgspec.to_builtins(options.aer))
        self._aer = BackendProcess(resource, {}, release_seconds=_END_SECONDS)

    def open(self) -> tuple[Capabilities, TargetSnapshot, dict[str, str]]:
        """Start Aer; return what it can do, its target, and what identifies it."""
        self._aer.acquire()
        return self._aer.capabilities, self._aer.target(), self._aer.metadata()

    def close(self) -> None:
        """End Aer's process."""
        self._aer.release()

    def run(self, batch: Batch, stop: threading.Event, prepared: float) -> Outcome:
        """Compute a batch's results, and let the device's time pass.

        Parameters
        ----------
        batch
            What is executed.
        stop
            Set when it is to end.
        prepared
            Seconds of its fixed cost that may have passed already.

        Raises
        ------
        StoppedError
            If the event was set meanwhile.
        RequestError
            If a PUB has another size than it says.
        HybridflowError
            If it cannot be run.
        """
        started = time.monotonic()
        try:
            results, usage = self._compute(batch, stop)
        except RequestCancelledError as error:
            raise StoppedError from error
        except BackendLostError as error:
            raise VendorJobError(f"the device was interrupted: {error}", transient=True) from error
        _check_sizes(batch, results)
        timing, scale = self._options.timing, self._options.time_scale
        if timing.is_set:
            seconds = timing.seconds(count_circuits(batch), usage.shots)
            passed = min(prepared, timing.seconds_per_job * scale)
            timing.last(started, seconds * scale - passed, stop)
            usage = Usage(qpu_seconds=seconds, shots=usage.shots)
        return results, usage

    def _compute(self, batch: Batch, stop: threading.Event) -> Outcome:
        self._aer.acquire()  # it may have died under an earlier batch
        job_id = self._aer.start(batch, tag="")
        while not self._aer.status(job_id, wait=_LOOK_SECONDS).state.final:
            if stop.is_set():
                self._aer.stop(job_id)
        return self._aer.result(job_id), self._aer.usage(job_id)


def _check_sizes(batch: Batch, results: tuple[PackedResult, ...]) -> None:
    # The device's time is counted by them, and the client wrote them.
    for number, (pub, result) in enumerate(zip(batch.pubs, results, strict=True)):
        size = max(1, math.prod(result.shape))
        if pub.circuits != size:
            raise RequestError(
                f"PUB {number} of the vendor job says that it executes {pub.circuits} circuits, "
                f"and has {size}"
            )

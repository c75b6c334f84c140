"""One emulated QPU: one queue for all its users, one job at a time."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from hybridflow.backends.emulator.messages import DeviceInfo
from hybridflow.backends.jobs import Outcome, StoppedError
from hybridflow.emulator.config import DeviceOptions
from hybridflow.emulator.faults import FaultSwitch
from hybridflow.emulator.jobs import Job
from hybridflow.emulator.simulator import Simulator
from hybridflow.errors import (
    HybridflowError,
    InternalError,
    RequestError,
    ResourceError,
    TooLargeError,
)
from hybridflow.records import Batch, TargetSnapshot, Usage

__all__ = ["Device", "now"]

_log = logging.getLogger(__name__)
_PAYLOAD = 0.9
"""Part of a request that may be circuits and values; the rest is what stands around them."""
_EPOCH = time.time() - time.monotonic()


def now() -> float:
    """Return the time in seconds since 1970, on a clock that is never set back."""
    return _EPOCH + time.monotonic()


class Device:
    """A device and its queue. All but the simulation happens in the event loop's thread.

    Parameters
    ----------
    name, options
        The resource.
    faults
        Asked before each job.
    on_end
        Called with each job that has ended.
    """

    def __init__(
        self,
        name: str,
        options: DeviceOptions,
        faults: FaultSwitch,
        on_end: Callable[[Job], None],
    ) -> None:
        self.name = name
        self.options = options
        self._faults = faults
        self._on_end = on_end
        self._simulator = Simulator(name, options)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"device-{name}")
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._waiting: set[Job] = set()
        self._running: Job | None = None
        self._worker: asyncio.Task[None] | None = None

    # Life

    async def open(self, max_bytes: int) -> None:
        """Start the simulator, and begin to execute jobs; raises what the simulator raises."""
        loop = asyncio.get_running_loop()
        opened = await loop.run_in_executor(self._thread, self._simulator.open)
        capabilities, target, metadata = opened
        calibration = self.options.calibration or target.calibration or _digest(self.options)
        self.target: TargetSnapshot = msgspec.structs.replace(target, calibration=calibration)
        self.info = DeviceInfo(
            capabilities=msgspec.structs.replace(
                capabilities,
                max_pubs=self.options.max_pubs,
                max_shots=self.options.max_shots,
                lanes=self.options.lanes,
                tags=self.options.tags,
                durable_jobs=True,
                fixed_seconds=self.options.seconds_per_job * self.options.time_scale,
                circuit_seconds=self.options.seconds_per_circuit * self.options.time_scale,
                shot_seconds=self.options.seconds_per_shot * self.options.time_scale,
                serial=not self.options.overlap,
                max_bytes=int(_PAYLOAD * max_bytes),
            ),
            metadata={**metadata, "name": self.name, "calibration": calibration},
            max_bytes=max_bytes,
        )
        self._worker = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            job = await self._queue.get()
            if job in self._waiting:  # or else it was cancelled meanwhile
                self._waiting.remove(job)
                await self._execute(job)

    async def close(self) -> None:
        """Stop what runs, and end the simulator."""
        if self._running is not None:
            self._running.stop.set()
        if self._worker is not None:
            self._worker.cancel()
        # Not in the device's own thread, which may wait for Aer.
        await asyncio.to_thread(self._simulator.close)
        self._thread.shutdown()

    # Jobs

    def check(self, batch: Batch) -> None:
        """Refuse a batch that is over a limit, or that finds the queue full.

        Raises
        ------
        RequestError, ResourceError
            Why.
        """
        limits = self.options
        if not batch.pubs:
            raise RequestError(f"{self.name} was given a vendor job without PUBs")
        if any(pub.circuits < 1 or (pub.shots or 0) < 0 for pub in batch.pubs):
            raise RequestError(f"{self.name} was given a PUB with less than nothing to execute")
        if limits.max_pubs is not None and len(batch.pubs) > limits.max_pubs:
            raise TooLargeError(
                f"{self.name} takes {limits.max_pubs} PUBs a vendor job, not {len(batch.pubs)}"
            )
        most = max(pub.shots or 0 for pub in batch.pubs)
        if limits.max_shots is not None and most > limits.max_shots:
            raise TooLargeError(f"{self.name} takes {limits.max_shots} shots a PUB, not {most}")
        if len(self._waiting) >= limits.max_queued:
            raise ResourceError(
                f"the queue of {self.name} is full ({limits.max_queued} jobs): try again later",
                transient=True,
            )

    def submit(self, job: Job) -> None:
        """Put a job into the queue."""
        self._waiting.add(job)
        self._queue.put_nowait(job)

    def cancel(self, job: Job) -> None:
        """End a job: one that waits at once, one that runs as soon as the simulator lets go."""
        if job is self._running:
            job.stop.set()
        elif job in self._waiting:
            self._waiting.remove(job)
            job.cancel(now())
            self._on_end(job)

    async def _execute(self, job: Job) -> None:
        self._running, started = job, now()
        batch = job.begin(started)
        try:
            job.succeed(await self._run(job, batch, started), now())
        except StoppedError:
            ended = now()
            job.cancel(ended, Usage(qpu_seconds=self._device_seconds(ended - started)))
        except HybridflowError as error:
            job.fail(error, now())
        except Exception as error:  # the queue must outlive whatever a job does to it
            _log.exception("the job %s could not be executed", job.id)
            job.fail(InternalError(f"{type(error).__name__}: {error}"), now())
        finally:
            self._running = None
        self._on_end(job)

    async def _run(self, job: Job, batch: Batch, started: float) -> Outcome:
        fault = self._faults.failure()
        if fault is not None:
            raise fault
        loop = asyncio.get_running_loop()
        if self._faults.take("stuck_jobs"):
            await loop.run_in_executor(self._thread, job.stop.wait)
            raise StoppedError
        prepared = started - job.submitted if self.options.overlap else 0.0
        return await loop.run_in_executor(
            self._thread, self._simulator.run, batch, job.stop, prepared
        )

    def _device_seconds(self, seconds: float) -> float:
        scale = self.options.time_scale if self.options.timing.is_set else 1.0
        return seconds / scale if scale else 0.0


def _digest(options: DeviceOptions) -> str:
    # What would be another device has another name, as a calibration's date would tell.
    text = msgspec.json.encode(options, order="sorted")
    return f"emulated-{hashlib.blake2b(text, digest_size=4).hexdigest()}"

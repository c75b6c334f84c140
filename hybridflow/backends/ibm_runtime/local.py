"""The package's local mode: a fake device of IBM's, simulated with its noise in this process.

It has its own behaviour: of all options only the seed has an effect, for a whole call (and not if
it is 0). So requests' options are checked and left out, and a PUB with a seed is a call of its own.
"""

import difflib
import threading
import time
from functools import cached_property
from typing import Any

import msgspec

from hybridflow import wire
from hybridflow.backends.ibm_runtime import primitives
from hybridflow.backends.ibm_runtime.caller import quietly
from hybridflow.backends.ibm_runtime.options import IbmRuntimeOptions
from hybridflow.backends.ibm_runtime.package import runtime
from hybridflow.backends.jobs import JobThreads, Outcome, StoppedError
from hybridflow.errors import CircuitError, ResourceError, SiteError
from hybridflow.records import (
    Batch,
    Capabilities,
    JobStatus,
    PackedResult,
    TargetSnapshot,
    Usage,
)

__all__ = ["LocalDevice"]

_SEEDS = 2**31 - 1


class LocalDevice:
    """A fake device; its jobs run in one thread and end with this process.

    Parameters
    ----------
    name
        Name of the resource.
    options
        See :class:`IbmRuntimeOptions`.
    """

    def __init__(self, name: str, options: IbmRuntimeOptions) -> None:
        self._name = name
        self._options = options
        self._jobs = JobThreads(name)

    @cached_property
    def _device(self) -> Any:
        wanted, found = self._options.device, _fake_devices()
        if wanted not in found:
            near = difflib.get_close_matches(wanted, found, n=3)
            hint = f" did you mean {' or '.join(near)}?" if near else ""
            raise SiteError(
                f"key `qpu.{self._name}.device`: there is no fake device {wanted!r};{hint} allowed "
                f"are: {', '.join(sorted(found))}",
                resource=self._name,
            )
        with quietly():
            return found[wanted]()

    @property
    def capabilities(self) -> Capabilities:
        """What the fake device says of itself."""
        says = self._device.configuration()
        return Capabilities(
            simulator=True,
            num_qubits=int(says.n_qubits),
            max_pubs=getattr(says, "max_experiments", None),
            max_shots=getattr(says, "max_shots", None),
            seeds=True,
            tags=True,
            options=primitives.OPTIONS,
        )

    def target(self) -> TargetSnapshot:
        """Return the fake device's target."""
        from hybridflow.targets import snapshot_of

        return snapshot_of(self._device.target, calibration=self._calibration)

    def metadata(self) -> dict[str, str]:
        """Return the fake device's name and date of calibration."""
        return {
            "name": self._name,
            "device": str(self._device.name),
            "calibration": self._calibration,
            "mode": "local",
        }

    @property
    def _calibration(self) -> str:
        updated = getattr(self._device.properties(), "last_update_date", None)
        return updated.isoformat() if updated is not None else ""

    def acquire(self) -> None:
        """Make the device, and start the thread."""
        _ = self._device
        self._jobs.open()

    def release(self) -> None:
        """Stop what waits, and end the thread."""
        self._jobs.close()

    def start(self, batch: Batch, tag: str) -> str:
        """Queue a job and return its id."""
        if not self._jobs.is_open:
            raise ResourceError(f"{self._name} has not been acquired", resource=self._name)
        primitives.check_batch(batch, self.capabilities, self._name)
        return self._jobs.start(lambda stop: self._work(batch, stop), tag)

    def _work(self, batch: Batch, stop: threading.Event) -> Outcome:
        began = time.monotonic()
        pubs = primitives.unpack_pubs(batch)
        seeds = [pub.seed for pub in batch.pubs]
        together = [number for number, seed in enumerate(seeds) if seed is None]
        calls = [together] if together else []
        calls += [[number] for number, seed in enumerate(seeds) if seed is not None]
        found: dict[int, PackedResult] = {}
        for numbers in calls:
            if stop.is_set():
                raise StoppedError
            results = self._run(batch, [pubs[number] for number in numbers], seeds[numbers[0]])
            found |= zip(numbers, results, strict=True)
        packed = tuple(found[number] for number in range(len(pubs)))
        seconds = time.monotonic() - began
        return packed, Usage(qpu_seconds=seconds, shots=primitives.shots_of(packed))

    def _run(self, batch: Batch, pubs: list[Any], seed: int | None) -> tuple[PackedResult, ...]:
        from qiskit.exceptions import QiskitError

        more = {} if seed is None else {"simulator": {"seed_simulator": 1 + seed % _SEEDS}}
        try:
            with quietly():
                bare = msgspec.structs.replace(batch, options={})
                result = primitives.primitive(bare, self._device, **more).run(pubs).result()
        except (QiskitError, ValueError) as error:
            raise CircuitError(f"{self._name} cannot run a circuit: {error}") from error
        return tuple(wire.pack_result(part) for part in result)

    def status(self, job_id: str, wait: float) -> JobStatus:
        """Return a job's state."""
        return self._jobs.table.status(job_id, wait)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return a job's results; once."""
        return self._jobs.table.result(job_id)

    def stop(self, job_id: str) -> None:
        """Stop a job, between two calls of the package."""
        self._jobs.table.stop(job_id)

    def find(self, tag: str) -> str | None:
        """Return the id of the job with this tag: it does not outlive this process."""
        return self._jobs.table.find(tag)

    def usage(self, job_id: str) -> Usage:
        """Return what a job took of this machine."""
        return self._jobs.table.usage(job_id)


def _fake_devices() -> dict[str, Any]:
    kinds = (kind for kind in vars(runtime("fake_provider")).values() if isinstance(kind, type))
    named = {getattr(kind, "backend_name", None): kind for kind in kinds}
    return {name: kind for name, kind in named.items() if isinstance(name, str)}

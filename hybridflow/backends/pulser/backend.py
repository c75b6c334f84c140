"""``PulserBackend``: vendor jobs in one thread of this process, on pulser-simulation (QuTiP).

QuTiP holds the GIL and Pulser draws from a global generator, so that the broker hosts this backend
in a process of its own (``own_process``). Pulser is imported when it is first used.
"""

import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import msgspec

from hybridflow.backends.jobs import JobThreads, Outcome, StoppedError
from hybridflow.backends.pulser.options import PulserOptions
from hybridflow.backends.pulser.sequences import load_device, read_sequence, require
from hybridflow.backends.timing import count_shots
from hybridflow.errors import RequestError, ResourceError, SiteError, TooLargeError
from hybridflow.records import (
    Batch,
    Capabilities,
    JobStatus,
    PackedPub,
    PackedResult,
    Primitive,
    TargetSnapshot,
    Usage,
)

__all__ = ["PulserBackend"]


class PulserBackend:
    """An analogue device, simulated: ideal, or with noise.

    Parameters
    ----------
    name
        Name of the resource.
    options
        See :class:`PulserOptions`.
    credentials
        Not used.
    """

    Options: ClassVar[type[msgspec.Struct]] = PulserOptions
    own_process: ClassVar[bool] = True
    fixed_target: ClassVar[bool] = False  # a device's file may change

    def __init__(
        self,
        name: str = "pulser",
        options: PulserOptions | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.options = options or PulserOptions()
        self._jobs = JobThreads(name)

    # What it is

    @property
    def capabilities(self) -> Capabilities:
        """What the device can do.

        Raises
        ------
        SiteError
            If there is no such device.
        MissingExtraError
            If Pulser is not installed.
        """
        return Capabilities(
            primitives=(Primitive.ANALOG,),
            simulator=True,
            num_qubits=self._num_qubits,
            max_shots=self._device.max_runs,
            seeds=True,
            tags=True,
        )

    @property
    def _num_qubits(self) -> int:
        return min(self.options.num_qubits, self._device.max_atom_num or self.options.num_qubits)

    @cached_property
    def _device(self) -> Any:
        try:
            return load_device(self.options.device)
        except SiteError as error:
            raise SiteError(f"key `qpu.{self.name}.device`: {error}", resource=self.name) from error

    def target(self) -> TargetSnapshot:
        """Return the number of atoms; the device's own rules are checked when a job starts."""
        return TargetSnapshot(num_qubits=self._num_qubits, operations=())

    def metadata(self) -> dict[str, str]:
        """Return the device's name and Pulser's version."""
        version = str(require("pulser").__version__)
        return {"name": self.name, "device": self._device.name, "pulser": version}

    # Session

    def acquire(self) -> None:
        """Load the device and the simulator.

        Raises
        ------
        MissingExtraError
            If Pulser is not installed.
        SiteError
            If there is no such device.
        """
        _ = self._device, require("pulser_simulation")
        self._jobs.open()

    def release(self) -> None:
        """Stop what runs (after the sequence under way) and end the thread."""
        self._jobs.close()

    # Jobs

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with the id of each job that ends."""
        self._jobs.table.subscribe(listener)

    def start(self, batch: Batch, *, tag: str) -> str:
        """Queue a batch.

        Raises
        ------
        RequestError
            If a sequence does not fit the device, with Pulser's reason; nothing was started.
        ResourceError
            If the backend has not been acquired.
        """
        if not self._jobs.is_open:
            raise ResourceError(
                f"{self.name} has not been acquired: call acquire() before start()",
                resource=self.name,
            )
        if batch.primitive is not Primitive.ANALOG:
            raise RequestError(f"{self.name} runs sequences, not a {batch.primitive}'s circuits")
        if batch.options:
            raise RequestError(f"{self.name} understands no options: {', '.join(batch.options)}")
        sequences = [self._read(pub) for pub in batch.pubs]
        return self._jobs.start(lambda stop: self._work(batch, sequences, stop), tag)

    def _read(self, pub: PackedPub) -> Any:
        limit, shots = self._device.max_runs, pub.shots or 0
        if shots < 1:
            raise RequestError(f"a PUB asks for {pub.shots} shots; it needs at least 1")
        if limit is not None and shots > limit:
            raise TooLargeError(f"{self.name} takes {limit} shots a sequence, not {shots}")
        if pub.seed is not None and pub.seed < 0:
            raise RequestError(f"a seed must be at least 0, not {pub.seed}")
        return read_sequence(pub.circuit, self._device, self._num_qubits)

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        """Return a job's state; wait up to `wait` seconds for a final one."""
        return self._jobs.table.status(job_id, wait)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return a job's results; once."""
        return self._jobs.table.result(job_id)

    def stop(self, job_id: str) -> None:
        """Stop a job, between two sequences."""
        self._jobs.table.stop(job_id)

    def find(self, tag: str) -> str | None:
        """Return the id of the job with this tag: a job does not outlive this process."""
        return self._jobs.table.find(tag)

    def usage(self, job_id: str) -> Usage:
        """Return what a job took."""
        return self._jobs.table.usage(job_id)

    def _work(self, batch: Batch, sequences: list[Any], stop: threading.Event) -> Outcome:
        from hybridflow.backends.pulser.simulator import sample

        started = time.monotonic()
        results = []
        for pub, sequence in zip(batch.pubs, sequences, strict=True):
            if stop.is_set():
                raise StoppedError
            results.append(sample(sequence, pub.shots or 0, pub.seed, self.options.noise))
        usage = Usage(qpu_seconds=time.monotonic() - started, shots=count_shots(batch))
        return tuple(results), usage

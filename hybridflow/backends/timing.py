"""How long an imitated device takes: the timing profile that simulators and fakes share."""

import threading
import time

import msgspec

from hybridflow.backends.jobs import StoppedError
from hybridflow.records import Batch

__all__ = ["TimingProfile", "count_circuits", "count_shots"]


def count_circuits(batch: Batch) -> int:
    """Return how many bound circuits a batch executes."""
    return sum(pub.circuits for pub in batch.pubs)


def count_shots(batch: Batch) -> int:
    """Return how many shots a sampler batch takes in all."""
    return sum(pub.circuits * (pub.shots or 0) for pub in batch.pubs)


class TimingProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of an imitated device: a vendor job takes at least as long as these figures say.

    Attributes
    ----------
    seconds_per_job
        Fixed cost of a vendor job.
    seconds_per_circuit
        Cost of each bound circuit (a PUB with 10 parameter sets has 10).
    seconds_per_shot
        Cost of each shot of each bound circuit.
    """

    seconds_per_job: float = 0.0
    seconds_per_circuit: float = 0.0
    seconds_per_shot: float = 0.0

    @property
    def is_set(self) -> bool:
        """Whether there is anything to imitate."""
        return bool(self.seconds_per_job or self.seconds_per_circuit or self.seconds_per_shot)

    def seconds(self, circuits: int, shots: int) -> float:
        """Return how long a job takes, in seconds."""
        return (
            self.seconds_per_job
            + self.seconds_per_circuit * circuits
            + self.seconds_per_shot * shots
        )

    def last(self, started: float, seconds: float, stop: threading.Event) -> None:
        """Wait until `seconds` have passed since the monotonic time `started`.

        Raises
        ------
        StoppedError
            If the job is stopped meanwhile.
        """
        if stop.wait(max(0.0, started + seconds - time.monotonic())):
            raise StoppedError

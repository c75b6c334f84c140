"""The keys of a site file's ``[qpu.NAME]`` table with ``backend = "aer"``."""

import os
from typing import Literal

import msgspec

from hybridflow.backends.timing import TimingProfile

__all__ = ["AerOptions", "Method", "Precision"]

Method = Literal[
    "automatic",
    "statevector",
    "density_matrix",
    "stabilizer",
    "matrix_product_state",
    "extended_stabilizer",
]

Precision = Literal["double", "single"]


class AerOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the backend ``aer``. Without any, it is an ideal simulator.

    Attributes
    ----------
    device
        Class name of a fake device of qiskit-ibm-runtime, such as ``FakeTorino``: its target, and
        its full noise (some 10,000 times slower than ideal) unless cheap noise is given.
    depolarizing
        Cheap noise: probability that a shot is replaced by uniformly random bits.
    readout_flip
        Cheap noise: probability that a measured bit is flipped. With a `device`, either of the two
        (0 is allowed) takes the place of the device's noise.
    method
        Aer's simulation method.
    precision
        Of the amplitudes that shots are drawn from: ``single`` (7 digits) takes half the memory,
        and about half the time above 20 qubits. Exact expectation values stay in double.
    num_qubits
        Largest circuit that is accepted; without it, memory (or the device) is the bound.
    seed
        Seed of everything that has no seed of its own: the same batches in the same order then
        give the same results. Without it, fresh randomness.
    threads
        Threads of the simulator; 0: one a core that this process may use.
    memory_mib
        Memory that states may take, in MiB; 0: what is free.
    seconds_per_job, seconds_per_circuit, seconds_per_shot
        Timing profile of an imitated device: a vendor job takes (and bills) at least that long.
    """

    device: str | None = None
    depolarizing: float | None = None
    readout_flip: float | None = None
    method: Method = "automatic"
    precision: Precision = "double"
    num_qubits: int | None = None
    seed: int | None = None
    threads: int = 0
    memory_mib: int = 0
    seconds_per_job: float = 0.0
    seconds_per_circuit: float = 0.0
    seconds_per_shot: float = 0.0

    def __post_init__(self) -> None:
        for name in ("depolarizing", "readout_flip"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"`{name}` is a probability, between 0 and 1, not {value}")
        for name in ("threads", "memory_mib", "seed", *_SECONDS):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` must be at least 0, not {value}")
        if self.num_qubits is not None and self.num_qubits < 1:
            raise ValueError(f"`num_qubits` must be at least 1, not {self.num_qubits}")

    @property
    def has_cheap_noise(self) -> bool:
        """Whether cheap noise was asked for, be it zero."""
        return self.depolarizing is not None or self.readout_flip is not None

    @property
    def has_device_noise(self) -> bool:
        """Whether a device's full noise is simulated."""
        return self.device is not None and not self.has_cheap_noise

    @property
    def thread_count(self) -> int:
        """Number of threads, with 0 resolved."""
        return self.threads or len(os.sched_getaffinity(0))

    @property
    def bytes_per_amplitude(self) -> int:
        """Memory that a complex number takes."""
        return 8 if self.precision == "single" else 16

    @property
    def timing(self) -> TimingProfile:
        """The timing profile."""
        return TimingProfile(**{name: getattr(self, name) for name in _SECONDS})


_SECONDS = ("seconds_per_job", "seconds_per_circuit", "seconds_per_shot")

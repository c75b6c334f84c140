"""The quantum step: samples of the ansatz from a QPU slot, and what they are worth."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybridflow import wire
from hybridflow.errors import InputError
from hybridflow.records import Provenance
from hybridflow.tasks import quantum_task

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Samples", "count_valid", "sample"]


SAMPLES = "sqd samples"
"""What they are known by in their run: when it goes on, the circuit's last digits may differ."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Bit strings that a resource sampled.

    Attributes
    ----------
    packed
        ``uint8`` of shape ``(shots, bytes)``, eight bits a byte, as in Qiskit's ``BitArray``.
    bits
        Bits of each sample: a spin orbital each, alpha on the right.
    provenance
        Where they came from.
    """

    packed: "np.ndarray[Any, Any]"
    bits: int
    provenance: Provenance

    @property
    def distinct(self) -> int:
        """Number of different samples."""
        import numpy as np

        return len(np.unique(self.packed, axis=0))

    def matrix(self) -> "np.ndarray[Any, Any]":
        """Return the samples as ``bool`` of shape ``(shots, bits)``."""
        import numpy as np

        return np.unpackbits(self.packed, axis=-1)[:, -self.bits :].astype(bool)


@quantum_task
def sample(circuit: bytes, shots: int, seed: int, resource: str) -> Samples:
    """Return samples of a circuit (QPY, in the resource's instructions)."""
    from hybridflow.primitives import Sampler

    job = Sampler(resource, seed=seed).run(
        [wire.circuit_from_qpy(circuit)], shots=shots, key=SAMPLES
    )
    measured = job.result()[0].data.meas
    return Samples(measured.array, measured.num_bits, job.provenance())


def count_valid(matrix: "np.ndarray[Any, Any]", electrons: tuple[int, int]) -> int:
    """Return how many samples have the right number of electrons of each spin.

    Raises
    ------
    InputError
        If none has: there is nothing to start from.
    """
    half = matrix.shape[1] // 2
    alpha, beta = matrix[:, half:].sum(axis=1), matrix[:, :half].sum(axis=1)
    valid = int(((alpha == electrons[0]) & (beta == electrons[1])).sum())
    if not valid:
        raise InputError(
            f"none of the {len(matrix)} samples has {electrons[0]} electrons of one spin and "
            f"{electrons[1]} of the other: noise has taken over; ask for more --shots, or for a "
            "smaller --active-space"
        )
    return valid

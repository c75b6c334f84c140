"""Cheap noise: global depolarizing and readout flips, by NumPy, after an ideal simulation.

It costs next to nothing at any size, where a device's noise model costs some 10,000 times an ideal
run. A shot is replaced by uniformly random bits with the probability `depolarizing`; then each
measured bit is flipped with the probability `readout_flip`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridflow.backends.aer.bits import pack, unpack
from hybridflow.backends.aer.options import AerOptions
from hybridflow.backends.aer.plan import Plan

__all__ = ["CheapNoise"]

Bits = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class CheapNoise:
    """Two probabilities, and what they do to samples and to expectation values."""

    depolarizing: float = 0.0
    readout_flip: float = 0.0

    @classmethod
    def of(cls, options: AerOptions) -> "CheapNoise":
        """Return the noise that the options ask for."""
        return cls(options.depolarizing or 0.0, options.readout_flip or 0.0)

    def __bool__(self) -> bool:
        return bool(self.depolarizing or self.readout_flip)

    def factor(self, weight: int) -> float:
        """Return what is left of the expectation value of a Pauli on `weight` > 0 qubits."""
        return float((1 - self.depolarizing) * (1 - 2 * self.readout_flip) ** weight)

    def apply(self, memory: Bits, plan: Plan, rng: np.random.Generator) -> Bits:
        """Return one binding's shots with noise.

        Parameters
        ----------
        memory
            All classical bits of each shot, packed: shape (shots, bytes).
        plan
            The circuit.
        rng
            Where the randomness comes from.
        """
        bits = unpack(memory, plan.circuit.num_clbits)
        written = np.array(plan.written, dtype=np.int64)
        hit = np.flatnonzero(rng.random(len(bits)) < self.depolarizing)
        if hit.size:
            bits[np.ix_(hit, written)] = self._random_outcomes(len(hit), plan, rng)
        flips = rng.random((len(bits), len(written))) < self.readout_flip
        bits[:, written] ^= flips.astype(np.uint8)
        return pack(bits)

    def _random_outcomes(self, count: int, plan: Plan, rng: np.random.Generator) -> Bits:
        if not plan.static:
            return rng.integers(0, 2, (count, len(plan.written)), dtype=np.uint8)
        # Two bits that hold the same measured qubit stay equal.
        outcomes = rng.integers(0, 2, (count, len(plan.outcome_qubits)), dtype=np.uint8)
        places = plan.outcome_places[list(plan.written)]
        return np.ascontiguousarray(outcomes[:, places])

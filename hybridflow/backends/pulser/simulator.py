"""One sequence on QuTiP: its final state, sampled, as a packed result."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from hybridflow import wire
from hybridflow.backends.pulser.sequences import require
from hybridflow.records import PackedResult

__all__ = ["sample"]


def sample(sequence: Any, shots: int, seed: int | None, noise: dict[str, float]) -> PackedResult:
    """Return `shots` samples of a sequence's final state, in the register ``meas``.

    The leftmost bit is the register's first atom, as in Pulser's own bitstrings.
    """
    backend, simulation = require("pulser.backend"), require("pulser_simulation")
    config: dict[str, Any] = {
        "observables": [backend.BitStrings(evaluation_times=[1.0], num_shots=shots)]
    }
    if noise:
        config["noise_model"] = require("pulser").NoiseModel(**noise)
    with _randomness(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to a person at a prompt; nobody is there
        made = simulation.QutipBackendV2(sequence, config=simulation.QutipConfig(**config))
        counts = made.run().final_bitstrings
        return _packed(counts, len(sequence.register.qubit_ids), shots)


@contextmanager
def _randomness(seed: int | None) -> Iterator[None]:
    # Pulser draws from numpy's global generator: it is set for this sequence, and put back.
    before = np.random.get_state()
    np.random.seed(None if seed is None else np.random.SeedSequence(seed).generate_state(8))
    try:
        yield
    finally:
        np.random.set_state(before)


def _packed(counts: dict[str, int], num_bits: int, shots: int) -> PackedResult:
    from qiskit.primitives import BitArray, DataBin, SamplerPubResult

    outcomes = sorted(counts)
    rows = BitArray.from_samples(outcomes, num_bits).array
    samples = np.repeat(rows, [counts[outcome] for outcome in outcomes], axis=0)
    np.random.shuffle(samples)  # Pulser counts; a user may look at the first hundred shots
    data = DataBin(meas=BitArray(samples, num_bits), shape=())
    return wire.pack_result(SamplerPubResult(data, {"shots": shots}))

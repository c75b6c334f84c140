"""Sampler PUBs as circuits to run, and their counts as results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hybridflow import wire
from hybridflow.backends.qiskit_api.counts import Counts, bits_of, check_registers, shots_of
from hybridflow.errors import RequestError
from hybridflow.records import PackedPub, PackedResult, Primitive

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.primitives.containers.sampler_pub import SamplerPub

__all__ = ["SamplerPlan", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """A bound circuit to run.

    Attributes
    ----------
    circuit
        The circuit.
    shots
        How often.
    seed
        Of these shots, with those of the same PUB; None: fresh randomness.
    """

    circuit: "QuantumCircuit"
    shots: int
    seed: int | None = None


class SamplerPlan:
    """One sampler PUB.

    Parameters
    ----------
    packed
        The PUB.

    Raises
    ------
    RequestError
        If it cannot be run.
    """

    def __init__(self, packed: PackedPub) -> None:
        self._seed = packed.seed
        self._pub = cast("SamplerPub", wire.unpack_pub(packed, Primitive.SAMPLER))
        check_registers(self._pub.circuit)

    @property
    def circuit(self) -> "QuantumCircuit":
        """The circuit, not bound."""
        return self._pub.circuit

    def wanted(self) -> list[Wanted]:
        """Return the circuits to run, one a binding."""
        from qiskit.exceptions import QiskitError

        shots = self._pub.shots
        try:
            bound: Any = self._pub.parameter_values.bind_all(self.circuit)
        except (QiskitError, ValueError) as error:
            raise RequestError(
                f"the circuit {self.circuit.name!r} cannot be bound: {error}"
            ) from error
        return [Wanted(circuit, shots, self._seed) for circuit in np.ravel(bound).tolist()]

    def result(self, counts: Sequence[Counts]) -> PackedResult:
        """Return the PUB's result.

        Raises
        ------
        VendorJobError
            If the counts do not fit.
        """
        from qiskit.primitives import DataBin, SamplerPubResult

        shape = self._pub.shape
        shots = shots_of(counts, self.circuit.num_clbits, shape, self._seed)
        data = DataBin(**bits_of(shots, self.circuit), shape=shape)
        return wire.pack_result(SamplerPubResult(data, {"shots": shots.shape[-2]}))

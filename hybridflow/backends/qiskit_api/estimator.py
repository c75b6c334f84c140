"""Estimator PUBs as circuits to run, and their counts as results: by Qiskit's own estimator.

``BackendEstimatorV2`` groups what commutes, measures each group in its basis, and computes from
counts. It is asked twice: first for the circuits that it wants to run, and when they have been,
once more with their counts. So nobody has to wait in between, and the arithmetic is Qiskit's.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from hybridflow import wire
from hybridflow.backends.qiskit_api.counts import Counts, check_registers
from hybridflow.backends.qiskit_api.sampler import Wanted
from hybridflow.errors import RequestError
from hybridflow.records import PackedPub, PackedResult, Primitive

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.primitives import PubResult
    from qiskit.primitives.containers.estimator_pub import EstimatorPub
    from qiskit.transpiler import Target

__all__ = ["EstimatorPlan"]


class EstimatorPlan:
    """One estimator PUB.

    Parameters
    ----------
    packed
        The PUB.
    target
        The device's target: measurements are made of its gates.

    Raises
    ------
    RequestError
        If it cannot be run.
    """

    def __init__(self, packed: PackedPub, target: "Target") -> None:
        self._pub = cast("EstimatorPub", wire.unpack_pub(packed, Primitive.ESTIMATOR))
        self._seed = packed.seed
        self._target = target
        if not self._pub.precision > 0:
            raise RequestError(
                "precision 0 asks for exact values, which a backend that gives counts does not "
                "have; ask for a precision above 0"
            )
        check_registers(self._pub.circuit)

    @property
    def circuit(self) -> "QuantumCircuit":
        """The circuit, not bound and not measured."""
        return self._pub.circuit

    def wanted(self) -> list[Wanted]:
        """Return the circuits to run: one a binding and group of observables."""
        from qiskit.exceptions import QiskitError

        shots = math.ceil(1.0 / self._pub.precision**2)
        seen: list[QuantumCircuit] = []

        def look(circuits: "list[QuantumCircuit]") -> list[dict[str, int]]:
            seen.extend(circuits)
            return [{_text(circuit, 0): shots} for circuit in circuits]

        try:
            self._ask(look)
        except (QiskitError, ValueError, TypeError) as error:
            raise RequestError(
                f"the circuit {self.circuit.name!r} and its observables cannot be measured: {error}"
            ) from error
        return [Wanted(circuit, shots, self._seed) for circuit in seen]

    def result(self, counts: Sequence[Counts]) -> PackedResult:
        """Return the PUB's result, from the counts of each circuit that was wanted."""
        rest = iter(counts)

        def give(circuits: "list[QuantumCircuit]") -> list[dict[str, int]]:
            return [
                {_text(circuit, value): count for value, count in next(rest).items()}
                for circuit in circuits
            ]

        return wire.pack_result(self._ask(give))

    def _ask(self, answer: Any) -> "PubResult":
        from qiskit.primitives import BackendEstimatorV2

        from hybridflow.backends.qiskit_api.stand_in import StandIn

        estimator = BackendEstimatorV2(backend=StandIn(self._target, answer))
        return estimator.run([self._pub]).result()[0]


def _text(circuit: "QuantumCircuit", value: int) -> str:
    # The register that was added for the measurement is the last, and stands first in the text.
    bits = f"{value:0{circuit.num_clbits}b}"
    size = circuit.cregs[-1].size
    return f"{bits[:size]} {bits[size:]}".strip()

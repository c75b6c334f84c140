"""How well a device should run a circuit, by its calibration: a figure of merit.

It is the product of the fidelities ``1 - error`` of all gates and measurements of the transpiled
circuit, with the error rates of the target: the default cost of mapomatic (Nation and Treinish,
"Suppressing quantum circuit errors due to system variability", PRX Quantum 4, 010327, 2023), here
as its logarithm, which no number of gates brings to 0. It knows neither idling nor crosstalk.
"""

import math
from collections.abc import Iterator

from qiskit import QuantumCircuit
from qiskit.transpiler import Target

__all__ = ["log_fidelity"]


def log_fidelity(circuit: QuantumCircuit, target: Target) -> float:
    """Return the logarithm of the product of fidelities of a circuit that a target can run.

    Of control flow each block counts once. An instruction without an error rate counts as perfect;
    where none has one, nothing is known: the result is minus infinity, as for a gate that always
    fails.
    """
    errors = list(_errors(circuit, target, tuple(range(circuit.num_qubits))))
    known = [error for error in errors if error is not None]
    if not known or max(known) >= 1:
        return -math.inf
    return math.fsum(math.log1p(-error) for error in known)


def _errors(
    circuit: QuantumCircuit, target: Target, outer: tuple[int, ...]
) -> Iterator[float | None]:
    # `outer`: the device's qubits that those of the circuit, or of a block in it, stand for.
    for instruction in circuit.data:
        qubits = tuple(outer[circuit.find_bit(qubit).index] for qubit in instruction.qubits)
        if instruction.is_control_flow():
            for block in instruction.operation.blocks:
                yield from _errors(block, target, qubits)
        elif instruction.name in target.operation_names:
            found = target[instruction.name].get(qubits)
            yield None if found is None else found.error

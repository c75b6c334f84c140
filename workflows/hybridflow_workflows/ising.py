"""The model that the short workflows compute: a chain of spins in a transverse field.

With open ends, in units of the coupling::

    H = - sum_i Z_i Z_(i+1) - field * sum_i X_i

Small enough to be solved exactly beside every run, and the usual first example on a device
(`Kim et al. 2023 <https://doi.org/10.1038/s41586-023-06096-3>`_).
"""

from typing import TYPE_CHECKING, Any

from hybridflow.errors import InputError

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.circuit import Parameter
    from qiskit.quantum_info import SparsePauliOp

__all__ = [
    "LARGEST",
    "check_size",
    "evolved_magnetization",
    "ground_energy",
    "hamiltonian",
    "magnetization",
    "quench",
]

LARGEST = 16
"""Spins at most: what an exact solution takes seconds for."""


def check_size(qubits: int) -> None:
    """Refuse a chain without a bond, and one that cannot be solved exactly.

    Raises
    ------
    InputError
        If it is one.
    """
    if not 2 <= qubits <= LARGEST:
        raise InputError(
            f"--qubits must be between 2 and {LARGEST}, since the exact result is computed too; "
            f"not {qubits}"
        )


def hamiltonian(qubits: int, field: float) -> "SparsePauliOp":
    """Return the chain's Hamiltonian."""
    from qiskit.quantum_info import SparsePauliOp

    bonds = [("ZZ", [place, place + 1], -1.0) for place in range(qubits - 1)]
    fields = [("X", [place], -field) for place in range(qubits)]
    return SparsePauliOp.from_sparse_list([*bonds, *fields], num_qubits=qubits)


def magnetization(qubits: int) -> "SparsePauliOp":
    """Return the mean of Z over the chain."""
    from qiskit.quantum_info import SparsePauliOp

    terms = [("Z", [place], 1 / qubits) for place in range(qubits)]
    return SparsePauliOp.from_sparse_list(terms, num_qubits=qubits)


def quench(qubits: int, steps: int, time: float, field: "float | Parameter") -> "QuantumCircuit":
    """Return the circuit of a quench: all spins up, then `time` under the Hamiltonian.

    Parameters
    ----------
    qubits
        Spins of the chain.
    steps
        First-order Trotter steps.
    time
        In units of the inverse coupling.
    field
        The transverse field, or a parameter that stands for it.
    """
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(qubits, name="quench")
    step = time / steps
    for _ in range(steps):
        for first in (0, 1):  # every other bond at a time: they do not touch
            for place in range(first, qubits - 1, 2):
                circuit.rzz(-2 * step, place, place + 1)
        for place in range(qubits):
            circuit.rx(-2 * step * field, place)
    return circuit


def ground_energy(operator: "SparsePauliOp") -> float:
    """Return an operator's lowest eigenvalue, by exact diagonalization."""
    import numpy as np
    from scipy.sparse.linalg import eigsh

    if operator.num_qubits < 4:  # too small for an iterative method
        return float(np.linalg.eigvalsh(operator.to_matrix())[0])
    # A fixed start: the last digits are the same each time.
    start = np.ones(2**operator.num_qubits)
    lowest: Any = eigsh(
        operator.to_matrix(sparse=True), k=1, which="SA", v0=start, return_eigenvectors=False
    )
    return float(lowest[0])


def evolved_magnetization(qubits: int, time: float, field: float) -> float:
    """Return the magnetization after a quench, without Trotter's error."""
    import numpy as np
    from scipy.sparse.linalg import expm_multiply

    up = np.zeros(2**qubits, dtype=complex)
    up[0] = 1.0
    state = expm_multiply(-1j * time * hamiltonian(qubits, field).to_matrix(sparse=True), up)
    return float(np.vdot(state, magnetization(qubits).to_matrix(sparse=True) @ state).real)

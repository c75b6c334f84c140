"""A circuit and what is measured of it, both on a resource's own qubits and in its instructions."""

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.quantum_info import SparsePauliOp

    from hybridflow.site import Site

__all__ = ["prepared"]


def prepared(
    circuit: "QuantumCircuit", observable: "SparsePauliOp", site: "Site"
) -> "tuple[QuantumCircuit, SparsePauliOp]":
    """Transpile for the default resource of a site; the observable follows its qubits."""
    from hybridflow.primitives import transpile

    transpiled = cast("QuantumCircuit", transpile(circuit, site=site))
    return transpiled, observable.apply_layout(transpiled.layout, transpiled.num_qubits)

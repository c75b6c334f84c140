"""The target of the fake QPU: gates without errors or durations, anywhere or on given pairs."""

from collections.abc import Iterable

from hybridflow.errors import SiteError
from hybridflow.records import TargetOperation, TargetSnapshot

__all__ = ["fake_target"]

_ALWAYS = ("measure", "reset", "delay")


def fake_target(
    num_qubits: int,
    basis_gates: Iterable[str] = (),
    coupling: Iterable[tuple[int, int]] = (),
) -> TargetSnapshot:
    """Return a target with these gates; without names, with all standard gates.

    Parameters
    ----------
    num_qubits
        Qubits of the device.
    basis_gates
        Qiskit's names of standard gates.
    coupling
        Pairs on which two-qubit gates may stand, in both directions; empty: all pairs. With
        a coupling there is no gate on more than two qubits.
    """
    from qiskit.circuit.library import get_standard_gate_name_mapping

    known = get_standard_gate_name_mapping()
    names = sorted({*(basis_gates or known), *_ALWAYS})
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SiteError(f"`basis_gates` has no standard gates of Qiskit's: {', '.join(unknown)}")
    pairs = sorted({pair for a, b in coupling for pair in ((a, b), (b, a))})
    operations = []
    for name in names:
        gate = known[name]
        places = None
        if pairs and gate.num_qubits > 2:
            continue
        if pairs and gate.num_qubits == 2:
            places = tuple((pair, None, None) for pair in pairs)
        operations.append(
            TargetOperation(
                name=name,
                num_qubits=gate.num_qubits,
                parameters=tuple(parameter.name for parameter in gate.params),
                places=places,
            )
        )
    return TargetSnapshot(num_qubits=num_qubits, operations=tuple(operations))

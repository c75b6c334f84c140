"""The target of an ideal Aer: everything that it can execute and a PUB can ask for."""

import msgspec

from hybridflow.records import TargetSnapshot
from hybridflow.targets import snapshot_of

__all__ = ["ideal_target"]

_NOT_FOR_PUBS = ("save_", "set_", "kraus", "quantum_channel", "superop", "roerror", "qerror_loc")
"""Names of Aer's own instructions, for looking into a simulation or for noise."""


def ideal_target(num_qubits: int | None) -> TargetSnapshot:
    """Return Aer's instructions, each of them anywhere.

    Parameters
    ----------
    num_qubits
        Largest circuit; None: no bound but memory.
    """
    from qiskit_aer import AerSimulator

    found = snapshot_of(AerSimulator().target)
    operations = tuple(
        msgspec.structs.replace(operation, places=None)
        for operation in found.operations
        if not operation.name.startswith(_NOT_FOR_PUBS)
    )
    return TargetSnapshot(num_qubits=num_qubits, operations=operations)

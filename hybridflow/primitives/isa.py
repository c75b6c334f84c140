"""Whether a circuit is in the instruction set (ISA) of a target, and what in it is not."""

import functools
from collections.abc import Iterator

from qiskit import QuantumCircuit
from qiskit.circuit import CONTROL_FLOW_OP_NAMES
from qiskit.converters import circuit_to_dag
from qiskit.transpiler import Target
from qiskit.transpiler.passes import GatesInBasis

from hybridflow.records import TargetSnapshot
from hybridflow.targets import target_of

__all__ = ["foreign_instructions", "is_isa", "qiskit_target"]

_ANYWHERE = frozenset({"barrier", "store"})  # no instruction of a device, and none of its business

_targets: dict[int, tuple[TargetSnapshot, Target]] = {}


def qiskit_target(snapshot: TargetSnapshot) -> Target:
    """Return the target of a broker's snapshot: made once for each snapshot object."""
    # By identity: a snapshot of a large device takes longer to hash than a call may last. The entry
    # keeps the snapshot alive, so that its identity is not given to another.
    entry = _targets.get(id(snapshot))
    if entry is None:
        while len(_targets) >= 16:
            _targets.pop(next(iter(_targets)), None)
        entry = _targets[id(snapshot)] = (snapshot, target_of(snapshot))
    return entry[1]


@functools.lru_cache(maxsize=16)
def _stand_anywhere(target: Target) -> frozenset[tuple[str, int]]:
    """Return the plain instructions that a target runs on all qubits: name, number of qubits."""
    return frozenset(
        (name, target.operation_from_name(name).num_qubits)
        for name in target.operation_names
        if target.qargs_for_operation_name(name) is None and name not in CONTROL_FLOW_OP_NAMES
    )


def is_isa(circuit: QuantumCircuit, target: Target) -> bool:
    """Whether a target can run a circuit as it is: each instruction, on the qubits it stands on."""
    anywhere = _stand_anywhere(target)
    if all(
        (instruction.name, len(instruction.qubits)) in anywhere or instruction.name == "barrier"
        for instruction in circuit.data
    ):
        return True
    check = GatesInBasis(target=target)
    check.run(circuit_to_dag(circuit, copy_operations=False))
    return bool(check.property_set["all_gates_in_basis"])


def foreign_instructions(
    circuit: QuantumCircuit, target: Target, outer: tuple[int, ...] | None = None
) -> Iterator[str]:
    """Describe each instruction that a target cannot run, also inside control flow.

    Parameters
    ----------
    circuit
        The circuit, or a block of control flow in it.
    target
        The target.
    outer
        The qubits of the whole circuit that those of `circuit` stand for, if it is a block.
    """
    outer = tuple(range(circuit.num_qubits)) if outer is None else outer
    for place, instruction in enumerate(circuit.data):
        qubits = tuple(outer[circuit.find_bit(qubit).index] for qubit in instruction.qubits)
        name = instruction.operation.name
        known = name in target.operation_names
        if instruction.is_control_flow() and known:
            for block in instruction.operation.blocks:
                yield from foreign_instructions(block, target, qubits)
        elif name not in _ANYWHERE and not (known and target.instruction_supported(name, qubits)):
            yield f"instruction {place}, {name!r} on qubits {qubits}"

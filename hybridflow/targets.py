"""Qiskit's ``Target`` as data, and back: a device's instruction set without the device.

A backend takes the snapshot (:func:`snapshot_of`), a broker or a file carries it, and the process
that transpiles makes a ``Target`` of it again (:func:`target_of`). Gates, places, durations, error
rates and the time step are kept; qubit properties (T1, T2) and pulse alignment are not.
"""

from typing import TYPE_CHECKING, Any

from hybridflow.records import TargetOperation, TargetSnapshot

if TYPE_CHECKING:
    from qiskit.circuit import Instruction
    from qiskit.transpiler import Target

__all__ = ["snapshot_of", "target_of"]


def snapshot_of(target: "Target", *, calibration: str = "") -> TargetSnapshot:
    """Return a target as data, its operations sorted by name.

    Parameters
    ----------
    target
        Qiskit's target.
    calibration
        What tells this snapshot from another of the same device, such as a date.
    """
    return TargetSnapshot(
        num_qubits=target.num_qubits or None,  # 0 where every operation may stand anywhere
        operations=tuple(_operation_of(target, name) for name in sorted(target.operation_names)),
        dt=target.dt,
        calibration=calibration,
    )


def _operation_of(target: "Target", name: str) -> TargetOperation:
    operation = target.operation_from_name(name)
    if isinstance(operation, type):
        # Of variable width, as control flow is: a class stands in the target, anywhere.
        return TargetOperation(name=name, num_qubits=0)
    return TargetOperation(
        name=name,
        num_qubits=operation.num_qubits,
        parameters=tuple(_parameter_of(value) for value in operation.params),
        places=_places_of(target, name),
        gate="" if operation.name == name else operation.name,
    )


def _parameter_of(value: Any) -> str | float:
    from qiskit.circuit import ParameterExpression

    return str(value) if isinstance(value, ParameterExpression) else float(value)


def _places_of(
    target: "Target", name: str
) -> tuple[tuple[tuple[int, ...], float | None, float | None], ...] | None:
    properties = target[name]
    if None in properties:
        return None
    return tuple(
        (
            tuple(qubits),
            None if place is None else place.duration,
            None if place is None else place.error,
        )
        for qubits, place in sorted(properties.items())
    )


def target_of(snapshot: TargetSnapshot) -> "Target":
    """Return Qiskit's target of a snapshot, a new one at each call.

    An operation whose name Qiskit does not know becomes an opaque ``Gate`` of that name.
    """
    from qiskit.transpiler import InstructionProperties, Target

    target = Target(num_qubits=snapshot.num_qubits, dt=snapshot.dt)
    for operation in snapshot.operations:
        if operation.num_qubits == 0:
            target.add_instruction(_class_of(operation.name), name=operation.name)
            continue
        properties = None
        if operation.places is not None:
            properties = {
                qubits: None
                if duration is None and error is None
                else InstructionProperties(duration, error)
                for qubits, duration, error in operation.places
            }
        target.add_instruction(_instruction_of(operation), properties, name=operation.name)
    return target


def _class_of(name: str) -> type:
    from qiskit.circuit import Gate, Store, controlflow, library

    known: dict[str, type] = {
        **controlflow.get_control_flow_name_mapping(),
        "diagonal": library.DiagonalGate,
        "initialize": library.Initialize,
        "mcp": library.MCPhaseGate,
        "mcphase": library.MCPhaseGate,
        "mcx": library.MCXGate,
        "multiplexer": library.UCGate,
        "pauli": library.PauliGate,
        "store": Store,
        "unitary": library.UnitaryGate,
    }
    return known.get(name) or type(name, (Gate,), {"__doc__": f"An opaque gate {name!r}."})


def _instruction_of(operation: TargetOperation) -> "Instruction":
    from qiskit.circuit import Gate, Parameter
    from qiskit.circuit.library import get_standard_gate_name_mapping

    parameters = [
        Parameter(value) if isinstance(value, str) else value for value in operation.parameters
    ]
    name = operation.gate or operation.name
    standard = get_standard_gate_name_mapping().get(name)
    if standard is None or len(standard.params) != len(parameters):
        return Gate(name, operation.num_qubits, parameters)
    if not parameters:
        return standard
    return standard.base_class(*parameters)

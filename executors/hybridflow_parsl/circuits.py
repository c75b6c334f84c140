"""Circuits on the engine's wire: as QPY, not as a pickle of their thousand small objects.

Parsl pickles arguments and results with dill, whose pickler is written in Python: a circuit of
ten qubits takes it milliseconds. :func:`install` puts :class:`CircuitSerializer` in the place of
Parsl's own serializer for data, in the driver and in every worker. What it writes is still a pickle
that any Parsl reads: only the circuits inside are QPY. A circuit that would not come back from QPY
just as it was (a gate class of the user's own, metadata that is no JSON) is pickled as before.
"""

import functools
import io
import json
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Mapping
from copyreg import dispatch_table
from typing import TYPE_CHECKING, Any

import dill  # type: ignore[import-untyped]
from parsl.serialize.concretes import DillSerializer
from parsl.serialize.facade import register_method_for_data

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["CircuitSerializer", "circuit_from_bytes", "install", "survives_qpy"]


_SCRIPT = frozenset({"__main__", "__mp_main__"})

# What QPY carries of a circuit's attributes, and what every circuit has alike. Others, the schedule
# or something that the user hung on it, are only safe as long as they are None.
_CARRIED = {
    "name",
    "_ancillas",
    "_base_name",
    "_builder_api",
    "_control_flow_scopes",
    "_data",
    "_layout",
    "_metadata",
    "_unit",
}


class CircuitSerializer(DillSerializer):
    """Parsl's serializer for data, which writes circuits as QPY.

    It keeps the identifier of Parsl's own, because that one reads what this one writes.
    """

    def serialize(self, data: Any) -> bytes:
        """Return `data` as a pickle in which circuits are QPY."""
        try:
            return _written(_PlainPickler, data)
        except Exception:  # whatever is no plain data: dill can write it, or says why it cannot
            return _written(dill.Pickler, data)


def install() -> None:
    """Let Parsl use :class:`CircuitSerializer` in this process; may be called again."""
    register_method_for_data(CircuitSerializer())


def _written(kind: Callable[[io.BytesIO], Any], data: Any) -> bytes:
    buffer = io.BytesIO()
    pickler = kind(buffer)
    if "qiskit" in sys.modules:  # else there can be no circuit in it
        pickler.dispatch_table = _reducers()
    pickler.dump(data)
    return buffer.getvalue()


class _PlainPickler(pickle.Pickler):
    """Python's own pickler, written in C, for what it would write as dill does."""

    def reducer_override(self, obj: Any) -> Any:
        # By name these come back only where the same script is the main program; dill writes them.
        if isinstance(obj, type | types.FunctionType) and obj.__module__ in _SCRIPT:
            raise pickle.PicklingError(f"{obj!r} is the script's own")
        return NotImplemented


@functools.cache
def _reducers() -> Mapping[type, Callable[[Any], Any]]:
    # Of the pickler alone: a reducer in copyreg would change copy.copy() of every circuit, too.
    from qiskit import QuantumCircuit

    return ChainMap({QuantumCircuit: _reduce}, dispatch_table)


def _reduce(circuit: "QuantumCircuit") -> tuple[Any, ...]:
    if not survives_qpy(circuit):
        reduced: tuple[Any, ...] = circuit.__reduce_ex__(4)
        return reduced
    from qiskit import qpy

    buffer = io.BytesIO()
    qpy.dump(circuit, buffer)
    return circuit_from_bytes, (buffer.getvalue(),)


def circuit_from_bytes(data: bytes) -> "QuantumCircuit":
    """Return a circuit of its own from QPY (the broker's wire shares equal ones)."""
    from qiskit import qpy

    return qpy.load(io.BytesIO(data))[0]


def survives_qpy(circuit: "QuantumCircuit") -> bool:
    """Whether QPY gives the circuit back as it is, in every respect that a pickle would."""
    known = _known_operations()
    return (
        all(value is None for name, value in vars(circuit).items() if name not in _CARRIED)
        and _is_json(circuit.metadata)
        and all(instruction.operation.base_class in known for instruction in circuit.data)
    )


def _is_json(metadata: Any) -> bool:
    # JSON turns tuples into lists and numbers as keys into text: compare, do not only try.
    try:
        return not metadata or bool(json.loads(json.dumps(metadata)) == metadata)
    except (TypeError, ValueError):
        return False


@functools.cache
def _known_operations() -> frozenset[type]:
    from qiskit.circuit import Barrier, Delay, Measure, Reset
    from qiskit.circuit.library import get_standard_gate_name_mapping

    standard = {gate.base_class for gate in get_standard_gate_name_mapping().values()}
    # Not Delay: one whose duration is a parameter comes back with a unit that Qiskit refuses.
    return frozenset((standard | {Barrier, Measure, Reset}) - {Delay})

"""Circuits inside an engine's pickles: as QPY, not as their thousand small objects.

Engines pickle what they send. A pickler that is given :func:`reducers` still writes a pickle that
anybody reads; only the circuits inside are QPY, which is smaller and several times faster both
ways. A circuit that would not come back from QPY just as it was (a gate
class of the user's own, metadata that is no JSON) is pickled as before. ``wire.py``, in contrast,
takes what the broker needs of a circuit and leaves the rest at home.
"""

import functools
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["circuit_from_bytes", "circuit_to_bytes", "reducers", "survives_qpy"]

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


def reducers(
    restore: Callable[[bytes], object] | None = None,
) -> dict[type, Callable[[Any], Any]]:
    """Return what a pickler needs in its ``dispatch_table`` to write circuits as QPY.

    It is meant for one message, and remembers its circuits for another pickler's try at it. It is
    not for ``copyreg``: there it would change ``circuit.copy()``, too.

    Parameters
    ----------
    restore
        What the reader calls with the bytes, by its module and name; :func:`circuit_from_bytes` if
        not given.
    """
    from qiskit import QuantumCircuit

    # With the circuits, so that no other gets the id of one.
    written: dict[int, tuple[QuantumCircuit, bytes | None]] = {}

    def reduce(circuit: QuantumCircuit) -> Any:
        if id(circuit) not in written:
            written[id(circuit)] = circuit, circuit_to_bytes(circuit)
        _, data = written[id(circuit)]
        return (
            circuit.__reduce_ex__(4) if data is None else (restore or circuit_from_bytes, (data,))
        )

    return {QuantumCircuit: reduce}


def circuit_to_bytes(circuit: "QuantumCircuit") -> bytes | None:
    """Return a circuit as QPY; None if it would not come back as it was."""
    if not survives_qpy(circuit):
        return None
    from qiskit import qpy

    buffer = io.BytesIO()
    qpy.dump(circuit, buffer)
    return buffer.getvalue()


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
        and all(
            # The first is quick, and makes no Python object of a gate.
            instruction.is_standard_gate() or instruction.operation.base_class in known
            for instruction in circuit.data
        )
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

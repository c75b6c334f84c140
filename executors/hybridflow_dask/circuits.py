"""Circuits on Dask's wire: as QPY, see :mod:`hybridflow.circuits`.

::

    client ── graph: PackedCircuit ──► scheduler ── task: circuit_from_bytes ──► worker
    worker ── result: circuit_from_bytes ──► client, other workers

In the scheduler circuits, and marked functions, stay the bytes that the client has written:
``packed.py``.

:func:`install` puts this in the place of Dask's own family of serializers ``pickle``, in the client
and in every worker. (Dask's ``dask_serialize`` is for objects that are sent alone, and its reader
must have been registered, too; circuits mostly stand among a task's arguments.) What is written is
still a pickle that every Dask reads.
"""

import pickle
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dask._expr import Expr  # what `submit`, `map` and collections send; not exported
from dask.hashing import hash_buffer_hex
from dask.tokenize import normalize_object, normalize_token
from distributed.protocol.serialize import (
    pickle_dumps,
    pickle_loads,
    register_serialization_family,
)

from hybridflow.circuits import circuit_to_bytes
from hybridflow_dask.pickles import written

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["install"]

Frames = tuple[dict[str, Any], list[Any]]


def install() -> None:
    """Let Dask write circuits as QPY in this process; may be called again."""
    register_serialization_family("pickle", _dumps, pickle_loads)
    normalize_token.register_lazy("qiskit", _register_token)
    if "qiskit" in sys.modules:  # Dask may have seen a circuit before, and would not ask again
        _register_token()


def _dumps(x: Any, context: Mapping[str, Any] | None = None) -> Frames:
    if "qiskit" not in sys.modules:  # there can be no circuit in it
        return _theirs(x, context)
    protocol = (context or {}).get("pickle-protocol") or pickle.HIGHEST_PROTOCOL
    # As Dask's own: large buffers are sent beside the pickle, and never copied.
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = written(
            x,
            protocol=protocol,
            buffers=buffers if protocol >= 5 else None,  # older pickles hold everything
            packed=isinstance(x, Expr),
        )
    except Exception:  # Dask has one more way, or says why it has none
        return _theirs(x, context)
    views = [memoryview(buffer) for buffer in buffers]
    header = {"serializer": "pickle", "writeable": tuple(not view.readonly for view in views)}
    return header, [data, *views]


def _theirs(x: Any, context: Mapping[str, Any] | None) -> Frames:
    frames: Frames = pickle_dumps(x, context)
    return frames


def _register_token() -> None:
    from qiskit import QuantumCircuit

    normalize_token.register(QuantumCircuit, _token)


def _token(circuit: "QuantumCircuit") -> Any:
    # Dask's own way is to pickle a circuit twice.
    from qiskit import QuantumCircuit

    data = circuit_to_bytes(circuit) if type(circuit) is QuantumCircuit else None
    return normalize_object(circuit) if data is None else ("QPY", hash_buffer_hex(data))

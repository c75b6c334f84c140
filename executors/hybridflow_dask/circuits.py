"""Circuits on Dask's wire: as QPY, see :mod:`hybridflow.circuits`.

::

    client ── graph: PackedCircuit ──► scheduler ── task: circuit_from_bytes ──► worker
    worker ── result: circuit_from_bytes ──► client, other workers

A graph is unpickled and pickled once more in the scheduler, which never looks into a circuit: there
it stays the bytes that the client has written.

:func:`install` puts this in the place of Dask's own family of serializers ``pickle``, in the client
and in every worker. (Dask's ``dask_serialize`` is for objects that are sent alone; circuits mostly
stand among a task's arguments.) What is written is still a pickle that every Dask reads.
"""

import copyreg
import io
import pickle
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import cloudpickle
from dask._expr import HLGExpr, LLGExpr  # what `submit`, `map` and collections send; not exported
from dask.hashing import hash_buffer_hex
from dask.tokenize import normalize_object, normalize_token
from distributed.protocol.serialize import (
    pickle_dumps,
    pickle_loads,
    register_serialization_family,
)

from hybridflow.circuits import circuit_from_bytes, circuit_to_bytes, reducers

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["PackedCircuit", "install"]

Frames = tuple[dict[str, Any], list[Any]]
Reducers = Mapping[type, Callable[[Any], Any]]


class PackedCircuit:
    """A circuit in the scheduler: QPY, which becomes the circuit when it is pickled again."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return circuit_from_bytes, (self.data,)


def install() -> None:
    """Let Dask write circuits as QPY in this process; may be called again."""
    register_serialization_family("pickle", _dumps, pickle_loads)
    normalize_token.register_lazy("qiskit", _register_token)
    if "qiskit" in sys.modules:  # Dask may have seen a circuit before, and would not ask again
        _register_token()


def _dumps(x: Any, context: Mapping[str, Any] | None = None) -> Frames:
    if "qiskit" in sys.modules:  # else there can be no circuit in it
        table = reducers(PackedCircuit if isinstance(x, HLGExpr | LLGExpr) else None)
        protocol = (context or {}).get("pickle-protocol") or pickle.HIGHEST_PROTOCOL
        for kind in (_PlainPickler, _CloudPickler):
            try:
                return _frames(kind, table, protocol, x)
            except Exception:  # whatever the objects raise: the next one can, or says why it cannot
                continue
    frames: Frames = pickle_dumps(x, context)
    return frames


def _frames(
    kind: "type[_PlainPickler | _CloudPickler]", table: Reducers, protocol: int, x: Any
) -> Frames:
    # As Dask's `pickle_dumps`: large buffers are sent beside the pickle, and never copied.
    stream, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    kind(table, stream, protocol, buffer_callback=buffers.append).dump(x)
    views = [memoryview(buffer) for buffer in buffers]
    header = {"serializer": "pickle", "writeable": tuple(not view.readonly for view in views)}
    return header, [stream.getvalue(), *views]


class _PlainPickler(pickle.Pickler):
    # Python's own, written in C, for what no script has defined.
    def __init__(self, table: Reducers, stream: io.BytesIO, *args: Any, **options: Any) -> None:
        super().__init__(stream, *args, **options)
        self.dispatch_table = {**copyreg.dispatch_table, **table}
        self._stream = stream

    def dump(self, obj: Any) -> None:
        super().dump(obj)
        if b"__main__" in self._stream.getvalue():
            # By name it comes back only where the same script is the main program.
            raise pickle.PicklingError("something in it is the script's own")


class _CloudPickler(cloudpickle.Pickler):  # type: ignore[misc]
    # What Dask takes for functions and classes of a script.
    def __init__(self, table: Reducers, stream: io.BytesIO, *args: Any, **options: Any) -> None:
        # Before the pickler looks for it: the class has one, too.
        self.dispatch_table = cloudpickle.Pickler.dispatch_table.new_child(table)
        super().__init__(stream, *args, **options)


def _register_token() -> None:
    from qiskit import QuantumCircuit

    normalize_token.register(QuantumCircuit, _token)


def _token(circuit: "QuantumCircuit") -> Any:
    # Dask's own way is to pickle a circuit twice.
    data = circuit_to_bytes(circuit) if type(circuit) in reducers() else None
    return normalize_object(circuit) if data is None else ("QPY", hash_buffer_hex(data))

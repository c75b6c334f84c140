"""Pickles of tasks, arguments and results: circuits as QPY, and by value what a script defines.

Which pickler writes what is Dask's own rule: Python's, and cloudpickle where that one cannot, or
would write a name of the script's that only the script itself can look up.
"""

import copyreg
import io
import pickle
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle

from hybridflow.circuits import reducers
from hybridflow.tasks import is_quantum_task
from hybridflow_dask.packed import PackedCircuit, PackedFunction

__all__ = ["dumps", "written"]

_Reducers = Mapping[type, Callable[[Any], Any]]


def dumps(value: Any) -> bytes:
    """Return `value` as one pickle; raises whatever its objects raise when they cannot be."""
    return written(value)


def written(
    value: Any,
    *,
    protocol: int = pickle.HIGHEST_PROTOCOL,
    buffers: list[pickle.PickleBuffer] | None = None,
    packed: bool = False,
) -> bytes:
    """Return `value` as a pickle.

    Parameters
    ----------
    value
        Anything.
    protocol
        Of the pickle.
    buffers
        Gets large buffers, which are then not in the pickle.
    packed
        Whether the reader is the scheduler, for which circuits and marked functions stay bytes.
    """
    restore = PackedCircuit if packed else None
    table: _Reducers = reducers(restore) if "qiskit" in sys.modules else {}
    try:
        return _write(_PlainPickler, table, value, protocol, buffers)
    except Exception:  # whatever the objects raise: the other one can, or says why it cannot
        if buffers is not None:
            buffers.clear()
        kind = _PackingPickler if packed else _CloudPickler
        return _write(kind, table, value, protocol, buffers)


def _write(
    kind: "type[_PlainPickler | _CloudPickler]",
    table: _Reducers,
    value: Any,
    protocol: int,
    buffers: list[pickle.PickleBuffer] | None,
) -> bytes:
    stream = io.BytesIO()
    keep = None if buffers is None else buffers.append
    kind(table, stream, protocol, buffer_callback=keep).dump(value)
    return stream.getvalue()


class _PlainPickler(pickle.Pickler):
    # Python's own, written in C.
    def __init__(self, table: _Reducers, stream: io.BytesIO, *args: Any, **options: Any) -> None:
        super().__init__(stream, *args, **options)
        self.dispatch_table = {**copyreg.dispatch_table, **table}
        self._stream = stream

    def dump(self, obj: Any) -> None:
        super().dump(obj)
        if b"__main__" in self._stream.getvalue():
            raise pickle.PicklingError("something in it is the script's own")


class _CloudPickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, table: _Reducers, stream: io.BytesIO, *args: Any, **options: Any) -> None:
        # Before the pickler looks for it: its class has one, too.
        self.dispatch_table = cloudpickle.Pickler.dispatch_table.new_child(table)
        super().__init__(stream, *args, **options)


class _PackingPickler(_CloudPickler):
    # A function of the script's is written once, in the client. (The scheduler would have to make
    # it anew and to write it again for each task; where it uses a package, cloudpickle looks at all
    # modules of the process for that.)
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.FunctionType and is_quantum_task(obj):
            return PackedFunction, (obj.__name__, written(obj))
        return super().reducer_override(obj)

"""Circuits on the engine's wire: as QPY, see :mod:`hybridflow.circuits`.

Parsl pickles arguments and results with dill, whose pickler is written in Python: a circuit of
ten qubits takes it milliseconds. :func:`install` puts :class:`CircuitSerializer` in the place of
Parsl's own serializer for data, in the driver and in every worker. What it writes is still a pickle
that any Parsl reads.
"""

import io
import pickle
import sys
import types
from collections.abc import Callable
from copyreg import dispatch_table
from typing import Any

import dill  # type: ignore[import-untyped]
from parsl.serialize.concretes import DillSerializer
from parsl.serialize.facade import register_method_for_data

from hybridflow.circuits import reducers

__all__ = ["CircuitSerializer", "install"]


_SCRIPT = frozenset({"__main__", "__mp_main__"})


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
        pickler.dispatch_table = reducers() | dispatch_table
    pickler.dump(data)
    return buffer.getvalue()


class _PlainPickler(pickle.Pickler):
    """Python's own pickler, written in C, for what it would write as dill does."""

    def reducer_override(self, obj: Any) -> Any:
        # By name these come back only where the same script is the main program; dill writes them.
        if isinstance(obj, type | types.FunctionType) and obj.__module__ in _SCRIPT:
            raise pickle.PicklingError(f"{obj!r} is the script's own")
        return NotImplemented

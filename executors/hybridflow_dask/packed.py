"""What stays bytes while it is in the scheduler: circuits, and marked functions.

A graph is unpickled and pickled once more in the scheduler, which never looks into a circuit and
asks of a quantum task's function nothing but its mark and its name. In their place it holds these;
what they become when they are pickled again is what the worker gets.
"""

import pickle
from collections.abc import Callable
from typing import Any

from hybridflow.circuits import circuit_from_bytes
from hybridflow.tasks import MARK

__all__ = ["PackedCircuit", "PackedFunction", "function_from_bytes"]


class PackedCircuit:
    """A circuit in the scheduler: QPY, which becomes the circuit when it is pickled again."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return circuit_from_bytes, (self.data,)


class PackedFunction:
    """A marked function in the scheduler: its pickle, which becomes the function likewise.

    Where Dask calls what it is asked to schedule (to learn what a dataframe's step returns, say),
    it is called.
    """

    __slots__ = ("__name__", "data")

    def __init__(self, name: str, data: bytes) -> None:
        self.__name__ = name
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return function_from_bytes, (self.data,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return function_from_bytes(self.data)(*args, **kwargs)


setattr(PackedFunction, MARK, True)  # of the class, so that each object has it


def function_from_bytes(data: bytes) -> Callable[..., Any]:
    """Return the function of a pickle that came from this cluster's client."""
    function: Callable[..., Any] = pickle.loads(data)
    return function

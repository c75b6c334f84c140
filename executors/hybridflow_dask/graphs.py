"""Looks into a task of a Dask graph for the steps that it holds. Pure functions, no scheduler.

What a user writes as steps arrives at the scheduler as tasks, and Dask's optimizer makes one task
of several steps: it fuses them, or it hides a function among the arguments of one of its own.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from dask._task_spec import (  # the classes of Dask's graphs have no public home
    GraphNode,
    NestedContainer,
    Task,
    _execute_subgraph,
)
from dask.utils import key_split
from tlz import curry  # type: ignore[import-untyped]  # toolz has no types
from tlz.functoolz import Compose  # type: ignore[import-untyped]  # nor here

from hybridflow.tasks import is_quantum_task, task_name

__all__ = ["Kind", "Step", "parts", "steps"]


class Kind(Enum):
    """What a step is."""

    QUANTUM = "quantum"
    CLASSICAL = "classical"
    DASK = "Dask's own"


class Step(NamedTuple):
    """A function that a task calls."""

    name: str
    kind: Kind


# They call functions that they are given, which makes the step a step of that function.
_CALLERS = ("dask", "distributed", "tlz", "toolz", "cytoolz", "builtins", "functools")

# They hand on what they are given, as it is or put together, and cost next to nothing.
_CARRIERS = {
    ("dask._task_spec", "identity"),
    ("dask._task_spec", "_identity_cast"),
    ("dask._task_spec", "to_container"),
    ("dask.bag.core", "finalize"),
    ("dask.bag.core", "finalize_item"),
    ("dask.bag.core", "reify"),
    ("dask.array.core", "concatenate_axes"),
    ("dask.array.core", "finalize"),
}


def parts(node: GraphNode | None) -> Iterator[Task]:
    """Yield the tasks that a task was made of by fusion; itself, if it is not fused."""
    if not isinstance(node, Task):
        return
    if node.func is _execute_subgraph:
        for inner in node.args[0].values():
            yield from parts(inner)
    else:
        yield node


def steps(node: GraphNode | None) -> Iterator[Step]:
    """Yield the steps of a task; none for data and for another task's name.

    A function that only appears among the arguments of a user's function is data, not a step.
    """
    for part in parts(node):
        yield from _steps(part)


def _steps(node: Task) -> Iterator[Step]:
    arguments = (*node.args, *node.kwargs.values())
    for argument in arguments:
        if isinstance(argument, Task):
            yield from steps(argument)
    if not isinstance(node, NestedContainer) and not _is_carrier(node.func):
        yield _step(node, arguments)


def _step(node: Task, arguments: tuple[Any, ...]) -> Step:
    marked = _marked(node.func, arguments)
    if marked is not None:
        return Step(task_name(marked), Kind.QUANTUM)
    if node.key and _root(_innermost(node.func)) in ("dask", "distributed"):
        return Step(key_split(node.key), Kind.DASK)  # `ones_like`, not what Dask calls for it
    return Step(task_name(node.func), Kind.CLASSICAL)


def _marked(function: Callable[..., Any], arguments: tuple[Any, ...]) -> object:
    # The marked function that a call will call, if there is one.
    if is_quantum_task(function):
        return function
    if isinstance(function, functools.partial | curry):
        held = (*function.args, *function.keywords.values())
        return _marked(function.func, (*held, *arguments))
    if isinstance(function, Compose):
        return _first_marked((function.first, *function.funcs))
    return _first_marked(arguments) if _root(function) in _CALLERS else None


def _first_marked(values: Iterable[Any]) -> object:
    found = (_marked(value, ()) for value in values if callable(value))
    return next((marked for marked in found if marked is not None), None)


def _is_carrier(function: Callable[..., Any]) -> bool:
    place = getattr(function, "__module__", ""), getattr(function, "__name__", "")
    return place in _CARRIERS


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial | curry):
        function = function.func
    return function


def _root(function: object) -> str:
    # The package of a function or, for a callable object such as Dask's `methodcaller`, its class.
    module = getattr(function, "__module__", None) or type(function).__module__
    return str(module).partition(".")[0]

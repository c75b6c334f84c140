"""Finds the mark of a quantum task inside what Parsl makes of an app's function."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from hybridflow.tasks import is_quantum_task

__all__ = ["is_marked"]


def is_marked(function: Callable[..., Any]) -> bool:
    """Whether `function`, or what Parsl has wrapped it around, is a quantum task.

    Parsl wraps a function for its errors, a walltime, monitoring, bash apps and file staging. Only
    those wrappers are opened: a plain function that happens to use a quantum task is none itself.
    """
    return is_quantum_task(function) or any(is_marked(inner) for inner in _inside(function))


def _inside(wrapper: Any) -> Iterator[Callable[..., Any]]:
    if hasattr(wrapper, "__wrapped__"):
        yield wrapper.__wrapped__
    elif isinstance(wrapper, functools.partial):  # a bash app: Parsl's runner of the app's function
        yield from (part for part in (wrapper.func, *wrapper.args) if callable(part))
    elif getattr(wrapper, "__module__", "").startswith("parsl.data_provider."):
        cells = getattr(wrapper, "__closure__", None) or ()
        yield from (cell.cell_contents for cell in cells if callable(cell.cell_contents))

"""Functions on the engine's wire: a script's own functions bring along the globals that they use.

Parsl's serializer writes a function of ``__main__`` without its globals, so that ``import`` s and
helpers of a script would be missing in the worker. Here they go along: modules and whatever can be
imported by name, the rest as it is at the time of the call. Functions of importable modules travel
by name, as ever.
"""

import functools
import importlib
import io
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import dill  # type: ignore[import-untyped]
from dill.detect import globalvars  # type: ignore[import-untyped]
from parsl.serialize.concretes import DillCallableSerializer
from parsl.serialize.facade import register_method_for_code

from hybridflow.errors import TaskError
from hybridflow.tasks import task_name

__all__ = ["FunctionSerializer", "install"]

# What cannot change under its name: a changed global of another type could not be noticed.
_CONSTANT = (types.ModuleType, types.FunctionType, type, str, bytes, int, float, types.NoneType)


class _Message(NamedTuple):
    data: bytes
    used: tuple[tuple[dict[str, Any], str, Any], ...]

    def is_fresh(self) -> bool:
        return all(space.get(name) is value for space, name, value in self.used)


class FunctionSerializer(DillCallableSerializer):
    """Parsl's serializer for callables, which sends the globals along that a function uses.

    It keeps the identifier of Parsl's own, because that one reads what this one writes.
    """

    def __init__(self) -> None:
        self._written: weakref.WeakKeyDictionary[Any, _Message] = weakref.WeakKeyDictionary()

    def serialize(self, data: Any) -> bytes:  # type: ignore[override]  # Parsl's is cached
        """Return a callable as a pickle; the same one again is written once.

        Raises
        ------
        TaskError
            If the callable, or a global that it uses, cannot be pickled; names it.
        """
        try:
            known = self._written.get(data)
        except TypeError:  # neither hashable nor weakly referable: a callable object
            return _dumps(data)
        if known is None or not known.is_fresh():
            known = _Message(_dumps(data), tuple(_used(data)))
            if all(isinstance(value, _CONSTANT) for _, _, value in known.used):
                self._written[data] = known
        return known.data


def install() -> None:
    """Let Parsl use :class:`FunctionSerializer` in this process; may be called again."""
    register_method_for_code(_serializer())


@functools.cache
def _serializer() -> FunctionSerializer:
    return FunctionSerializer()


class _Pickler(dill.Pickler):  # type: ignore[misc]
    dispatch = type(dill.Pickler.dispatch)(dill.Pickler.dispatch)

    def save_by_name(self, module: types.ModuleType) -> None:
        # dill would write what is in a module that stands in no site-packages.
        self.save_reduce(importlib.import_module, (module.__name__,), obj=module)

    dispatch[types.ModuleType] = save_by_name


def _dumps(function: Callable[..., Any]) -> bytes:
    try:
        return _pickled(function)
    except Exception as error:  # whatever the user's objects raise
        # A helper that uses the culprit fails with it.
        used = (each for each in _used(function) if not isinstance(each[2], types.FunctionType))
        culprits = [name for _, name, value in used if not _is_picklable(value)]
        reason = f"it uses the global {culprits[0]!r}, which cannot be pickled" if culprits else ""
        raise TaskError(
            f"the function {task_name(function)!r} cannot be sent to a worker: "
            f"{reason or 'it cannot be pickled'} ({error}); make such things inside the function, "
            "or put the function into a module of its own"
        ) from error


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, recurse=True).dump(value)
    return buffer.getvalue()


def _is_picklable(value: Any) -> bool:
    try:
        _pickled(value)
    except Exception:
        return False
    return True


def _used(function: Callable[..., Any]) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Yield the globals that a function uses: where each stands, its name and what it is."""
    spaces = {id(space): space for space in _spaces(function, set())}
    for name, value in globalvars(function, recurse=True, builtin=False).items():
        for space in spaces.values():
            if space.get(name) is value:
                yield space, name, value


def _spaces(function: Any, seen: set[int]) -> Iterator[dict[str, Any]]:
    # The globals of a function and of all that it wraps.
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, functools.partial):
        inner: list[Any] = [function.func, *function.args]
    else:
        cells = getattr(function, "__closure__", None) or ()
        inner = [cell.cell_contents for cell in cells]
        if hasattr(function, "__globals__"):
            yield function.__globals__
    for part in inner:
        if callable(part):
            yield from _spaces(part, seen)

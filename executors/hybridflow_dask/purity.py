"""Sampling is not pure: two equal calls of a quantum task are two samples.

Dask takes equal calls for one: the key of a task is made of its function and arguments. Here the
token of a marked function is a new one each time, and ``Client.submit`` and ``Client.map`` are
impure for quantum tasks unless ``pure=True`` is said, there or in ``quantum(pure=True)``. They also
refuse ``resources=`` that mean nothing, where Dask's own have an assertion without words.
"""

import functools
import types
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from dask.base import get_annotations
from dask.tokenize import normalize_object, normalize_token
from distributed import Client

from hybridflow.tasks import is_quantum_task, task_name
from hybridflow_dask import amounts
from hybridflow_dask.labels import is_qpu_label

__all__ = ["asked", "install"]

_asked: ContextVar[bool | None] = ContextVar("hybridflow_dask_pure", default=None)


@contextmanager
def asked(pure: bool | None) -> Iterator[None]:
    """Let quantum tasks of this block be pure, or not; None: as outside it."""
    token = _asked.set(_asked.get() if pure is None else pure)
    try:
        yield
    finally:
        _asked.reset(token)


@functools.cache
def install() -> None:
    """Make quantum tasks of this process impure; may be called again."""
    normalize_token.register((types.FunctionType, object), _normalize)
    normalize_token.register(types.MethodType, _normalize_method)
    # A token alone does not do for `map`: it makes one of a function and many of its arguments.
    # Neither method lets one see whether `pure=True` was said or is the default.
    Client.submit = _impure(Client.submit)  # type: ignore[method-assign]
    Client.map = _impure(Client.map)  # type: ignore[method-assign]


def _normalize(value: Any) -> Any:
    # Of an object, its class decides: attributes of a stranger are better not asked for.
    is_function = isinstance(value, types.FunctionType)
    marked = value if is_function else getattr(type(value), "__call__", None)  # noqa: B004
    return _unique() if _is_sample(marked) else normalize_object(value)


def _normalize_method(method: types.MethodType) -> Any:
    if _is_sample(method):
        return _unique()
    return normalize_token(method.__self__), method.__name__


def _is_sample(function: object) -> bool:
    return not _asked.get() and is_quantum_task(function)


def _unique() -> tuple[str, str]:
    return "hybridflow-sample", uuid.uuid4().hex


def _impure(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def submit(
        client: Client,
        func: Callable[..., Any],
        *args: Any,
        pure: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        resources = kwargs.get("resources")
        if resources is not None and not callable(resources):
            amounts.check(resources, f"the call of {task_name(func)!r}")
        if pure is None:
            pure = _asked.get() or not _is_quantum(func, resources)
        with asked(pure or None):
            return method(client, func, *args, pure=pure, **kwargs)

    return submit


def _is_quantum(function: Callable[..., Any], resources: object) -> bool:
    annotated = get_annotations().get("resources")
    labels = [
        label for given in (resources, annotated) if isinstance(given, dict) for label in given
    ]
    return is_quantum_task(function) or any(map(is_qpu_label, labels))

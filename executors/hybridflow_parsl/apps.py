"""Short forms of Parsl's ``python_app`` that say where the app runs."""

from collections.abc import Callable
from typing import Any, overload

from parsl import DataFlowKernel, python_app

from hybridflow.tasks import is_quantum_task, quantum_task
from hybridflow_parsl.config import CLASSICAL, QPU

__all__ = ["classical_app", "quantum_app"]

App = Callable[..., Any]


@overload
def quantum_app(function: Callable[..., Any], /) -> App: ...
@overload
def quantum_app(
    *, executor: str = ..., data_flow_kernel: DataFlowKernel | None = ...
) -> Callable[[Callable[..., Any]], App]: ...
def quantum_app(
    function: Callable[..., Any] | None = None,
    /,
    *,
    executor: str = QPU,
    data_flow_kernel: DataFlowKernel | None = None,
) -> Any:
    """Make a Parsl app of a quantum task: ``python_app`` above :func:`hybridflow.quantum_task`.

    It is never memoised: two calls are two samples.

    Parameters
    ----------
    function
        The function; it need not be marked.
    executor
        Label of the QPU executor.
    data_flow_kernel
        Parsl's kernel; the loaded one if not given.
    """

    def decorate(plain: Callable[..., Any]) -> App:
        marked = plain if is_quantum_task(plain) else quantum_task(plain)
        return _app(marked, executor, data_flow_kernel)

    return decorate if function is None else decorate(function)


@overload
def classical_app(function: Callable[..., Any], /) -> App: ...
@overload
def classical_app(
    *,
    executor: str = ...,
    data_flow_kernel: DataFlowKernel | None = ...,
    cache: bool = ...,
    ignore_for_cache: list[str] | None = ...,
) -> Callable[[Callable[..., Any]], App]: ...
def classical_app(
    function: Callable[..., Any] | None = None,
    /,
    *,
    executor: str = CLASSICAL,
    data_flow_kernel: DataFlowKernel | None = None,
    cache: bool = False,
    ignore_for_cache: list[str] | None = None,
) -> Any:
    """Make a Parsl app that runs on the classical workers and nowhere else.

    Parameters
    ----------
    function
        The function.
    executor
        Label of the classical executor.
    data_flow_kernel
        Parsl's kernel; the loaded one if not given.
    cache, ignore_for_cache
        As in ``python_app``.
    """

    def decorate(plain: Callable[..., Any]) -> App:
        return _app(
            plain, executor, data_flow_kernel, cache=cache, ignore_for_cache=ignore_for_cache
        )

    return decorate if function is None else decorate(function)


def _app(
    function: Callable[..., Any], label: str, kernel: DataFlowKernel | None, **options: Any
) -> App:
    app: App = python_app(function, executors=[label], data_flow_kernel=kernel, **options)
    return app

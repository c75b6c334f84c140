"""Two ``concurrent.futures`` executors, quantum and classical, on any workflow engine.

A workflow that is written against :class:`Pools` runs unchanged on every engine. The engines
register :func:`open_local_pools`' like in the entry-point group ``hybridflow.engines``; the one in
this file needs nothing but this machine: threads for quantum tasks, which share one broker, and
processes for classical tasks (``classical.py``).
"""

import inspect
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import msgspec

from hybridflow import environment
from hybridflow.classical import ClassicalPool
from hybridflow.environment import Role
from hybridflow.errors import InputError, MissingExtraError, TaskError
from hybridflow.qiskit_thread import import_qiskit
from hybridflow.site import Site, load_site
from hybridflow.slot import use_site
from hybridflow.tasks import as_task, refuse_unmarked

__all__ = ["ENGINES", "Pools", "engine_names", "open_local_pools", "open_pools"]

ENGINES = "hybridflow.engines"
"""Entry-point group of the engines: functions ``(site, **options) -> Pools``."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Pools:
    """A pool of workers in QPU slots and a pool of classical workers; a context manager.

    Leaving the ``with`` block waits for all tasks; leaving it by an exception drops those that have
    not begun.

    Attributes
    ----------
    quantum
        Runs functions marked with :func:`hybridflow.quantum_task`, each inside a slot.
    classical
        Runs all others, in processes that cannot reach a QPU.
    site
        The site whose resources and workers are used.
    engine
        Name of the engine.
    closer
        What ends both pools; its argument says whether to drop the tasks that have not begun.
    """

    quantum: Executor
    classical: Executor
    site: Site
    engine: str
    closer: Callable[[bool], None] = field(repr=False)

    def close(self, *, cancel: bool = False) -> None:
        """End both pools; may be called twice.

        Parameters
        ----------
        cancel
            Drop the tasks that have not begun and end classical ones that have. Quantum tasks that
            have begun are waited for on the engine ``local``: a thread cannot be ended, and their
            shots are under way.
        """
        self.closer(cancel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(cancel=error is not None)


def engine_names() -> list[str]:
    """Return the names of all engines that some installed package offers."""
    return sorted({point.name for point in entry_points(group=ENGINES)})


def open_pools(
    site: Site | str | os.PathLike[str] | None = None, *, engine: str = "local", **options: Any
) -> Pools:
    """Open the pools of a site on a workflow engine.

    Parameters
    ----------
    site
        A site, or the path of a site file; the default site if not given.
    engine
        Name of the engine.
    **options
        The engine's own options.

    Raises
    ------
    InputError
        If there is no such engine, or if it does not know an option.
    MissingExtraError
        If the engine's package is not installed.
    SiteError
        If the site file is wrong.
    TaskError
        If this is a classical worker, which happens to programs without
        ``if __name__ == "__main__":``.
    """
    if os.environ.get(environment.ROLE) == Role.CLASSICAL:
        raise TaskError(
            "pools were opened in a classical worker, which loads the program's main module: put "
            'what the program starts under `if __name__ == "__main__":`'
        )
    checked = site if isinstance(site, Site) else load_site(site)
    opener = _load(_entry_point(engine))
    _check_options(opener, engine, options)
    return opener(checked, **options)


def _entry_point(engine: str) -> EntryPoint:
    for point in entry_points(group=ENGINES, name=engine):
        return point
    raise InputError(
        f"there is no workflow engine {engine!r}; installed are: "
        f"{', '.join(engine_names()) or 'none'}"
    )


def _load(point: EntryPoint) -> Callable[..., Pools]:
    try:
        opener: Callable[..., Pools] = point.load()
    except ImportError as error:
        if isinstance(error, MissingExtraError):
            raise
        raise MissingExtraError(
            f"the engine {point.name!r} needs a package that is not installed ({error}); "
            f'install it with: pip install "hybridflow[{point.name}]"'
        ) from error
    return opener


def _check_options(opener: Callable[..., Pools], engine: str, options: dict[str, Any]) -> None:
    parameters = list(inspect.signature(opener).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    allowed = [parameter.name for parameter in parameters]
    for name in options:
        if name not in allowed:
            raise InputError(
                f"the engine {engine!r} has no option {name!r}; it has: {', '.join(allowed)}"
            )


def open_local_pools(
    site: Site,
    *,
    resource: str | None = None,
    workers: int | None = None,
    tasks_per_slot: int | None = None,
    require_mark: bool = True,
) -> Pools:
    """Open pools on this machine: threads for quantum tasks, processes for classical ones.

    Parameters
    ----------
    site
        The site that both kinds of tasks have as their default.
    resource
        Name of the resource, or the route, that quantum tasks use where they name none; the site's
        default if not given.
    workers
        Classical worker processes; the site's number if not given.
    tasks_per_slot
        Quantum tasks that run at a time; the number of the resource if not given.
    require_mark
        Whether the quantum pool refuses functions without the mark.

    Raises
    ------
    InputError
        If a number is below 1.
    SiteError
        If the site has no such resource.
    """
    default = resource or site.default
    most = site.tasks_per_slot(default)
    slots = most if tasks_per_slot is None else tasks_per_slot
    processes = site.classical.worker_count if workers is None else workers
    for name, number in (("tasks_per_slot", slots), ("workers", processes)):
        if number < 1:
            raise InputError(f"`{name}` must be at least 1, not {number}")
    here = msgspec.structs.replace(site, default=default)
    quantum = _QuantumPool(slots, here, require_mark)
    classical = ClassicalPool(
        processes, threads=site.classical.threads, variables=_variables_with(site)
    )

    def close(cancel: bool) -> None:
        if cancel:
            classical.kill()
        quantum.shutdown(cancel_futures=cancel)
        classical.shutdown()

    return Pools(quantum, classical, site, "local", close)


def _variables_with(site: Site) -> dict[str, str]:
    named = {} if site.path is None else {environment.SITE: site.path}
    return {k: v for k, v in os.environ.items() if k != environment.SITE} | named


class _QuantumPool(ThreadPoolExecutor):
    # Threads, since quantum tasks wait: all of them share this process's connection to the broker.
    def __init__(self, tasks_per_slot: int, site: Site, require_mark: bool) -> None:
        import_qiskit()
        super().__init__(
            tasks_per_slot, thread_name_prefix="quantum", initializer=use_site, initargs=(site,)
        )
        self._require_mark = require_mark

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        if self._require_mark:
            refuse_unmarked(fn)
        return super().submit(as_task(fn, Role.QUANTUM), *args, **kwargs)

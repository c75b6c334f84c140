"""The mark of a quantum task, and what every engine wraps around the tasks that it runs.

A marked function stays a plain function: it is called, wrapped and pickled like any other. When it
is called it first makes sure that it is not in a worker where a quantum task must not run. Engines
send :func:`as_task` of what they were given: each task's start and end then go to the run's events
(``events.py``), once, and no task ends in a way that an engine hangs on.
"""

import functools
import os
import socket
import threading
import types
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from hybridflow import environment
from hybridflow.environment import Role
from hybridflow.errors import NoSlotError, TaskError, TaskExitError, UnmarkedTaskError
from hybridflow.events import TaskEnded, TaskStarted, event_log

__all__ = [
    "MARK",
    "Attempt",
    "as_task",
    "current_attempt",
    "current_task",
    "guarded",
    "is_quantum_task",
    "quantum_task",
    "refuse_marked",
    "refuse_unmarked",
    "run_marked",
    "set_current_task",
    "set_engine_task",
    "task_name",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")

MARK = "__hybridflow_quantum__"
"""Attribute that a marked function has, with the value True."""

_engine_task: ContextVar[str] = ContextVar("hybridflow_engine_task", default="")


class Attempt(NamedTuple):
    """One execution of a task.

    Attributes
    ----------
    task
        Id of the task in the run's events; empty outside a task.
    attempt
        Id of this execution.
    engine_task
        What the engine calls the task each time that it runs it; empty where that is not known.
    """

    task: str = ""
    attempt: str = ""
    engine_task: str = ""


_NO_TASK = Attempt()
_current: ContextVar[Attempt] = ContextVar("hybridflow_task", default=_NO_TASK)
_running: dict[str, Attempt] = {}


@overload
def quantum_task(function: Callable[_P, _R], /) -> Callable[_P, _R]: ...
@overload
def quantum_task() -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
def quantum_task(function: Callable[..., Any] | None = None, /) -> Callable[..., Any]:
    """Mark a function as a quantum task: one that needs a QPU slot.

    Engines run a marked function inside a slot and nowhere else; in a plain script or notebook it
    is called like any function. Use it with or without parentheses, and under an engine's own
    decorator: ``@python_app(executors=["qpu"])`` above ``@quantum_task``.

    The marked function can be pickled where `function` could. Each call is recorded in the run's
    events, unless the engine has recorded it already. Before it does anything, a call raises

    * :class:`~hybridflow.errors.TaskError` in a classical worker,
    * :class:`~hybridflow.errors.NoSlotError` in any other worker of an engine without a slot.

    In an engine's worker, a ``sys.exit()`` becomes :class:`~hybridflow.errors.TaskExitError`.
    """
    if function is None:
        return quantum_task

    def task(*args: Any, **kwargs: Any) -> Any:
        from hybridflow.tasks import run_marked

        return run_marked(function, args, kwargs)

    # dill writes a function of __main__ together with the globals that it was defined in. With the
    # user's own globals in place of ours, the wrapper is written exactly as `function` would be.
    namespace = getattr(function, "__globals__", globals())
    marked = types.FunctionType(task.__code__, namespace, "task", None, task.__closure__)
    functools.update_wrapper(marked, function)
    setattr(marked, MARK, True)
    return marked


def is_quantum_task(function: object) -> bool:
    """Whether a callable carries the mark, itself or in what it wraps.

    Looks through ``functools.partial``, ``functools.wraps``, bound methods, objects with a marked
    ``__call__``, and decorators that keep the function as ``func`` (as Parsl's apps do).
    """
    return any(getattr(layer, MARK, False) is True for layer in _layers(function))


def _layers(function: object) -> Iterator[object]:
    seen: set[int] = set()
    waiting = [function, getattr(type(function), "__call__", None)]  # noqa: B004
    while waiting:
        layer = waiting.pop()
        if layer is None or id(layer) in seen:
            continue
        seen.add(id(layer))
        yield layer
        waiting += [getattr(layer, name, None) for name in ("func", "__func__", "__wrapped__")]


def task_name(function: object) -> str:
    """Return the name of a callable for people: the innermost function's, without its module."""
    names = [getattr(layer, "__name__", "") for layer in _layers(function)]
    named = [name for name in names if name and name not in ("__call__", "method-wrapper")]
    return named[-1] if named else type(function).__name__


def refuse_unmarked(function: object) -> None:
    """Raise :class:`UnmarkedTaskError` for what a quantum pool does not run: it has no mark."""
    if not is_quantum_task(function):
        raise UnmarkedTaskError(
            f"the function {task_name(function)!r} was submitted to the quantum pool without being "
            "marked as a quantum task: decorate it with @hybridflow.quantum_task, or submit it to "
            "`pools.classical`"
        )


def refuse_marked(function: object) -> None:
    """Raise :class:`TaskError` for what a classical pool does not run: it has the mark."""
    if is_quantum_task(function):
        raise TaskError(
            f"the quantum task {task_name(function)!r} was submitted to the classical workers, "
            "which have no QPU slot; submit it to `pools.quantum`"
        )


def current_task() -> str:
    """Return the id of the task that this thread is running; empty outside a task."""
    return _current.get().task


def current_attempt() -> Attempt:
    """Return the attempt at a task that this thread belongs to.

    A thread that a task has started belongs to it where it is the only one in this process, or
    where it was given its context (``contextvars.copy_context().run``).
    """
    current = _current.get()
    if not current.task and len(_running) == 1:
        return next(iter(_running.copy().values()), current)
    return current


def set_current_task(task: str) -> None:
    """Say which task this context runs, where an engine records its tasks by itself.

    What is called in it is part of that task, marked functions too.
    """
    _current.set(Attempt(task, task, _engine_task.get()))


def set_engine_task(name: str) -> None:
    """Say what the engine calls the task that this context runs, each time that it runs it."""
    _engine_task.set(name)


def run_marked(function: Callable[..., _R], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _R:
    """Call the function behind a mark: what a marked function does."""
    _check_place(Role.QUANTUM, function)
    # In a plain program sys.exit() ends the program; in an engine's worker it must not.
    called = guarded(function) if environment.in_engine_worker(os.environ) else function
    with _recorded(function, Role.QUANTUM):
        return called(*args, **kwargs)


def _check_place(kind: Role, function: object) -> None:
    name = task_name(function)
    in_slot = environment.BROKER in os.environ
    if kind is Role.CLASSICAL:
        if in_slot:
            raise TaskError(
                f"the classical task {name!r} was sent to a worker inside a QPU slot "
                f"({environment.BROKER} is set here); send it to the classical workers"
            )
        return
    if os.environ.get(environment.ROLE) == Role.CLASSICAL:
        raise TaskError(
            f"the quantum task {name!r} was sent to a classical worker; send it to the engine's "
            "quantum executor (`pools.quantum`, or the executor labelled for the QPU)"
        )
    if not in_slot and environment.in_engine_worker(os.environ):
        raise NoSlotError(
            f"the quantum task {name!r} runs in a worker of a workflow engine that is not inside a "
            "QPU slot; start that worker with `hybridflow slot run -- COMMAND`, or send the task "
            "to the executor that does so"
        )


@contextmanager
def _recorded(function: object, kind: Role, task: str = "", worker: str = "") -> Iterator[None]:
    # Only the outermost call is a task; a marked function inside it is just a function.
    if _current.get().task:
        yield
        return
    known = task or _engine_task.get()
    task = task or uuid.uuid4().hex
    worker = worker or _worker_name()
    attempt = Attempt(task, uuid.uuid4().hex, known)
    token = _current.set(attempt)
    _running[attempt.attempt] = attempt
    error = ""
    event_log().emit(
        TaskStarted(
            task=task,
            kind=kind,
            name=task_name(function),
            worker=worker,
            attempt=attempt.attempt,
        )
    )
    try:
        yield
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}"
        raise
    finally:
        _current.reset(token)
        del _running[attempt.attempt]
        event_log().emit(TaskEnded(task=task, worker=worker, error=error, attempt=attempt.attempt))


def _worker_name() -> str:
    name = f"{socket.gethostname()}:{os.getpid()}"
    thread = threading.current_thread()
    return name if thread is threading.main_thread() else f"{name}:{thread.name}"


class _Wrapped(Generic[_R]):
    # A picklable callable around another one; the mark is found through `__wrapped__`.
    def __init__(self, function: Callable[..., _R]) -> None:
        self.__wrapped__ = function
        self.__name__ = task_name(function)


class _Guarded(_Wrapped[_R]):
    def __call__(self, *args: Any, **kwargs: Any) -> _R:
        try:
            return self.__wrapped__(*args, **kwargs)
        except Exception:
            raise
        except BaseException as error:
            ended = "called sys.exit()" if isinstance(error, SystemExit) else "ended"
            raise TaskExitError(
                f"the task {self.__name__!r} {ended} with {error!r}, which is no Exception and "
                "would stop its worker; return a value or raise an Exception instead"
            ) from error


class _Task(_Wrapped[_R]):
    def __init__(self, function: Callable[..., _R], kind: Role, task: str, worker: str) -> None:
        super().__init__(function)
        self._kind, self._task, self._worker = kind, task, worker

    def __call__(self, *args: Any, **kwargs: Any) -> _R:
        _check_place(self._kind, self)
        with _recorded(self, self._kind, self._task, self._worker):
            return _Guarded(self.__wrapped__)(*args, **kwargs)


def guarded(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return a picklable callable that raises nothing but an ``Exception``.

    ``SystemExit``, ``KeyboardInterrupt`` and their like, on which engines hang or lose a worker,
    become :class:`~hybridflow.errors.TaskExitError`.
    """
    return _Guarded(function)


def as_task(
    function: Callable[_P, _R], kind: Role, *, task: str | None = None, worker: str = ""
) -> Callable[_P, _R]:
    """Return what an engine sends to a worker in place of `function`; picklable where that is.

    It checks that the worker is of the right kind, records the task's start and end, and is
    :func:`guarded`.

    Parameters
    ----------
    function
        The user's function, or anything callable.
    kind
        The kind of worker that it is for.
    task
        The engine's id of the task; a new unique one if not given.
    worker
        Name of the worker; if empty, host, process and thread where the task comes to run.
    """
    return _Task(function, kind, uuid.uuid4().hex if task is None else task, worker)

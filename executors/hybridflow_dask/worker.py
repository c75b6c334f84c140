"""What each Dask worker of ours does beside Dask's own: :class:`HybridWorkerPlugin`.

A quantum worker opens its connection to the slot's broker once. Every worker keeps a ``sys.exit()``
of a task from ending it, and records its tasks in the run's events. A classical one also has the
executor ``labels.PROCESSES``, which runs a task in a process of its own, in the main thread::

    with dask.annotate(executor="hybridflow"):
        future = client.submit(function_that_needs_the_main_thread)
"""

import os
import socket
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import Context
from typing import Any, NamedTuple

from dask._task_spec import GraphNode, Task  # Dask's graphs have no public home
from dask.utils import key_split
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.threadpoolexecutor import ThreadPoolExecutor as DaskThreads
from distributed.worker import Worker

from hybridflow import environment
from hybridflow.classical import ClassicalPool
from hybridflow.environment import Role
from hybridflow.errors import InputError, NoSlotError
from hybridflow.events import TaskEnded, TaskStarted, event_log
from hybridflow.qiskit_thread import import_qiskit
from hybridflow.slot import connect
from hybridflow.tasks import guarded, set_current_task, set_engine_task, task_name
from hybridflow_dask import circuits
from hybridflow_dask.departure import handing_back
from hybridflow_dask.graphs import Kind, steps
from hybridflow_dask.labels import PROCESSES, QPU
from hybridflow_dask.pickles import dumps
from hybridflow_dask.results import in_one_piece
from hybridflow_dask.versions import difference, versions

__all__ = ["RECORDED", "HybridWorkerPlugin"]

RECORDED = "hybridflow_recorded"
"""Annotation of a task that records itself in the run's events."""

# Of a task whose thread is still at work.
_AT_WORK = ("executing", "long-running", "cancelled", "resumed")


class HybridWorkerPlugin(WorkerPlugin):
    """Makes a Dask worker one of ours.

    ``--preload hybridflow_dask.preload`` registers it; in workers that were started without that,
    ``client.register_plugin(HybridWorkerPlugin())`` does.

    Notes
    -----
    :meth:`setup` raises, and with it ``register_plugin``,

    * :class:`~hybridflow.errors.InputError` if the versions of Python, hybridflow, Qiskit or Dask
      are not those of the process that made the plugin, or if a worker in a slot does not declare
      the Dask resource ``QPU``;
    * :class:`~hybridflow.errors.NoSlotError` if one that declares it is in no slot.
    """

    name = "hybridflow"
    idempotent = True

    def __init__(self) -> None:
        self._versions = versions()

    def setup(self, worker: Worker) -> None:
        """Get a worker ready for its kind of tasks."""
        _check(worker, self._versions)
        circuits.install()
        self._worker = worker
        self._running: dict[Any, str] = {}
        in_slot = environment.BROKER in os.environ
        self._role = Role.QUANTUM if in_slot else Role.CLASSICAL
        threads = _GuardedThreadPoolExecutor(worker, self._role, self._running)
        self._replace("default", threads)
        if in_slot:
            import_qiskit()
            connect()
        else:
            self._replace(PROCESSES, _Processes(worker.state.nthreads))

    def _replace(self, name: str, executor: Executor) -> None:
        before = self._worker.executors.get(name)
        self._worker.executors[name] = executor
        if before is not None:
            before.shutdown(wait=False)

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Record the start and the end of a task that does not do so itself."""
        if finish == "executing" and start not in _AT_WORK:
            self._begin(key)
        elif key in self._running and finish not in _AT_WORK:
            task = self._worker.state.tasks.get(key)
            error = (task.exception_text or "failed") if task and finish == "error" else ""
            if finish not in ("memory", "error"):
                error = "it was cancelled"
            event_log().emit(TaskEnded(task=self._running.pop(key), worker=_process(), error=error))

    def _begin(self, key: Any) -> None:
        is_known = self._role is Role.QUANTUM or environment.RUN in os.environ
        if not is_known or self._records_itself(key):
            return
        task = self._running[key] = uuid.uuid4().hex
        event_log().emit(
            TaskStarted(task=task, kind=self._role, name=key_split(key), worker=_process())
        )

    def _records_itself(self, key: Any) -> bool:
        task = self._worker.state.tasks[key]
        annotations = task.annotations or {}
        return (
            annotations.get(RECORDED, False)
            or annotations.get("executor") == PROCESSES
            or not isinstance(task.run_spec, Task)
            or any(step.kind is Kind.QUANTUM for step in steps(task.run_spec))
        )


def _check(worker: Worker, made_with: dict[str, str]) -> None:
    differs = difference(versions(), made_with, "the client")
    if differs:
        raise InputError(
            f"the worker {worker.name} cannot run this client's tasks: {differs}; start it in an "
            "environment with the same packages"
        )
    in_slot, declared = environment.BROKER in os.environ, QPU in worker.state.total_resources
    if in_slot and not declared:
        raise InputError(
            f"the worker {worker.name} is in a QPU slot and does not say so, so that classical "
            f"tasks would be sent to it: start it with `dask worker ... --resources {QPU}=1`"
        )
    if declared and not in_slot:
        raise NoSlotError(
            f"the worker {worker.name} declares the resource {QPU} and is in no slot: start it "
            "with `hybridflow slot run -- dask worker ...`"
        )


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


class _GuardedThreadPoolExecutor(DaskThreads):
    # Dask's threads, in which no task ends the worker that it runs in. Dask looks for
    # "ThreadPoolExecutor" in its name: only then do tasks know their worker.
    def __init__(self, worker: Worker, role: Role, running: Mapping[Any, str]) -> None:
        super().__init__(worker.state.nthreads, thread_name_prefix="Dask-Default-Threads")
        self._worker = worker
        self._role = role
        self._running = running

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if call := _Call.of(fn):
            fn.__name__ = task_name(call.task.func)
            call.context.run(set_engine_task, str(call.task.key))
            if known := self._running.get(call.task.key):
                call.context.run(set_current_task, known)
        task = guarded(fn)
        if self._role is Role.QUANTUM:
            task = _in_one_piece(handing_back(self._worker, task))
        return super().submit(task, *args, **kwargs)


class _Call(NamedTuple):
    # What Dask runs in a thread: for each call it makes a function around both.
    task: Task
    context: Context

    @classmethod
    def of(cls, function: object) -> "_Call | None":
        cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        held = [value for values in cells if isinstance(values, tuple) for value in values]
        task = next((value for value in held if isinstance(value, Task)), None)
        context = next((value for value in cells if isinstance(value, Context)), None)
        return cls(task, context) if task and context else None


def _in_one_piece(function: Callable[..., Any]) -> Callable[..., Any]:
    # What Dask runs in a thread returns a task's result among other things.
    def run(*args: Any, **kwargs: Any) -> Any:
        message = function(*args, **kwargs)
        if "result" in message:
            message["result"] = in_one_piece(message["result"])
        return message

    return run


class _Processes(Executor):
    # Dask's own function runs here in a thread, the task that it is given in a process.
    def __init__(self, workers: int) -> None:
        threads = int(os.environ.get(environment.THREAD_LIMITS[0], 1))
        self._pool = ClassicalPool(workers, threads=threads, dumps=dumps)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="processes")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        moved = (_Moved(self._pool, arg) if isinstance(arg, GraphNode) else arg for arg in args)
        return self._threads.submit(fn, *moved, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        # Only when the worker closes: results could not be sent any more.
        self._pool.kill()
        self._threads.shutdown(wait)


class _Moved:
    def __init__(self, pool: ClassicalPool, task: GraphNode) -> None:
        self._pool, self._task = pool, task

    def __call__(self, data: dict[Any, Any]) -> Any:
        return self._pool.submit(self._task, data).result()

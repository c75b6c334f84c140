"""Classical tasks in worker processes of this machine: the classical half of the local engine.

::

    driver                                            worker process (clean environment)
    ClassicalPool ── a thread a worker ── socket ──►  serve(): load, call, answer

A thread of the pool owns one worker process: it starts it when it gets its first task, waits for
its answers, and ends it when it ends itself. So a worker that dies takes its own task with it and
nothing else, and the thread starts another one for its next task.

The standard library's process pool is not used, because its workers inherit the environment as it
is (with the way to the broker, credentials and the variables that make MPI libraries initialise
themselves), and because one killed worker breaks all of it.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import Pipe, spawn
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

from hybridflow import environment
from hybridflow.environment import Role
from hybridflow.errors import TaskError, WorkerLostError
from hybridflow.kernel import die_with
from hybridflow.tasks import as_task, refuse_marked, task_name

__all__ = ["ClassicalPool"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

Dumps = Callable[[Any], bytes]

_LOOK_SECONDS = 1.0  # how often a silent worker is looked after
_END_SECONDS = 5.0  # what a worker may take to end once its socket is closed


class ClassicalPool(ThreadPoolExecutor):
    """An executor over worker processes, as ``ProcessPoolExecutor`` with a start by *spawn*.

    Functions, arguments and results are pickled; a program that uses it needs
    ``if __name__ == "__main__":`` around what it starts.

    Parameters
    ----------
    workers
        Worker processes.
    threads
        Threads that numerical libraries may use in each of them.
    variables
        Environment to start from, without what :func:`hybridflow.environment.clean` takes out; that
        of this process if not given.
    dumps
        What pickles functions, arguments, results and exceptions, here and in the worker processes,
        which must be able to import it; it must write what the main module defines by value, since
        they do not load that module then. Python's own, if not given.

    Notes
    -----
    A future raises :class:`~hybridflow.errors.WorkerLostError` if its worker died, and
    :class:`~hybridflow.errors.TaskError` if the function, its arguments, its result or its
    exception cannot be pickled; else what the function returned or raised.
    """

    def __init__(
        self,
        workers: int,
        *,
        threads: int = 1,
        variables: Mapping[str, str] | None = None,
        dumps: Dumps | None = None,
    ) -> None:
        super().__init__(workers, thread_name_prefix="classical")
        inherited = os.environ if variables is None else variables
        cleaned = environment.clean(inherited, Role.CLASSICAL)
        self._variables = cleaned | environment.thread_limits(threads)
        self._dumps = dumps or _dumps
        self._own = threading.local()
        self._lock = threading.Lock()
        self._all: weakref.WeakSet[_Worker] = weakref.WeakSet()
        self._killed = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Submit a function to be called in a worker process.

        Raises
        ------
        TaskError
            If the function carries the quantum mark.
        """
        refuse_marked(fn)
        return super().submit(self._run, as_task(fn, Role.CLASSICAL), args, kwargs)

    def _run(self, task: Callable[..., _T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _T:
        name = task_name(task)
        try:
            payload = self._dumps((task, args, kwargs))
        except Exception as error:  # whatever the user's objects raise
            raise TaskError(
                f"the classical task {name!r} cannot be sent to a worker process: {error}; define "
                "it at the top of a module, and pass arguments that can be pickled"
            ) from error
        answer = self._worker().call(payload, name)
        result: _T = answer.unpack(name)
        return result

    def _worker(self) -> "_Worker":
        worker: _Worker | None = getattr(self._own, "worker", None)
        if worker is None or not worker.is_alive():
            worker = self._own.worker = _start(self._variables, self._dumps)
            with self._lock:
                self._all.add(worker)
        if self._killed:
            worker.kill()
        return worker

    def kill(self) -> None:
        """Drop what waits and kill all workers: running tasks raise ``WorkerLostError``."""
        self._killed = True
        self.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for worker in self._all:
                worker.kill()
        self.shutdown(wait=True)


class _Answer:
    # What a worker sent back: opened by the caller's thread, so that what cannot be opened fails
    # that one task.
    def __init__(self, data: bytes) -> None:
        self._data = data

    def unpack(self, name: str) -> Any:
        try:
            succeeded, value = pickle.loads(self._data)
        except Exception as error:
            raise TaskError(
                f"the result of the classical task {name!r} cannot be read: {error!r}"
            ) from error
        if succeeded:
            return value
        raise value


def _dumps(value: Any) -> bytes:
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _start(variables: Mapping[str, str], dumps: Dumps) -> "_Worker":
    program = spawn.get_preparation_data("hybridflow-classical")
    del program["authkey"]  # it may not be pickled, and nothing here uses it
    if dumps is not _dumps:
        for name in ("init_main_from_name", "init_main_from_path"):
            program.pop(name, None)
    ours, theirs = Pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), str(os.getpid())],
            env=variables,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
    # In two steps: what `dumps` is imported from is found once the program is prepared.
    return _Worker(process, ours, pickle.dumps((program, pickle.dumps(dumps))))


class _Worker:
    # One worker process, seen from the thread that owns it.
    def __init__(
        self, process: "subprocess.Popen[bytes]", socket: Connection, program: bytes
    ) -> None:
        self._process = process
        self._socket = socket
        self._program = program
        self._ready = False

    def __del__(self) -> None:
        # The owner is a thread-local variable: this runs in the owning thread while that ends.
        self.close()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def call(self, payload: bytes, name: str) -> _Answer:
        try:
            if not self._ready:
                self._exchange(self._program).unpack("main module")
                self._ready = True
            return self._exchange(payload)
        except (EOFError, OSError) as error:
            self.close()
            raise WorkerLostError(
                f"the worker process {self._process.pid} of the classical task {name!r} "
                f"{_ending(self._process.returncode)}; the task may be submitted again"
            ) from error

    def _exchange(self, message: bytes) -> _Answer:
        self._socket.send_bytes(message)
        while not self._socket.poll(_LOOK_SECONDS):
            # A process that the dead worker had forked can hold the other end open.
            if not self.is_alive() and not self._socket.poll():
                raise EOFError
        return _Answer(self._socket.recv_bytes())

    def close(self) -> None:
        self._socket.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        self._process.kill()


def _ending(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"


def _serve(socket: Connection) -> None:
    dumps = _dumps

    def prepare() -> None:
        nonlocal dumps
        program, chosen = pickle.loads(socket.recv_bytes())
        spawn.prepare(program)
        dumps = pickle.loads(chosen)

    socket.send_bytes(_answer(prepare, _dumps))
    while True:
        try:
            payload = socket.recv_bytes()
        except EOFError:
            return
        socket.send_bytes(_answer(lambda: _call(payload), dumps))  # noqa: B023


def _call(payload: bytes) -> Any:
    try:
        task, args, kwargs = pickle.loads(payload)
    except Exception as error:
        raise TaskError(
            f"a classical task cannot be loaded in a worker process: {error!r}; its function must "
            "stand in a module that can be imported there"
        ) from error
    return task(*args, **kwargs)


def _answer(work: Callable[[], Any], dumps: Dumps) -> bytes:
    try:
        value = work()
    except Exception as error:
        return _packed_error(error, dumps)
    try:
        return dumps((True, value))
    except Exception as error:
        return _packed_error(
            TaskError(f"the result of a classical task cannot be pickled: {error}"), dumps
        )


def _packed_error(error: Exception, dumps: Dumps) -> bytes:
    text = "".join(traceback.format_exception(error))
    error.add_note(f"in a classical worker process:\n{text}")
    try:
        data = dumps((False, error))
        pickle.loads(data)  # many exceptions can be written and not read again
    except Exception:
        lean = TaskError(f"a classical task raised an exception that cannot be pickled:\n{text}")
        return dumps((False, lean))
    return data


def main() -> None:
    """Serve one driver until it closes its end of the socket or dies."""
    descriptor, parent = map(int, sys.argv[1:])
    die_with(parent)
    # Ctrl-C reaches the whole process group; the driver decides what it means for its workers. A
    # handler, since an ignored signal would stay ignored in what a task starts.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    with Connection(descriptor) as socket:
        _serve(socket)


if __name__ == "__main__":
    main()

"""Parsl's worker pool, in which no killed process leaves the others waiting.

An idle worker of Parsl's holds the lock of the pool's task queue while it waits for a task. Killed
then, it would leave the lock held for ever and every other worker waiting. Here the kernel holds
the queues' locks for the workers, and takes them back from the dead. And where the process is
killed in which the pool keeps its books, Parsl's would go on without ever starting a task: ours
ends, so that its block is replaced. In a Slurm job it stops taking tasks in time (``closing.py``).
Otherwise this is ``process_worker_pool.py``, with its arguments:
``python -m hybridflow_parsl.pool …``.
"""

import os
import runpy
import sys
import threading
from multiprocessing.managers import SyncManager
from multiprocessing.queues import Queue
from typing import Any

from parsl.multiprocessing import SpawnContext

from hybridflow.errors import DeadlineError
from hybridflow.launch import TRY_AGAIN
from hybridflow_parsl.closing import NO_DRAIN, closing_time, drain_seconds
from hybridflow_parsl.locks import ProcessLock


def _queue() -> "Queue[Any]":
    # In each process one thread reads a queue, and one (its feeder) writes.
    queue: Any = Queue(ctx=SpawnContext)
    queue._rlock = ProcessLock()
    queue._wlock = ProcessLock()
    made: Queue[Any] = queue
    return made


def _manager() -> SyncManager:
    manager = _make_manager()
    threading.Thread(target=_end_with, args=(manager,), name="books", daemon=True).start()
    return manager


def _end_with(manager: SyncManager) -> None:
    process = manager._process  # type: ignore[attr-defined]
    process.join()
    if process.exitcode:  # 0 if the pool itself has told it to end
        print(f"hybridflow: process {process.pid} of the worker pool was killed", file=sys.stderr)
        os._exit(1)


def _with_end(arguments: list[str]) -> list[str]:
    closing = closing_time(os.environ) if NO_DRAIN in arguments else None
    if closing is None:
        return arguments
    drain = f"--drain_period={drain_seconds(closing)}"
    return [drain if argument == NO_DRAIN else argument for argument in arguments]


if __name__ == "__main__":
    try:
        sys.argv = _with_end(sys.argv)
    except DeadlineError as error:
        print(f"hybridflow: {error}", file=sys.stderr)
        sys.exit(TRY_AGAIN)
    _make_manager = SpawnContext.Manager
    SpawnContext.Manager = _manager  # type: ignore[method-assign]
    SpawnContext.Queue = _queue  # type: ignore[method-assign, assignment]
    runpy.run_module(
        "parsl.executors.high_throughput.process_worker_pool", run_name="__main__", alter_sys=True
    )

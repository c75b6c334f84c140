"""Parsl's worker pool, in which a killed worker does not take the others' lock along.

An idle worker of Parsl's holds the lock of the pool's task queue while it waits for a task. Killed
then, it would leave the lock held for ever and every other worker waiting. Here the kernel holds
the queues' locks for the workers, and takes them back from the dead. Otherwise this is
``process_worker_pool.py``, with its arguments: ``python -m hybridflow_parsl.pool …``.
"""

import runpy
from multiprocessing.queues import Queue
from typing import Any

from parsl.multiprocessing import SpawnContext

from hybridflow_parsl.locks import ProcessLock


def _queue() -> "Queue[Any]":
    # In each process one thread reads a queue, and one (its feeder) writes.
    queue: Any = Queue(ctx=SpawnContext)
    queue._rlock = ProcessLock()
    queue._wlock = ProcessLock()
    made: Queue[Any] = queue
    return made


if __name__ == "__main__":
    SpawnContext.Queue = _queue  # type: ignore[method-assign, assignment]
    runpy.run_module(
        "parsl.executors.high_throughput.process_worker_pool", run_name="__main__", alter_sys=True
    )

"""The kernel's locks: given back by the dead, and never refused to the living."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import pytest

from hybridflow_parsl.locks import ProcessLock

pytestmark = pytest.mark.timeout(60)
CONTEXT = multiprocessing.get_context("spawn")


def hold_second_and_ask_for_first(
    first: ProcessLock, second: ProcessLock, pipe: "Connection[str, str]"
) -> None:
    second.acquire()
    waiting = threading.Thread(target=first.acquire)
    waiting.start()
    pipe.send("held")
    pipe.recv()
    second.release()
    waiting.join()
    pipe.send("has the first")


@contextmanager
def other(first: ProcessLock, second: ProcessLock) -> "Iterator[Connection[str, str]]":
    mine, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=hold_second_and_ask_for_first, args=(first, second, theirs))
    process.start()
    try:
        assert mine.recv() == "held"
        yield mine
    finally:
        assert process.pid is not None
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()


def test_two_threads_that_seem_a_deadlock_both_get_their_lock() -> None:
    first, second = ProcessLock(), ProcessLock()
    first.acquire()
    with other(first, second) as pipe:
        # To the kernel this process waits for the other and the other for this one.
        waiting = threading.Thread(target=second.acquire)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        pipe.send("release")
        waiting.join()
        first.release()
        assert pipe.recv() == "has the first"


def test_killed_holder_gives_it_back() -> None:
    first, second = ProcessLock(), ProcessLock()
    with other(first, second):
        assert not second.acquire(block=False)
    assert second.acquire()

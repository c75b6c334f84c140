"""The process that holds a hosted backend: ``python -m hybridflow.backends.host FD OWNER``.

::

    owner (broker)                          host
    BackendProcess ──calls──► reader thread ──► queue ──► main thread ──► backend
                   ◄─answers, ended jobs──────────────────┘    ▲             │
                                              job has ended ───┴─────────────┘

One thread drives the backend, as its protocol asks. A job that has ended is told, with its results,
as soon as the backend says so; a backend that cannot say so by itself is asked, at first often.
The process dies with its owner and ignores the signals of the terminal and of a scheduler: it
is its owner who decides when it ends.
"""

import logging
import os
import queue
import signal
import socket
import sys
import threading
import traceback
import warnings

from hybridflow.backends import channel
from hybridflow.backends.base import Backend, NotifyingBackend
from hybridflow.backends.factory import make_backend
from hybridflow.backends.hello import PROTOCOL, Hello, hello
from hybridflow.errors import ErrorRecord, HybridflowError
from hybridflow.kernel import die_with, forbid_dumps
from hybridflow.records import JobState, JobStatus, Usage

__all__ = ["main"]

_log = logging.getLogger(__name__)

_LEAST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5


def main() -> None:
    """Serve one owner until it goes away."""
    descriptor, owner = int(sys.argv[1]), int(sys.argv[2])
    _guard(owner)
    stream: channel.Channel[channel.ToHost] = channel.Channel(
        socket.socket(fileno=descriptor), channel.ToHost
    )
    first = stream.receive()
    if not isinstance(first, channel.Open):
        return
    try:
        if first.protocol != PROTOCOL:
            # The owner sees from the numbers that nothing else can be said.
            stream.send(channel.Answer(call=first.call, hello=hello()))
            return
        said = _hello() if first.foreign else None
        backend = make_backend(first.resource, first.credentials)
        answer = channel.Answer(call=first.call, capabilities=backend.capabilities, hello=said)
    except Exception as error:
        stream.send(channel.Answer(call=first.call, error=_record(error)))
        return
    host = _Host(stream, backend)
    stream.send(answer)
    host.serve()


def _hello() -> Hello:
    # Circuits come from another Qiskit, in a version of QPY that this one has said that it reads.
    warnings.filterwarnings("ignore", message="The qiskit version used to generate the provided")
    return hello()


def _guard(owner: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    forbid_dumps()
    die_with(owner)


def _record(error: Exception) -> ErrorRecord:
    if not isinstance(error, HybridflowError):
        # The owner gets its text; where it arose is only known here.
        _log.exception("a backend raised what it should not")
    return ErrorRecord.of(error)


_Item = channel.ToHost | str
"""What the main thread is handed: a call of the owner's, or the id of a job that has ended."""


class _Host:
    def __init__(self, stream: channel.Channel[channel.ToHost], backend: Backend) -> None:
        self._stream = stream
        self._backend = backend
        self._items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._watched: set[str] = set()
        self._pause = _LEAST_PAUSE
        self._is_told = isinstance(backend, NotifyingBackend)
        if isinstance(backend, NotifyingBackend):
            backend.subscribe(self._items.put)

    def serve(self) -> None:
        threading.Thread(target=self._read, name="owner", daemon=True).start()
        while True:
            item = self._next()
            if item is None:
                self._look()
            elif isinstance(item, str):
                self._report(item)
            else:
                self._answer(item)

    def _read(self) -> None:
        status = 0
        try:
            while (message := self._stream.receive()) is not None:
                self._items.put(message)
        except Exception:
            # What cannot be read cannot be answered either; the owner sees the process end.
            traceback.print_exc()
            status = 1
        # The owner has released the backend, or has died: nobody is left to work for, and no
        # thread of a vendor's package may keep this process alive.
        os._exit(status)

    def _next(self) -> _Item | None:
        if self._is_told or not self._watched:
            return self._items.get()
        try:
            return self._items.get(timeout=self._pause)
        except queue.Empty:
            return None

    def _look(self) -> None:
        self._pause = min(_LONGEST_PAUSE, self._pause * 1.2)
        for job_id in sorted(self._watched):
            self._report(job_id)

    # Calls

    def _answer(self, message: channel.ToHost) -> None:
        try:
            answer = self._call(message)
        except Exception as error:
            answer = channel.Answer(call=message.call, error=_record(error))
        self._stream.send(answer)
        if answer.job_id is not None and isinstance(message, channel.Start):
            self._watch(answer.job_id)
        elif isinstance(message, channel.Watch) and answer.error is None:
            self._watch(message.job_id)

    def _call(self, message: channel.ToHost) -> channel.Answer:
        backend, call = self._backend, message.call
        match message:
            case channel.Acquire():
                backend.acquire()
            case channel.Release():
                backend.release()
                for job_id in sorted(self._watched):
                    self._report(job_id)  # before the answer, after which nobody listens
            case channel.Target():
                return channel.Answer(call=call, target=backend.target())
            case channel.Metadata():
                return channel.Answer(call=call, metadata=backend.metadata())
            case channel.Start(batch=batch, tag=tag):
                return channel.Answer(call=call, job_id=backend.start(batch, tag=tag))
            case channel.Watch(job_id=job_id):
                return channel.Answer(call=call, status=backend.status(job_id))
            case channel.Stop(job_id=job_id):
                backend.stop(job_id)
            case channel.Find(tag=tag):
                return channel.Answer(call=call, job_id=backend.find(tag))
            case channel.Open():
                raise HybridflowError("a host is opened once")
        return channel.Answer(call=call)

    # Jobs

    def _watch(self, job_id: str) -> None:
        self._watched.add(job_id)
        self._pause = _LEAST_PAUSE
        self._report(job_id)  # it may have ended at once

    def _report(self, job_id: str) -> None:
        """Tell the owner if a watched job has ended."""
        if job_id not in self._watched:
            return
        try:
            status = self._backend.status(job_id)
        except Exception as error:
            if isinstance(error, HybridflowError) and error.transient:
                return  # the vendor does not answer just now: it is asked again
            record = _record(error)
            failed = JobStatus(state=JobState.FAILED, message=record.message)
            self._watched.discard(job_id)
            self._stream.send(channel.Ended(job_id=job_id, status=failed, error=record))
            return
        if status.state.final:
            self._watched.discard(job_id)
            self._stream.send(self._ended(job_id, status))

    def _ended(self, job_id: str, status: JobStatus) -> channel.Ended:
        results, error = None, None
        try:
            if status.state is not JobState.CANCELLED:
                results = self._backend.result(job_id)
        except Exception as reason:
            error = _record(reason)
        return channel.Ended(
            job_id=job_id, status=status, results=results, usage=self._usage(job_id), error=error
        )

    def _usage(self, job_id: str) -> Usage:
        try:
            return self._backend.usage(job_id)
        except HybridflowError as error:
            # Its results are worth more than its cost.
            _log.warning("the usage of job %s is not known: %s", job_id, error)
            return Usage()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()

"""A backend in a process of its own, behind the same protocol.

For backends that hold the GIL, that must not share a process with the broker, or that need another
interpreter. Batches and results pass as packed bytes: this process imports no Qiskit. A job's end
is pushed by the host (``host.py``), so that waiting for it costs no polling; the results of a job
that has ended are here, whatever becomes of the host then.
"""

import contextlib
import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import cached_property
from typing import TypeVar

import msgspec

from hybridflow import environment
from hybridflow.backends import channel
from hybridflow.backends.interpreter import ask, check, python_of, variables
from hybridflow.backends.jobs import JobTable
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    ErrorRecord,
    InternalError,
    SiteError,
)
from hybridflow.records import (
    Batch,
    Capabilities,
    JobStatus,
    PackedResult,
    Resource,
    TargetSnapshot,
    Usage,
)

__all__ = ["BackendProcess"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_LAST_SECONDS = 1.0
"""Time that a host whose socket is closed has to go by itself."""


class BackendProcess:
    """A backend of any type, hosted in a child process.

    The child is started when it is first needed, and dies with this process. When it dies alone,
    what is asked of it raises :class:`~hybridflow.errors.BackendLostError` until it is acquired
    again, which starts another.

    Parameters
    ----------
    resource
        The resource; its type of backend is looked up in the child.
    credentials
        Its credentials, by key; they cross a socket pair.
    interpreter
        The Python that runs the child: one with hybridflow and the vendor's packages. Without it,
        that of the resource; without that, this one.
    release_seconds
        Patience with ``release()``; after it the child is killed.
    """

    def __init__(
        self,
        resource: Resource,
        credentials: Mapping[str, str],
        *,
        interpreter: str | None = None,
        release_seconds: float = 10.0,
    ) -> None:
        self._resource = resource
        self._credentials = dict(credentials)
        self._named = interpreter
        self._release_seconds = release_seconds
        self._table = JobTable()
        self._lock = threading.Lock()
        self._host: _Host | None = None
        self._capabilities: Capabilities | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the host; None while there is none."""
        host = self._host
        return None if host is None or host.lost is not None else host.pid

    @property
    def capabilities(self) -> Capabilities:
        """What the hosted backend declares.

        Raises
        ------
        HybridflowError
            If the backend could not be made, or the child not started.
        """
        if self._capabilities is None:
            self._child()
        assert self._capabilities is not None
        return self._capabilities

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with the id of each job that ends, in a thread of this object."""
        self._table.subscribe(listener)

    # Session

    def acquire(self) -> None:
        """Acquire the hosted backend; starts a child where there is none alive."""
        with self._lock:
            if self._host is not None and self._host.lost is not None:
                self._host = None
        self._call(channel.Acquire)

    def release(self) -> None:
        """Release the hosted backend and end the child: by force, if it does not answer."""
        with self._lock:
            host, self._host = self._host, None
        if host is None:
            return
        try:
            host.call(channel.Release(call=host.number())).result(self._release_seconds)
        except FutureTimeoutError:
            host.kill()  # Aer cannot be interrupted, and a vendor may not answer
        except BackendLostError:
            return  # it is gone already
        finally:
            host.end()
            self._table.lose(
                BackendLostError(f"{self._resource.name} was released", transient=False)
            )

    # What it is

    def target(self) -> TargetSnapshot:
        """Return the device's target."""
        return _found(self._call(channel.Target).target)

    def metadata(self) -> dict[str, str]:
        """Return what identifies the device."""
        return _found(self._call(channel.Metadata).metadata)

    # Jobs

    def start(self, batch: Batch, *, tag: str) -> str:
        """Start one vendor job in the child."""
        return _found(self._call(channel.Start, batch=batch, tag=tag).job_id)

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        """Return the job's state; wait up to `wait` seconds for a final one."""
        if job_id not in self._table and self._host is not None:
            self._call(channel.Watch, job_id=job_id)  # started by an earlier process
        return self._table.status(job_id, wait)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return one result a PUB, in order; once."""
        return self._table.result(job_id)

    def stop(self, job_id: str) -> None:
        """Ask for the job's end, without waiting until the child has heard it."""
        if job_id not in self._table or job_id in self._table.unfinished():
            self._post(channel.Stop, job_id=job_id)

    def find(self, tag: str) -> str | None:
        """Return the id of the job that was started with `tag`, where there are tags."""
        if not self.capabilities.tags:
            return None
        return self._table.find(tag) or self._call(channel.Find, tag=tag).job_id

    def usage(self, job_id: str) -> Usage:
        """Return what a finished job cost."""
        return self._table.usage(job_id)

    # The child

    @cached_property
    def _interpreter(self) -> str:
        if self._named is None and self._resource.interpreter is not None:
            return python_of(self._resource.interpreter, self._resource.name)
        return self._named or sys.executable

    def _call(self, kind: type[channel.Message], **fields: object) -> channel.Answer:
        return self._post(kind, **fields).result()

    def _post(self, kind: type[channel.Message], **fields: object) -> "Future[channel.Answer]":
        host = self._child()
        message: channel.ToHost = kind(call=host.number(), **fields)  # type: ignore[assignment]
        return host.call(message)

    def _child(self) -> "_Host":
        with self._lock:
            if self._host is None:
                host = _Host(self._resource, self._interpreter, self._table)
                # A host that is never released ends when its owner is forgotten, or at exit.
                weakref.finalize(self, host.shut)
                try:
                    self._capabilities = self._open(host)
                except BaseException:
                    host.end()
                    raise
                self._host = host
                self._table.forget_lost()  # a durable job is asked for anew
            return self._host

    def _open(self, host: "_Host") -> Capabilities:
        is_foreign = _is_foreign(self._interpreter)
        opening = channel.Open(
            call=host.number(),
            resource=self._resource,
            credentials=self._credentials,
            foreign=is_foreign,
        )
        try:  # the child may have ended before it is called
            answer = host.call(opening).result()
        except BackendLostError as error:
            if is_foreign:
                check(ask(self._interpreter), self._interpreter)  # a better reason, if it has one
            raise AcquireError(
                f"{error}, before it was ready: its last words stand in this process's "
                f"stderr (interpreter: {self._interpreter})",
                resource=self._resource.name,
                transient=True,
            ) from error
        except SiteError as error:
            if not is_foreign:
                raise
            raise SiteError(f"{error} (that says {self._interpreter})") from error
        if answer.capabilities is not None and not is_foreign:
            return answer.capabilities
        said = check(answer.hello, self._interpreter)
        return msgspec.structs.replace(_found(answer.capabilities), qpy=said.qpy)


def _found(value: _T | None) -> _T:
    if value is None:
        raise InternalError("the process of a backend gave an answer without its value")
    return value


class _Host:
    """One child: its socket, and the thread that starts it, listens to it and buries it."""

    def __init__(self, resource: Resource, interpreter: str, table: JobTable) -> None:
        self._name = resource.name
        self._table = table
        self._numbers = itertools.count(1)
        self._calls: dict[int, tuple[channel.ToHost, Future[channel.Answer]]] = {}
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self.lost: BackendLostError | None = None
        ours, theirs = socket.socketpair()
        self._channel: channel.Channel[channel.ToOwner] = channel.Channel(ours, channel.ToOwner)
        self._process: subprocess.Popen[bytes] | None = None
        started: Future[None] = Future()
        # The child is the child of a *thread*: PR_SET_PDEATHSIG fires when that thread ends, so it
        # is started by the one that lives as long as the child.
        self._thread = threading.Thread(
            target=self._live, args=(interpreter, theirs, started), name=f"{self._name}-host"
        )
        self._thread.daemon = True
        self._thread.start()
        started.result()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def number(self) -> int:
        """Return a number for the next call."""
        return next(self._numbers)

    def call(self, message: channel.ToHost) -> "Future[channel.Answer]":
        """Send a call; its answer, or its error, comes with the future."""
        future: Future[channel.Answer] = Future()
        with self._lock:
            if self.lost is not None:
                raise ErrorRecord.of(self.lost).error()
            self._calls[message.call] = message, future
        with contextlib.suppress(OSError):  # then the thread sees the end, and fails the future
            self._channel.send(message)
        return future

    def shut(self) -> None:
        """Close the connection, on which the child ends; but not the one of a forked parent."""
        if os.getpid() == self._owner:
            self._channel.shut()

    def kill(self) -> None:
        """Kill the child."""
        if self._process is not None:
            self._process.kill()

    def end(self) -> None:
        """Close the connection and wait until the child is gone."""
        self.shut()
        self._thread.join()

    # In the thread

    def _live(self, interpreter: str, theirs: socket.socket, started: "Future[None]") -> None:
        try:
            self._process = _spawn(interpreter, theirs)
        except OSError as error:
            self._channel.close()
            started.set_exception(
                AcquireError(
                    f"the process of {self._name!r} could not be started with {interpreter}: "
                    f"{error}",
                    resource=self._name,
                )
            )
            return
        finally:
            theirs.close()
        started.set_result(None)
        reason = self._listen()
        self._bury(self._process, reason)

    def _listen(self) -> str:
        try:
            while (message := self._channel.receive()) is not None:
                if isinstance(message, channel.Answer):
                    self._answered(message)
                else:
                    self._table.end(
                        message.job_id,
                        message.status,
                        message.results,
                        message.usage,
                        message.error,
                    )
        except Exception as error:
            # It speaks another version of this protocol, or a listener failed: whoever waits for
            # an answer must hear of it.
            _log.exception("the process of %r is given up", self._name)
            self.kill()
            return f": {error}"
        return ""

    def _answered(self, answer: channel.Answer) -> None:
        with self._lock:
            message, future = self._calls.pop(answer.call)
        if answer.error is not None:
            future.set_exception(answer.error.error())
            return
        # Before the next message, which may be this job's end.
        if isinstance(message, channel.Start) and answer.job_id is not None:
            self._table.add(answer.job_id, message.tag)
        elif isinstance(message, channel.Watch):
            self._table.add(message.job_id, "")
        future.set_result(answer)

    def _bury(self, process: "subprocess.Popen[bytes]", reason: str) -> None:
        self._channel.shut()
        try:
            process.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._channel.close()
        error = BackendLostError(
            f"the process of the backend of {self._name!r} ended (exit status "
            f"{process.returncode}){reason}",
            resource=self._name,
        )
        with self._lock:
            self.lost = error
            calls, self._calls = list(self._calls.values()), {}
        self._table.lose(error)
        for _, future in calls:
            future.set_exception(ErrorRecord.of(error).error())


def _is_foreign(interpreter: str) -> bool:
    return interpreter != sys.executable


def _spawn(interpreter: str, theirs: socket.socket) -> "subprocess.Popen[bytes]":
    number = theirs.fileno()
    return subprocess.Popen(
        # -P: the folder in which a user happens to stand must not replace our modules.
        [interpreter, "-P", "-m", "hybridflow.backends.host", str(number), str(os.getpid())],
        pass_fds=[number],
        stdin=subprocess.DEVNULL,
        stdout=2,  # what a vendor's package prints is no message of ours
        env=variables(os.environ) if _is_foreign(interpreter) else environment.clean(os.environ),
        process_group=0,  # Ctrl-C is for the owner
    )

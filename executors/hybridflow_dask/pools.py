"""Pools on Dask: the engine ``dask`` of :func:`hybridflow.open_pools`.

::

    Pools ── client ── HybridCluster ──┬── quantum worker    quantum tasks, in threads
    (futures of concurrent.futures)    └── classical worker  classical tasks, each in a process

Both pools are executors on one cluster, which is theirs alone.
"""

import asyncio
import pickle
import threading
import traceback
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Executor, Future
from typing import Any, Generic, ParamSpec, TypeVar, cast

from dask.base import annotate
from distributed import CancelledError, Client, KilledWorker
from distributed import Future as DaskFuture

from hybridflow.environment import Role
from hybridflow.errors import (
    InputError,
    TaskError,
    WorkerLostError,
)
from hybridflow.pools import Pools
from hybridflow.site import Site
from hybridflow.tasks import as_task, refuse_marked, refuse_unmarked, task_name
from hybridflow_dask import circuits
from hybridflow_dask.cluster import HybridCluster
from hybridflow_dask.farewell import lost
from hybridflow_dask.labels import PROCESSES, QPU, resource_label
from hybridflow_dask.pickles import dumps
from hybridflow_dask.worker import RECORDED

__all__ = ["ClassicalPool", "DaskPool", "QuantumPool", "open_dask_pools"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def open_dask_pools(
    site: Site,
    *,
    resource: str | None = None,
    workers: int | None = None,
    tasks_per_slot: int | None = None,
    require_mark: bool = True,
    **options: Any,
) -> Pools:
    """Open pools on a Dask cluster of this machine.

    Parameters
    ----------
    site
        The site that both kinds of tasks have as their default.
    resource
        Name of the resource, or the route, that quantum tasks use; the site's default if not given.
    workers
        Classical worker processes; the site's number if not given.
    tasks_per_slot
        Quantum tasks that run at a time; the number of the resource if not given.
    require_mark
        Whether the quantum pool refuses functions without the mark.
    **options
        All others of :class:`HybridCluster`.

    Raises
    ------
    InputError
        If a number is below 1.
    SiteError
        If the site has no such resource.
    """
    if workers is not None and workers < 1:
        raise InputError(f"`workers` must be at least 1, not {workers}")
    name = resource or site.default
    cluster = HybridCluster(
        site, resources=[name], workers=workers, tasks_per_slot=tasks_per_slot, **options
    )
    try:
        client = cluster.get_client(set_as_default=False)
    except BaseException:  # also Ctrl-C: no worker stays behind
        cluster.close()
        raise
    quantum = QuantumPool(client, name, require_mark=require_mark)
    classical = ClassicalPool(client)

    def close(cancel: bool) -> None:
        for pool in (quantum, classical):
            pool.shutdown(wait=not cancel, cancel_futures=cancel)
        client.close()
        cluster.close()

    return Pools(quantum, classical, site, "dask", close)


class DaskPool(Executor):
    """What both kinds of pool share; not to be used itself.

    Parameters
    ----------
    client
        A client of the cluster.
    """

    def __init__(self, client: Client) -> None:
        circuits.install()
        self._client = client
        self._loop: asyncio.AbstractEventLoop = cast(Any, client.loop).asyncio_loop
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._closed = False

    def _send(self, call: "_Call[_T]", **annotations: Any) -> Future[_T]:
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            remote = self._submitted(call, annotations)
            future = asyncio.run_coroutine_threadsafe(self._result(remote, call), self._loop)
            self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def _submitted(self, call: "_Call[_T]", annotations: dict[str, Any]) -> DaskFuture[bytes]:
        if self._client.status != "running":  # Dask would try for half a minute to connect again
            raise lost(call.__name__)
        with annotate(**annotations):
            return self._client.submit(call, pure=False)

    async def _result(self, remote: DaskFuture[bytes], call: "_Call[_T]") -> _T:
        try:
            data: bytes = await self._client.gather(remote, asynchronous=True)
        except asyncio.CancelledError:
            if self._client.status == "running":
                await self._client.cancel([remote], asynchronous=True)
            raise
        except CancelledError as error:  # by Dask, not by whoever holds our future
            raise lost(call.__name__) from error
        except KilledWorker as error:
            raise WorkerLostError(
                f"the task {call.__name__!r} was given up, because each worker that began it died: "
                f"{error}"
            ) from error
        return call.result(data)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further tasks.

        Parameters
        ----------
        wait
            Wait for those there are.
        cancel_futures
            Drop those that have no result yet, also where they have begun: Dask forgets them.
        """
        with self._lock:
            self._closed = True
        pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            futures.wait(pending)


class QuantumPool(DaskPool):
    """Runs quantum tasks on the workers in the slot of a resource.

    Parameters
    ----------
    client
        A client of the cluster.
    resource
        Name of the resource.
    require_mark
        Whether functions without the mark are refused.
    """

    def __init__(
        self,
        client: Client,
        resource: str,
        *,
        require_mark: bool = True,
    ) -> None:
        super().__init__(client)
        asked = {QPU: 1, resource_label(resource): 1}
        self._annotations = {"resources": asked, RECORDED: True}
        self._require_mark = require_mark

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Submit a quantum task.

        Raises
        ------
        UnmarkedTaskError
            If the function carries no mark, and `require_mark`.
        TaskError
            If the function or its arguments cannot be pickled.
        """
        if self._require_mark:
            refuse_unmarked(fn)
        return self._send(_Call(as_task(fn, Role.QUANTUM), args, kwargs), **self._annotations)


class ClassicalPool(DaskPool):
    """Runs classical tasks on the classical workers, each in the main thread of a process.

    Parameters
    ----------
    client
        A client of the cluster.
    """

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Submit a classical task.

        Raises
        ------
        TaskError
            If the function carries the quantum mark, or if it or its arguments cannot be pickled.
        """
        refuse_marked(fn)
        return self._send(_Call(fn, args, kwargs), executor=PROCESSES)


class _Call(Generic[_T]):
    # What is sent, and back: bytes that Dask does not look into. So none of the user's keywords is
    # one of Dask's, and what cannot be pickled, or not be read again, fails its own task alone.
    def __init__(
        self, function: Callable[..., _T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.__name__ = task_name(function)
        try:
            self._task = dumps((function, args, kwargs))
        except Exception as error:  # whatever the user's objects raise
            raise TaskError(
                f"the task {self.__name__!r} cannot be sent to a worker: {error}; pass arguments "
                "that can be pickled"
            ) from error

    def __call__(self) -> bytes:
        try:
            function, args, kwargs = pickle.loads(self._task)
        except Exception as error:
            raise TaskError(
                f"the task {self.__name__!r} cannot be loaded in a worker: {error!r}; what it uses "
                "must stand in modules that can be imported there"
            ) from error
        try:
            value = function(*args, **kwargs)
        except Exception as error:
            _check_readable(error, self.__name__)
            raise
        try:
            return dumps(value)
        except Exception as error:
            raise TaskError(
                f"the result of the task {self.__name__!r} cannot be pickled: {error}"
            ) from error

    def result(self, data: bytes) -> _T:
        """Return what the function returned, from what the call did."""
        try:
            value: _T = pickle.loads(data)
        except Exception as error:
            raise TaskError(
                f"the result of the task {self.__name__!r} cannot be read: {error!r}"
            ) from error
        return value


def _check_readable(error: Exception, name: str) -> None:
    try:
        pickle.loads(dumps(error))  # many exceptions can be written and not read again
    except Exception:  # whatever its own code raises
        text = "".join(traceback.format_exception(error))
        raise TaskError(
            f"the task {name!r} raised an exception that cannot be pickled:\n{text}"
        ) from None

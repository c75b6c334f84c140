"""Which quantum workers get tasks, and why others do not.

A worker says by itself that it is a quantum one: it declares the Dask resource ``QPU``. Before it
gets a task, it is asked what it is, and two workers may not both claim a resource with one slot.
"""

import os
from collections.abc import Mapping
from typing import Any

from distributed.comm.core import connect
from distributed.core import send_recv
from distributed.protocol.pickle import dumps
from distributed.protocol.serialize import Serialize
from distributed.scheduler import Scheduler, WorkerState

from hybridflow import environment
from hybridflow_dask.labels import QPU, resource_of
from hybridflow_dask.versions import difference, versions

__all__ = ["Admission", "examine", "is_quantum_worker"]

_SLOT = "slot"


def is_quantum_worker(ws: WorkerState) -> bool:
    """Whether a worker declares that it is in a QPU slot."""
    return bool(ws.resources.get(QPU))


def _describe() -> dict[str, str]:
    # Runs in the worker: what tells whether tasks pickled elsewhere can run here, in a slot.
    return versions() | {_SLOT: os.environ.get(environment.BROKER, "")}


async def examine(scheduler: Scheduler, address: str, *, require_slot: bool) -> str:
    """Ask a worker what it is, and return why it can have no quantum task; empty if it can."""
    try:
        there = await _description(scheduler, address)
    except Exception as error:  # whatever keeps another installation from answering
        return f"it could not be asked which hybridflow it has ({type(error).__name__}: {error})"
    if differs := difference(there, versions(), "the scheduler"):
        return differs
    if require_slot and not there[_SLOT]:
        return "it is in no QPU slot: start it with `hybridflow slot run -- dask worker ...`"
    return ""


async def _description(scheduler: Scheduler, address: str) -> dict[str, str]:
    # What `Client.run` sends; a scheduler has no such method. Not through its pool of connections,
    # which cannot end one twice that is being made: when a worker goes, and when it closes.
    comm = await connect(address, **scheduler.connection_args)
    try:
        answer: dict[str, Any] = await send_recv(comm, op="run", function=dumps(_describe))
    finally:
        comm.abort()
    if answer["status"] != "OK":
        raise RuntimeError(answer["exception_text"])
    found = answer["result"]
    return dict(found.data if isinstance(found, Serialize) else found)


class Admission:
    """The quantum workers of a cluster, in the order in which they came.

    Parameters
    ----------
    slots
        How many workers may claim a resource, by its name; 1 for those not named.

    Attributes
    ----------
    members
        All of them.
    threads
        The number of their threads.
    usable
        Those that get tasks.
    reasons
        Why each of the others gets none; empty while that is not known yet.
    """

    def __init__(self, slots: Mapping[str, int]) -> None:
        self._slots = slots
        self._faults: dict[WorkerState, str | None] = {}
        self.members: set[WorkerState] = set()
        self.threads = 0
        self.usable: set[WorkerState] = set()
        self.reasons: dict[WorkerState, str] = {}

    def join(self, ws: WorkerState) -> None:
        """Take in a worker that has not been examined."""
        self._faults[ws] = None
        self._settle()

    def judge(self, ws: WorkerState, fault: str) -> None:
        """Say why a worker gets no task; empty if it gets some."""
        if ws in self._faults:
            self._faults[ws] = fault
            self._settle()

    def leave(self, ws: WorkerState) -> None:
        """Forget a worker; one that claimed the same resource may take its place."""
        self._faults.pop(ws, None)
        self._settle()

    def _settle(self) -> None:
        self.members = set(self._faults)
        self.threads = sum(ws.nthreads for ws in self.members)
        claims: dict[str, list[WorkerState]] = {}
        self.usable, self.reasons = set(), {}
        for ws, fault in self._faults.items():
            reason = self._rivals(ws, claims) if fault == "" else fault
            if reason == "":
                self.usable.add(ws)
                for name in _claimed(ws):
                    claims.setdefault(name, []).append(ws)
            else:
                self.reasons[ws] = reason or ""

    def _rivals(self, ws: WorkerState, claims: Mapping[str, list[WorkerState]]) -> str:
        for name in _claimed(ws):
            rivals, slots = claims.get(name, []), self._slots.get(name, 1)
            if len(rivals) >= slots:
                others = ", ".join(str(rival.name) for rival in rivals)
                return (
                    f"it claims the resource {name!r}, which has {slots} slot(s) and is used by "
                    f"{others}: end one of them, or say HybridPlugin(slots={{{name!r}: ...}})"
                )
        return ""


def _claimed(ws: WorkerState) -> list[str]:
    return [name for label in ws.resources if (name := resource_of(label))]

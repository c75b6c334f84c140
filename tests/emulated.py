"""An emulated QPU under test: its users, their jobs, and what it has of them."""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from family import eventually
from qiskit import QuantumCircuit
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import wire
from hybridflow.backends.emulator import EmulatorBackend, EmulatorOptions
from hybridflow.backends.emulator.messages import API_KEY, Execution
from hybridflow.records import Batch, PackedPub, PackedResult, Primitive, Request, Resource
from hybridflow.testing import QpuEmulator

KEYS = {"alice": "key-of-alice", "bob": "key-of-bob"}
PER_SHOT = 0.01
"""Seconds that a shot takes: the size of a job says how long it runs."""

LONG, SHORT = 10_000, 5
"""Shots of a job that never ends in a test, and of one that takes 50 ms."""


def backend_of(emulator: QpuEmulator, *, user: str = "alice", **options: Any) -> EmulatorBackend:
    credentials = {API_KEY: KEYS[user]} if user else {}
    return EmulatorBackend("qpu", EmulatorOptions(url=emulator.url, **options), credentials)


@contextlib.contextmanager
def acquired(emulator: QpuEmulator, *, user: str = "alice") -> Iterator[EmulatorBackend]:
    backend = backend_of(emulator, user=user)
    backend.acquire()
    try:
        yield backend
    finally:
        backend.release()


def quieten(emulator: QpuEmulator) -> None:
    """Switch all faults off, and wait until the device has nothing left to do."""
    emulator.faults()
    for entry in emulator.log():
        if not entry.state.final:
            with acquired(emulator, user=entry.account) as backend:
                backend.stop(entry.job)
    eventually(lambda: all(entry.state.final for entry in emulator.log()))


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def pub(shots: int) -> PackedPub:
    return wire.pack_pubs([SamplerPub.coerce(bell(), shots)], [7])[0]


def batch(shots: int, pubs: int = 1) -> Batch:
    return Batch(primitive=Primitive.SAMPLER, pubs=(pub(shots),) * pubs)


def counts(results: tuple[PackedResult, ...]) -> dict[str, int]:
    data, _ = wire.unpack_result(results[0])
    found: dict[str, int] = data.meas.get_counts()
    return found


def entry_of(emulator: QpuEmulator, job_id: str) -> Execution:
    (found,) = (entry for entry in emulator.log() if entry.job == job_id)
    return found


def tag() -> str:
    return uuid.uuid4().hex


def resource_of(emulator: QpuEmulator, **options: Any) -> Resource:
    return Resource(name="qpu", backend="emulator", options={"url": emulator.url, **options})


def request(shots: int) -> Request:
    return Request(id=tag(), primitive=Primitive.SAMPLER, pubs=(pub(shots),))

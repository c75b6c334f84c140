"""Tasks of the cluster's tests: in a module of their own, which workers import quickly."""

import os
import signal
import time
from pathlib import Path

from qiskit import QuantumCircuit

import hybridflow as hf


def add(a: int, b: int) -> int:
    return a + b


def many_bytes(number: int) -> bytes:
    return bytes([number]) * 1000


def variables() -> dict[str, str]:
    return dict(os.environ)


@hf.quantum_task
def slot_variables() -> dict[str, str]:
    return dict(os.environ)


@hf.quantum_task
def slot_process() -> int:
    return os.getpid()


def attempt(file: Path) -> int:
    """Count the calls of a task, over all its tries."""
    with file.open("a") as stream:
        stream.write("x")
    return len(file.read_text())


def wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)


@hf.quantum_task
def waits(calls: Path, until: Path) -> int:
    """Say that it was called, wait for a file and return how often it was called."""
    tries = attempt(calls)
    wait_for(until)
    return tries


@hf.quantum_task
def samples(begun: Path) -> None:
    """Say that it was called, and sample."""
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    job = hf.Sampler().run([circuit], shots=1)
    begun.touch()
    job.result()


def waits_too(calls: Path, until: Path) -> int:
    tries = attempt(calls)
    wait_for(until)
    return tries


@hf.quantum_task
def dies_beside(calls: Path, tries: Path) -> None:
    """Kill the worker, when another task has been called as often as this one; then at once."""
    tried = attempt(tries)
    while tried < 3 and (not calls.exists() or len(calls.read_text()) < tried):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


@hf.quantum_task
def dies_first(index: int, victim: int, calls: Path) -> int:
    """Return `index`; one of them kills its worker, once."""
    if index == victim and attempt(calls) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return index

"""Tasks of the pools' tests: in a module of their own, which workers import quickly."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import hybridflow as hf


class Awkward(Exception):
    """Can be pickled, and not read again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def process() -> int:
    return os.getpid()


def add(a: int, b: int = 0) -> int:
    return a + b


def double(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array * 2


def variables() -> dict[str, str]:
    return dict(os.environ)


def fail(text: str) -> None:
    raise ValueError(text)


def fail_awkwardly() -> None:
    raise Awkward(1, 2)


def leave() -> None:
    sys.exit(3)


def unpicklable() -> Any:
    return threading.Lock()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_with_a_child(file: Path) -> None:
    """Die, but leave the socket to the driver open in a forked child."""
    child = os.fork()
    if child == 0:
        while True:
            signal.pause()
    file.write_text(str(child))
    os.kill(os.getpid(), signal.SIGKILL)


def announce_and_wait(file: Path) -> None:
    """Write this process's id, and work until killed."""
    part = file.with_suffix(".part")
    part.write_text(str(os.getpid()))
    part.rename(file)
    while True:
        signal.pause()


def wait_for(file: Path) -> bool:
    while not file.exists():
        time.sleep(0.005)
    return True


def transpiled_width() -> int:
    """Use the site in a classical worker, where there is no broker."""
    return int(hf.target().num_qubits)


def sample_in_a_classical_task() -> None:
    sample(1)


@hf.quantum_task
def sample(shots: int) -> dict[str, Any]:
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(2)
    circuit.x(0)
    circuit.measure_all()
    result = hf.Sampler().run([circuit], shots=shots).result()
    return {
        "counts": result[0].data.meas.get_counts(),
        "resource": result.metadata["hybridflow"]["resource"],
    }


@hf.quantum_task
def quantum_add(a: int, b: int = 0) -> int:
    return a + b


@hf.quantum_task
def quantum_fail(text: str) -> None:
    raise ValueError(text)


@hf.quantum_task
def quantum_leave() -> None:
    sys.exit(3)


@hf.quantum_task
def meet(folder: Path, name: str, others: int) -> bool:
    """Wait until this many tasks are running at once."""
    (folder / name).touch()
    while len(list(folder.iterdir())) < others:
        time.sleep(0.005)
    return True


@hf.quantum_task
def where_it_ran() -> tuple[str, str]:
    """Return the resource and the route of a sample taken in this task's slot."""
    from emulated import bell

    found = hf.Sampler().run([bell()], shots=5).result().metadata["hybridflow"]
    return found["resource"], found["route"]

"""Tasks of the Parsl tests: in a module of their own, which workers import quickly."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import hybridflow as hf


@hf.quantum_task
def sample(circuit: Any, shots: int) -> dict[str, int]:
    counts: dict[str, int] = (
        hf.Sampler().run([circuit], shots=shots).result()[0].data.meas.get_counts()
    )
    return counts


def total(counts: dict[str, int]) -> int:
    return sum(counts.values())


@hf.quantum_task
def sample_twice(circuit: Any, between: Path, wait_for: Path) -> int:
    """Sample, say so, wait for somebody's answer, and sample again."""
    first = sample(circuit, 10)
    between.touch()
    while not wait_for.exists():
        time.sleep(0.01)
    second = sample(circuit, 10)
    return sum(first.values()) + sum(second.values())


@hf.quantum_task
def slot_environment() -> dict[str, str]:
    return dict(os.environ)


def environment() -> dict[str, str]:
    return dict(os.environ)


@hf.quantum_task
def slot_process() -> int:
    return os.getpid()


def process() -> int:
    return os.getpid()


@hf.quantum_task
def same(value: Any) -> Any:
    return value


@hf.quantum_task
def timed(value: int, walltime: float = 30) -> int:
    return value


@hf.quantum_task
def writes_qpy(circuit: Any) -> bool:
    """Whether this worker would send the circuit back as QPY."""
    from parsl.serialize import serialize

    return b"QISKIT" in serialize([circuit])


@hf.quantum_task
def exits() -> None:
    sys.exit(3)


def interrupts() -> None:
    raise KeyboardInterrupt


def attempt(file: Path) -> int:
    """Count the calls of a task, over all its tries."""
    with file.open("a") as stream:
        stream.write("x")
    return len(file.read_text())


@hf.quantum_task
def dies_once(file: Path) -> int:
    tries = attempt(file)
    if tries == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return tries


@hf.quantum_task
def raises(file: Path, error: Exception, times: int) -> int:
    tries = attempt(file)
    if tries <= times:
        raise error
    return tries


class Unpicklable(Exception):
    def __reduce__(self) -> str:
        raise TypeError("not today")


def raises_unpicklable() -> None:
    raise Unpicklable("the reason")

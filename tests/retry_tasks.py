"""Tasks that fail at their first attempt, after they have used the QPU."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import hybridflow as hf
from hybridflow.errors import ResourceError


def bell() -> Any:
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def measure(shots: int) -> str:
    """Return the vendor's id of the job that sampled."""
    job = hf.Sampler(transpile=True).run([bell()], shots=shots)
    assert job.result()[0].data.meas.num_shots == shots
    return job.provenance().vendor_job_id


def fail_once(how: str, marker: Path) -> None:
    if marker.exists():
        return
    marker.touch()
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ResourceError("the first attempt fails", transient=True)


@hf.quantum_task
def sample(shots: int, how: str, marker: Path) -> list[str]:
    """Sample twice; the first attempt fails after that."""
    found = [measure(shots), measure(shots)]
    fail_once(how, marker)
    return found


@hf.quantum_task
def sample_in_threads(shots: int, how: str, marker: Path) -> list[str]:
    """Sample in two threads at the same time; the first attempt fails after that."""
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(measure(shots))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fail_once(how, marker)
    return found


@hf.quantum_task
def pid_after_sampling(shots: int) -> tuple[str, int]:
    return measure(shots), os.getpid()

"""What benchmarks share: a QPU that computes nothing, clocks, Dask as it comes, the verdict.

No benchmark itself, and no place for functions that run in workers: engines send those of a script
by value, and those of a module, which workers could not import, by name.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qiskit import QuantumCircuit

if TYPE_CHECKING:
    from distributed import Client

NULL_SITE = """
[qpu.null]
backend = "fake"
mode = "null"
null_bits = 2
"""


def write_site(folder: Path, text: str) -> Path:
    site = folder / "site.toml"
    site.write_text(text)
    return site


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def milliseconds(call: Callable[[], object]) -> float:
    return 1e3 * seconds(call)


@contextmanager
def bare_dask(workers: Sequence[dict[str, Any]]) -> Iterator["Client"]:
    """Start Dask as it comes, with one process for each of `workers`: options of `Worker`.

    Not a `LocalCluster`: its processes would load the script, and all that it imports.
    """
    from distributed import Client, Scheduler, SpecCluster
    from distributed.deploy.subprocess import SubprocessWorker

    logging.getLogger("distributed").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="hybridflow-") as folder:
        common = {
            "host": "127.0.0.1",
            "local_directory": folder,
            "silence_logs": logging.WARNING,
        }
        cluster = SpecCluster(
            workers={
                number: {"cls": SubprocessWorker, "options": {"worker_kwargs": common | chosen}}
                for number, chosen in enumerate(workers)
            },
            scheduler={
                "cls": Scheduler,
                "options": {"host": "127.0.0.1", "dashboard_address": ":0"},
            },
        )
        with cluster, Client(cluster) as client:
            client.wait_for_workers(len(workers))
            yield client
            client.retire_workers()


def verdict(kept: bool) -> int:
    """Say whether the bounds were kept, and return the exit status."""
    print("bounds kept" if kept else "BOUNDS BROKEN")
    return 0 if kept else 1

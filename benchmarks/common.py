"""What benchmarks share: QPUs, brokers and their callers, clocks, Dask as it comes, the verdict.

No benchmark itself, and no place for functions that run in an engine's workers: engines send those
of a script by value, and those of a module, which workers could not import, by name. The processes
of :func:`in_processes` can import it, and nothing here loads Qiskit before it is needed.
"""

import logging
import multiprocessing
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hybridflow.broker.process import BrokerProcess
from hybridflow.records import ClientInfo, PackedPub, Primitive, Request, Resource

if TYPE_CHECKING:
    from distributed import Client
    from qiskit import QuantumCircuit

    from hybridflow.testing import QpuEmulator

_T = TypeVar("_T")

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


def bell() -> "QuantumCircuit":
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


# Slurm


@contextmanager
def slurm(slots: dict[str, int], nodes: int = 1) -> Iterator[Path]:
    """Start a Slurm cluster with QPUs, for this process's commands; it works in a new folder."""
    from hybridflow.slurm.cluster import SlurmCluster

    before = Path.cwd()
    with (
        tempfile.TemporaryDirectory(prefix="hybridflow-") as folder,
        SlurmCluster(nodes, qpus=slots) as cluster,
    ):
        os.environ.update(cluster.environ)
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def slurm_site(devices: dict[str, tuple[str, str]], more: str = "") -> str:
    """Return a site file of emulated QPUs that are slots of a cluster.

    Parameters
    ----------
    devices
        By name: address of the service, and the resource's name there.
    more
        More of ``[slurm]``.
    """
    tables = [
        f'[qpu.{name}]\nbackend = "emulator"\nurl = "{url}"\nresource = "{remote}"\n'
        f'[slurm.slots.{name}]\nqpu = false\ngres = "qpu:{name}:1"\n'
        for name, (url, remote) in devices.items()
    ]
    return "\n".join(['[slurm.quantum]\npartition = "qpu"\n', *tables, more])


# Clocks


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def milliseconds(call: Callable[[], object]) -> float:
    return 1e3 * seconds(call)


# Brokers, and those who call them


def packed_bell(shots: int = 100) -> PackedPub:
    """Pack a PUB of one circuit."""
    from qiskit.primitives.containers.sampler_pub import SamplerPub

    from hybridflow.wire import pack_pubs

    return pack_pubs([SamplerPub.coerce(bell(), shots)], [None])[0]


def request(pub: PackedPub, pubs: int = 1) -> Request:
    """Make a call of the sampler, from this process."""
    client = ClientInfo(host=socket.gethostname(), pid=os.getpid())
    return Request(
        id=uuid.uuid4().hex, primitive=Primitive.SAMPLER, pubs=(pub,) * pubs, client=client
    )


def emulated(emulator: "QpuEmulator", **settings: Any) -> Resource:
    """Return the first resource of an emulated QPU, with keys of a site file."""
    (name, *_) = emulator.resources
    return Resource(name=name, backend="emulator", options={"url": emulator.url}, **settings)


@contextmanager
def broker(
    resource: Resource, run: Path | None = None, credentials: Mapping[str, str] | None = None
) -> Iterator[BrokerProcess]:
    """Start a broker process in a folder of its own, and end it."""
    with tempfile.TemporaryDirectory(prefix="hybridflow-") as folder:
        process = BrokerProcess(resource, credentials or {}, folder, run)
        process.start()
        try:
            yield process
        finally:
            if not process.drain(5):
                process.kill()


_together: Any = None


def _meet(barrier: Any) -> None:
    global _together
    _together = barrier


def together() -> None:
    """Wait for all other processes of :func:`in_processes`."""
    _together.wait(600)


def in_processes(function: Callable[..., _T], arguments: Sequence[tuple[Any, ...]]) -> list[_T]:
    """Call a function of the script in a process for each of `arguments`, all at the same time."""
    spawn = multiprocessing.get_context("spawn")
    count = len(arguments)
    barrier = spawn.Barrier(count)
    with ProcessPoolExecutor(count, spawn, _meet, (barrier,)) as pool:
        futures = [pool.submit(function, *chosen) for chosen in arguments]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            barrier.abort()  # nobody shall wait for one that has failed
        return [future.result() for future in futures]


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

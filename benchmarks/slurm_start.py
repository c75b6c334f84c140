"""From a job's start to the first quantum task's result, against bare sbatch and Parsl.

Both are jobs on a local Slurm cluster, in turns: ours with a QPU slot, its broker and the two
executors of ``hybrid_config``; the other with two executors of Parsl's own, whose task asks the
emulated device by itself, with the device's client. Both start as many workers. The clock starts
with the first line of the job script.

    python benchmarks/slurm_start.py [--rounds 5] [--tasks-per-slot 16]
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import parsl
from parsl import python_app
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from common import bell, slurm, slurm_site, write_site
from hybridflow.component import Component
from hybridflow.slurm import Job, submit, wait
from hybridflow.testing import qpu_emulator
from hybridflow_parsl import hybrid_config, quantum_app

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

BEGUN = "date +%s.%N > {}.begun"
SLOT = Component(partition="qpu", gres=("qpu:qpu:1",))
CLASSICAL = 2
DEVICE = {"seconds_per_job": 0.1}


@quantum_app
def ours(circuit: "QuantumCircuit") -> int:
    import hybridflow as hf

    return int(hf.Sampler().run([circuit], shots=100).result()[0].data.meas.num_shots)


def bare(circuit: "QuantumCircuit", url: str) -> int:
    from qiskit.primitives.containers.sampler_pub import SamplerPub

    from hybridflow import wire
    from hybridflow.backends.emulator import EmulatorBackend, EmulatorOptions
    from hybridflow.records import Batch, Primitive

    device = EmulatorBackend("qpu", EmulatorOptions(url=url))
    device.acquire()
    pubs = wire.pack_pubs([SamplerPub.coerce(circuit, 100)], [None])
    job = device.start(Batch(primitive=Primitive.SAMPLER, pubs=pubs), tag="")
    while not device.status(job, wait=10).state.final:
        pass
    data, _ = wire.unpack_result(device.result(job)[0])
    device.release()
    return int(data.meas.num_shots)


def bare_config(workers: dict[str, int]) -> Config:
    executors = [
        HighThroughputExecutor(
            label=label, max_workers_per_node=count, address="127.0.0.1", provider=LocalProvider()
        )
        for label, count in workers.items()
    ]
    return Config(executors=executors, initialize_logging=False)


def in_job(kind: str, url: str, result: Path, tasks: int) -> None:
    """Run the workflow of one job: a single task."""
    if kind == "ours":
        config = hybrid_config(tasks_per_slot=tasks, workers=CLASSICAL)
    else:
        config = bare_config({"qpu": tasks, "classical": CLASSICAL})
    with parsl.load(config):
        task = python_app(bare, executors=["qpu"])
        shots = (ours(bell()) if kind == "ours" else task(bell(), url)).result()
        assert shots == 100, shots
        result.write_text(str(time.time()))


def started(kind: str, url: str, number: int, site: Path, tasks: int) -> float:
    """Return the seconds from a job's start to its first result."""
    name = f"{kind}-{number}"
    result = Path(f"{name}.ended").absolute()
    script = [sys.executable, os.path.abspath(__file__), "--kind", kind, "--url", url]
    job = Job(
        name=name,
        command=(*script, "--result", str(result), "--tasks-per-slot", str(tasks)),
        components=(SLOT,),
        setup=(BEGUN.format(name),),
        variables={"HYBRIDFLOW_SITE": str(site)} if kind == "ours" else {},
    )
    wait(submit(job))
    return float(result.read_text()) - float(Path(f"{name}.begun").read_text())


def report(rounds: int, tasks: int) -> None:
    with qpu_emulator("qpu", **DEVICE) as emulator, slurm({"qpu": 1}) as folder:
        site = write_site(folder, slurm_site({"qpu": (emulator.url, "qpu")}))
        taken: dict[str, list[float]] = {"bare": [], "ours": []}
        for number in range(rounds):
            for kind, seconds in taken.items():
                seconds.append(started(kind, emulator.url, number, site, tasks))
    medians = {kind: statistics.median(seconds) for kind, seconds in taken.items()}
    print(f"job start to first result, median of {rounds}")
    for kind, seconds in taken.items():
        print(f"{kind:12}{medians[kind]:7.2f} s   ({min(seconds):.2f} to {max(seconds):.2f})")
    print(f"ours / bare {medians['ours'] / medians['bare']:7.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks-per-slot", type=int, default=16)
    parser.add_argument("--kind", choices=["ours", "bare"], help=argparse.SUPPRESS)  # in a job
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    # Parsl's own executor finds its programs there.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if chosen.kind is None:
        report(chosen.rounds, chosen.tasks_per_slot)
    else:
        in_job(chosen.kind, chosen.url, chosen.result, chosen.tasks_per_slot)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Two workflows that alternate QPU and classical phases on one slot: held, or given back between.

Each workflow, like SQD, asks the QPU, computes, and asks again. Once each is a job of its own that
holds the slot to its end, as the reference plugin has it, so that one waits for the other. Once
both run outside, with elastic blocks: who computes gives the slot back. The emulated device counts
its useful time; classical phases are pauses. Makespans begin when both are submitted.

    python benchmarks/slurm_alternate.py [--rounds 2] [--mix 4:16 --mix 10:10 --mix 16:4]
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import parsl

from common import bell, seconds, slurm, slurm_site, verdict, write_site
from hybridflow.site import load_site
from hybridflow.slurm import coscheduled_job, submit, wait
from hybridflow.testing import QpuEmulator, qpu_emulator
from hybridflow_parsl import classical_app, hybrid_config, quantum_app

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

CIRCUIT_SECONDS = 0.5
WORKFLOWS = 2
MIXES = ("4:16", "10:10", "16:4")
SLURM = """
[slurm.classical]
partition = "classical"
nodes = 1

[slurm.blocks]
kind = "elastic"
idle = 1.0

[classical]
workers = 1
"""


@quantum_app
def sample(circuit: "QuantumCircuit", circuits: int) -> int:
    import hybridflow as hf

    return len(hf.Sampler().run([circuit] * circuits, shots=10).result())


@classical_app
def compute(pause: float, circuits: int) -> int:
    import time

    time.sleep(pause)
    return circuits


def workflow(rounds: int, quantum: float, classical: float) -> None:
    """Alternate phases of so many seconds."""
    circuits = round(quantum / CIRCUIT_SECONDS)
    with parsl.load(hybrid_config(tasks_per_slot=1)):
        for _ in range(rounds):
            circuits = compute(classical, sample(bell(), circuits)).result()


def command(rounds: int, mix: str) -> list[str]:
    script = [sys.executable, os.path.abspath(__file__), "--rounds", str(rounds), "--mix", mix]
    return [*script, "--workflow"]


def held(site: Path, rounds: int, mix: str) -> None:
    """Run the workflows as jobs that hold the slot."""
    job = coscheduled_job(command(rounds, mix), load_site(site))
    for number in [submit(job) for _ in range(WORKFLOWS)]:
        wait(number)


def elastic(site: Path, rounds: int, mix: str) -> None:
    """Run the workflows outside, with blocks that come and go."""
    environment = os.environ | {"HYBRIDFLOW_SITE": str(site)}
    started = []
    for number in range(WORKFLOWS):
        folder = site.parent / f"elastic-{mix.replace(':', '-')}-{number}"
        folder.mkdir()
        started.append(subprocess.Popen(command(rounds, mix), cwd=folder, env=environment))
    statuses = [process.wait() for process in started]
    assert statuses == [0] * WORKFLOWS, statuses


def useful(emulator: QpuEmulator, call: Callable[[], None]) -> tuple[float, float]:
    """Return how long a call takes, and the part of it in which the device was useful."""
    before = len(emulator.log())
    makespan = seconds(call)
    circuits = sum(entry.circuits for entry in emulator.log()[before:])
    return makespan, circuits * CIRCUIT_SECONDS / makespan


def report(rounds: int, mixes: list[str]) -> bool:
    with (
        qpu_emulator("qpu", seconds_per_circuit=CIRCUIT_SECONDS) as emulator,
        slurm({"qpu": 1}, nodes=3) as folder,
    ):
        site = write_site(folder, slurm_site({"qpu": (emulator.url, "qpu")}, SLURM))
        print("QPU : classical   held: makespan  useful   elastic: makespan  useful   ratio")
        ratios = []
        for mix in mixes:
            kept, its_use = useful(emulator, lambda mix=mix: held(site, rounds, mix))
            shared, our_use = useful(emulator, lambda mix=mix: elastic(site, rounds, mix))
            ratios.append(kept / shared)
            print(
                f"{mix:>15} s {kept:14.1f} s {its_use:7.2f} {shared:17.1f} s {our_use:7.2f}"
                f" {ratios[-1]:7.2f}"
            )
    print("held / elastic above 1 in the best mix")
    return max(ratios) > 1


def phases(mix: str) -> tuple[float, float]:
    quantum, classical = map(float, mix.split(":"))
    return quantum, classical


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--mix", action="append", metavar="QPU:CLASSICAL", help="seconds; repeat")
    parser.add_argument("--workflow", action="store_true", help=argparse.SUPPRESS)  # in a job
    chosen = parser.parse_args()
    # Parsl's own executor finds its programs there.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    mixes = chosen.mix or list(MIXES)
    if chosen.workflow:
        workflow(chosen.rounds, *phases(mixes[0]))
        return 0
    return verdict(report(chosen.rounds, mixes))


if __name__ == "__main__":
    sys.exit(main())

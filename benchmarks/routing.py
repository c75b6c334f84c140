"""How long 100 mixed circuits take by a route over two devices, against fixed assignments of them.

Callers, threads that wait for a result before they ask again, share the circuits, which differ in
width and shots. The one emulated device is three times as slow as the other. Fixed assignments: all
circuits to one device, one after the other to each in turn, and the best that can be known before:
each circuit, the longest first, to the device that would be done with it first.

    python benchmarks/routing.py [--circuits 100] [--callers 10] [--time-scale 1.0]
"""

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from qiskit import QuantumCircuit

import hybridflow as hf
from common import seconds, verdict, write_site
from hybridflow import environment, slot
from hybridflow.testing import qpu_emulator

FAST = {"seconds_per_job": 0.1, "seconds_per_circuit": 0.02, "seconds_per_shot": 1e-4}
SLOWER = 3.0
RATIO = 1.1
ROUTE = """
[route.either]
any_of = ["slow", "fast"]
"""


class Item(msgspec.Struct, frozen=True):
    """A circuit, its shots, and what it takes on the fast device, in seconds."""

    circuit: Any
    shots: int
    cost: float


def mixed(count: int) -> list[Item]:
    chosen = random.Random(2026)
    items = []
    for _ in range(count):
        circuit = QuantumCircuit(chosen.randint(2, 8))
        circuit.h(0)
        for qubit in range(1, circuit.num_qubits):
            circuit.cx(qubit - 1, qubit)
        circuit.measure_all()
        shots = chosen.choice([100, 500, 1000, 4000])
        cost = FAST["seconds_per_circuit"] + shots * FAST["seconds_per_shot"]
        items.append(Item(circuit, shots, cost))
    return items


def longest_first(items: Sequence[Item]) -> list[str]:
    busy = {"fast": 0.0, "slow": 0.0}
    assigned = [""] * len(items)
    for place in sorted(range(len(items)), key=lambda place: -items[place].cost):
        ends = {
            "fast": busy["fast"] + items[place].cost,
            "slow": busy["slow"] + SLOWER * items[place].cost,
        }
        name = min(ends, key=lambda name: ends[name])
        busy[name], assigned[place] = ends[name], name
    return assigned


def makespan(
    items: Sequence[Item], callers: int, resource_of: Callable[[int], str]
) -> tuple[float, Counter[str]]:
    """Return the time until all have their results, and where those came from."""

    def ask(place: int) -> str:
        sampler = hf.Sampler(resource=resource_of(place))
        job = sampler.run([items[place].circuit], shots=items[place].shots)
        origin: dict[str, Any] = job.result().metadata["hybridflow"]
        return str(origin["resource"])

    for name in ("slow", "fast"):
        slot.connect(name).describe()  # devices are there before the clock runs
    where: Counter[str] = Counter()

    def ask_all() -> None:
        with ThreadPoolExecutor(callers) as pool:
            where.update(pool.map(ask, range(len(items))))

    took = seconds(ask_all)
    slot.close_all()  # what a broker has learned is not for the next round
    return took, where


def told(name: str, took: float, where: Counter[str]) -> float:
    print(f"{name:28} {took:7.2f} s   {where['fast']:3} fast {where['slow']:3} slow")
    return took


def report(count: int, callers: int, scale: float) -> bool:
    items = mixed(count)
    known = longest_first(items)
    fixed: dict[str, Callable[[int], str]] = {
        "all to the slow one": lambda place: "slow",
        "all to the fast one": lambda place: "fast",
        "in turn": lambda place: ("slow", "fast")[place % 2],
        "longest first, known before": lambda place: known[place],
    }
    slow = {name: SLOWER * value for name, value in FAST.items()}
    with (
        tempfile.TemporaryDirectory(prefix="hybridflow-") as folder,
        qpu_emulator("fast", time_scale=scale, **FAST) as one,
        qpu_emulator("slow", time_scale=scale, **slow) as other,
    ):
        site = write_site(Path(folder), f"{one.site}\n{other.site}\n{ROUTE}")
        os.environ[environment.SITE] = str(site)
        print(f"{count} circuits, {callers} callers, one device {SLOWER:g} times as slow")
        took = {}
        for name, resource_of in fixed.items():
            took[name], where = makespan(items, callers, resource_of)
            print(f"{name:28} {took[name]:7.2f} s   {where['fast']:3} fast {where['slow']:3} slow")
        routed, where = makespan(items, callers, lambda place: "either")
        print(
            f"{'by the route':28} {routed:7.2f} s   {where['fast']:3} fast {where['slow']:3} slow"
        )
    best, worst = min(took.values()), max(took.values())
    print(f"route / best fixed   {routed / best:5.2f}   (at most {RATIO})")
    print(f"route / worst fixed  {routed / worst:5.2f}")
    return routed <= RATIO * best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--circuits", type=int, default=100)
    parser.add_argument("--callers", type=int, default=10)
    parser.add_argument("--time-scale", type=float, default=1.0, help="0.1: ten times as quick")
    chosen = parser.parse_args()
    return verdict(report(chosen.circuits, chosen.callers, chosen.time_scale))


if __name__ == "__main__":
    sys.exit(main())

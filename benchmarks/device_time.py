"""How much of the time the device is useful, where callers compute between their calls.

Useful is the time of the circuits, and the fixed cost of the fewest vendor jobs that could have
held them: as many as one client has calls, since clients wait for their results. All of it is
counted in the emulated device's own log. Classical phases are unequal pauses; if no caller ever
waited for another, the device would have twice as much to do as it can. Bound: nine tenths of
the makespan, for 4 and for 16 clients. Then a closed loop of walkers, each of which goes on as soon
as it can, against one in which all wait for the last of each generation.

    python benchmarks/device_time.py [--time-scale 1.0]
"""

import argparse
import random
import sys
import time
from pathlib import Path

import msgspec

from common import broker, emulated, in_processes, packed_bell, request, together, verdict
from hybridflow.backends.emulator.messages import Execution
from hybridflow.broker.client import connect
from hybridflow.records import PackedPub
from hybridflow.testing import qpu_emulator

FIXED_SECONDS, CIRCUIT_SECONDS, CIRCUITS = 0.05, 0.025, 20
CALL_SECONDS = CIRCUITS * CIRCUIT_SECONDS
DEMAND = 2.0
SHARE = 0.9


class Case(msgspec.Struct, frozen=True):
    """One measurement: who calls, how often, and whether they wait for each other."""

    name: str
    clients: int
    calls: int
    barrier: bool = False

    @property
    def mean_phase(self) -> float:
        """Seconds that a client computes between two calls, on average."""
        return CALL_SECONDS * (self.clients / DEMAND - 1)


class Figures(msgspec.Struct, frozen=True):
    """What the log says."""

    makespan: float
    jobs: int
    busy: float
    useful: float


CASES = (
    Case("4 clients", 4, 12),
    Case("16 clients", 16, 5),
    Case("12 walkers", 12, 5),
    Case("12 walkers, barrier", 12, 5, barrier=True),
)


def work(socket: Path, pub: PackedPub, phases: list[float], barrier: bool) -> None:
    """Call and compute in turns."""
    connection = connect(socket)
    connection.describe()
    together()
    for phase in phases:
        connection.submit(request(pub, CIRCUITS)).future.result()
        time.sleep(phase)
        if barrier:
            together()
    together()
    connection.close()


def phases(case: Case, scale: float) -> list[list[float]]:
    """Return unequal phases for each client: all have the same in all, each in its own order."""
    middle = (case.calls - 1) / 2
    lengths = [
        scale * case.mean_phase * (1 + 0.8 * (number - middle) / middle)
        for number in range(case.calls)
    ]
    return [random.Random(client).sample(lengths, case.calls) for client in range(case.clients)]


def figures(log: list[Execution], calls: int, scale: float) -> Figures:
    makespan = max(entry.ended or 0.0 for entry in log) - min(entry.submitted for entry in log)
    busy = sum((entry.ended or 0.0) - (entry.started or 0.0) for entry in log)
    circuits = sum(entry.circuits for entry in log)
    useful = scale * (circuits * CIRCUIT_SECONDS + calls * FIXED_SECONDS)
    return Figures(makespan, len(log), busy / makespan, useful / makespan)


def measure(case: Case, pub: PackedPub, scale: float) -> Figures:
    timing = {"seconds_per_job": FIXED_SECONDS, "seconds_per_circuit": CIRCUIT_SECONDS}
    with (
        qpu_emulator("qpu", time_scale=scale, **timing) as emulator,
        broker(emulated(emulator, max_in_flight=2)) as process,
    ):
        chosen = [(process.socket, pub, own, case.barrier) for own in phases(case, scale)]
        in_processes(work, chosen)
        return figures(emulator.log(), case.calls, scale)


def report(scale: float) -> bool:
    pub = packed_bell()
    found = {}
    print(f"{'':22}makespan  vendor jobs    busy  useful")
    for case in CASES:
        found[case.name] = seen = measure(case, pub, scale)
        jobs = f"{seen.jobs} (least {case.calls})"
        print(
            f"{case.name:22}{seen.makespan:6.2f} s  {jobs:>13} {seen.busy:6.2f}  {seen.useful:6.2f}"
        )
    loop, barrier = found["12 walkers"], found["12 walkers, barrier"]
    print(f"with barrier / without: makespan {barrier.makespan / loop.makespan:.2f}")
    print(f"4 and 16 clients: useful at least {SHARE}")
    return all(found[name].useful >= SHARE for name in ("4 clients", "16 clients"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time-scale", type=float, default=1.0, help="0.1: ten times as quick")
    return verdict(report(parser.parse_args().time_scale))


if __name__ == "__main__":
    sys.exit(main())

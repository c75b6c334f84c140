"""What slots are worth: tasks over several slots of one device, and over several devices.

Each slot is held by a job on a local Slurm cluster, has a broker of its own, and runs its share of
the tasks, up to 16 at a time. The emulated device takes 0.5 s for a vendor job and 50 ms for a
circuit, and executes one job at a time. Bounds: several slots of one device take at most a tenth
longer than one; several devices are compared with the ideal, as much quicker as there are more.

    python benchmarks/slurm_slots.py [--tasks 100] [--time-scale 1.0]
"""

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import packed_bell, request, slurm, slurm_site, verdict, write_site
from hybridflow import slot, wire
from hybridflow.records import PackedPub
from hybridflow.site import Site, load_site
from hybridflow.slurm import coscheduled_job, submit, wait
from hybridflow.testing import QpuEmulator, qpu_emulator

FIXED_SECONDS, CIRCUIT_SECONDS = 0.5, 0.05
AT_A_TIME = 16
COUNTS = (1, 2, 4)
RATIO = 1.1
START_SECONDS = 120.0


def work(folder: Path, jobs: int, tasks: int) -> None:
    """Run a share of the tasks in a slot, when all jobs are there."""
    pub = wire.decode((folder / "pub").read_bytes(), PackedPub)
    connection = slot.connect()
    connection.describe()
    (folder / f"{os.getpid()}.ready").touch()
    until = time.monotonic() + START_SECONDS
    while len(list(folder.glob("*.ready"))) < jobs:
        if time.monotonic() > until:
            raise TimeoutError(f"not all of {jobs} jobs have started")
        time.sleep(0.01)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(lambda _: connection.submit(request(pub)).future.result(), range(tasks)))
    connection.close()


def run(site: Site, names: list[str], tasks: int, folder: Path) -> None:
    """Run the tasks in as many jobs as there are names, each in a slot of that resource."""
    folder.mkdir()
    (folder / "pub").write_bytes(wire.encode(packed_bell()))
    numbers = []
    for number, name in enumerate(names):
        share = tasks // len(names) + (number < tasks % len(names))
        door = [sys.executable, "-m", "hybridflow", "slot", "run", "--resource", name, "--"]
        script = [sys.executable, os.path.abspath(__file__), "--tasks", str(share)]
        work = ["--folder", str(folder), "--jobs", str(len(names))]
        job = coscheduled_job([*door, *script, *work], site, resource=name, nodes=0)
        numbers.append(submit(job))
    for number in numbers:
        wait(number)


def makespan(emulator: QpuEmulator, before: int) -> tuple[float, int]:
    log = emulator.log()[before:]
    return max(entry.ended or 0.0 for entry in log) - min(e.submitted for e in log), len(log)


def report(tasks: int, scale: float) -> bool:
    devices = [f"device{number}" for number in range(max(COUNTS))]
    timing = {"seconds_per_job": FIXED_SECONDS, "seconds_per_circuit": CIRCUIT_SECONDS}
    with (
        qpu_emulator(*devices, time_scale=scale, **timing) as emulator,
        slurm({"shared": max(COUNTS), **dict.fromkeys(devices, 1)}) as folder,
    ):
        remote = {"shared": devices[0], **{name: name for name in devices}}
        text = slurm_site({name: (emulator.url, there) for name, there in remote.items()})
        site = load_site(write_site(folder, text))

        def taken(names: list[str], kind: str) -> float:
            before = len(emulator.log())
            run(site, names, tasks, folder / f"{kind}{len(names)}")
            seconds, jobs = makespan(emulator, before)
            print(f"{len(names)} {kind:7}{seconds:7.2f} s{jobs:4} vendor jobs")
            return seconds

        slots = {count: taken(["shared"] * count, "slots") for count in COUNTS}
        apart = {count: taken(devices[:count], "devices") for count in COUNTS}
    for count in COUNTS[1:]:
        print(f"{count} slots / 1 slot          {slots[count] / slots[1]:5.2f}   (at most {RATIO})")
        print(f"{count} devices / 1 device, ideal {apart[count] / apart[1] * count:5.2f}")
    return all(slots[count] <= RATIO * slots[1] for count in COUNTS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--time-scale", type=float, default=1.0, help="0.1: ten times as quick")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # in a job
    parser.add_argument("--jobs", type=int, default=1, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.folder is not None:
        work(chosen.folder, chosen.jobs, chosen.tasks)
        return 0
    return verdict(report(chosen.tasks, chosen.time_scale))


if __name__ == "__main__":
    sys.exit(main())

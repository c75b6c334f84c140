"""10,000 classical tasks that nothing precedes, each with a result of 100 kB, on Dask.

Dask hands such tasks out a few at a time, so that their results are used up before the next are
made; a task with a restriction loses that. The graph (make a result, take its length, add up) runs
on two workers of one thread, in turns on Dask as it comes and on a ``HybridCluster``. Bounds: time
and peak memory of the workers are at most 1.2 times Dask's own. What the run added to the memory
that the idle workers held stands beside it, and swings.

    python benchmarks/dask_roots.py [--rounds 2] [--tasks 10000]
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import dask
from distributed import Client

from common import NULL_SITE, bare_dask, seconds, verdict, write_site
from hybridflow_dask import HybridCluster

RATIO = 1.2
WORKERS, SIZE = 2, 100_000


def make(number: int) -> bytes:
    return bytes(SIZE)


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def memory() -> tuple[int, int]:
    """Return what this process holds, and the most it held since `forget_peak`, in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    held, peak = (1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return held, peak


def graph(tasks: int) -> object:
    made = [dask.delayed(make, pure=False)(number) for number in range(tasks)]
    return dask.delayed(sum)([dask.delayed(len)(result) for result in made])


def measure(client: Client, workers: list[str], tasks: int) -> tuple[float, float, float]:
    """Return seconds, MB that the workers' peaks were above what they held, MB of the peaks."""
    client.run(forget_peak, workers=workers)
    before = client.run(memory, workers=workers)
    asked = graph(tasks)
    taken = seconds(lambda: client.compute(asked).result())
    after = client.run(memory, workers=workers)
    peaks = sum(peak for _, peak in after.values())
    return taken, (peaks - sum(held for held, _ in before.values())) / 1e6, peaks / 1e6


def classical_workers(client: Client) -> list[str]:
    """Return the addresses of the workers that declare no resource."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return [address for address, worker in workers.items() if not worker["resources"]]


def report(ours: Client, bare: Client, rounds: int, tasks: int) -> bool:
    clients = [(client, classical_workers(client)) for client in (bare, ours)]
    for client, workers in clients:  # so that workers have imported, and grown, as they will
        measure(client, workers, tasks // 10)
    taken = [
        [measure(client, workers, tasks) for client, workers in clients] for _ in range(rounds)
    ]
    theirs, mine = (
        [statistics.median(figures) for figures in zip(*column, strict=True)]
        for column in zip(*taken, strict=True)
    )
    time_ratio, peak_ratio, whole_ratio = (m / t for m, t in zip(mine, theirs, strict=True))
    print(f"{tasks} tasks, {SIZE // 1000} kB each, {WORKERS} workers")
    print("                                  ours      bare   ratio")
    print(f"time                        {mine[0]:8.2f} s{theirs[0]:8.2f} s {time_ratio:7.2f}")
    print(f"peak memory above idle      {mine[1]:7.1f} MB{theirs[1]:7.1f} MB {peak_ratio:6.2f}")
    print(f"peak memory                 {mine[2]:7.1f} MB{theirs[2]:7.1f} MB {whole_ratio:6.2f}")
    return max(time_ratio, whole_ratio) <= RATIO


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=10_000)
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="hybridflow-") as folder,
        bare_dask([{"nthreads": 1}] * WORKERS) as bare,
        HybridCluster(write_site(Path(folder), NULL_SITE), workers=WORKERS) as cluster,
        Client(cluster) as ours,
    ):
        ours.wait_for_workers(WORKERS + 1)
        kept = report(ours, bare, chosen.rounds, chosen.tasks)
    return verdict(kept)


if __name__ == "__main__":
    sys.exit(main())

"""What a quantum task costs through Parsl, against a bare HighThroughputExecutor.

A task with one primitive call to a null backend goes through ``QPUExecutor``; a no-op goes through
Parsl's own executor. Both are asked in turns in one run, each on one worker. Bounds: the median of
the first is at most 1.3 times that of the second plus 2 ms; the primitive call alone, inside a
task, takes at most 2 ms (median) and 5 ms (99th percentile).

    python benchmarks/parsl_round_trip.py [--rounds 500]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from parsl import DataFlowKernel, python_app
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider
from qiskit import QuantumCircuit

import hybridflow as hf
from common import NULL_SITE, bell, milliseconds, verdict, write_site
from hybridflow_parsl import QPUExecutor

RATIO, ALLOWANCE = 1.3, 2.0
MEDIAN_MILLISECONDS, P99_MILLISECONDS = 2.0, 5.0


def no_op() -> None:
    pass


@hf.quantum_task
def sample(circuit: QuantumCircuit) -> None:
    hf.Sampler().run([circuit], shots=100).result()


@hf.quantum_task
def calls(circuit: QuantumCircuit, count: int) -> list[float]:
    """Return how long single primitive calls take, in milliseconds, sorted."""
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        hf.Sampler().run([circuit], shots=100).result()
        taken.append(1e3 * (time.perf_counter() - begun))
    return sorted(taken)


def config(folder: Path) -> Config:
    site = write_site(folder, NULL_SITE)
    bare = HighThroughputExecutor(
        label="bare", max_workers_per_node=1, address="127.0.0.1", provider=LocalProvider()
    )
    return Config(
        executors=[QPUExecutor(site=site, tasks_per_slot=1), bare],
        run_dir=str(folder / "parsl"),
        strategy_period=0.2,
        initialize_logging=False,
    )


def report(rounds: int, kernel: DataFlowKernel) -> bool:
    circuit = bell()
    bare = python_app(no_op, executors=["bare"], data_flow_kernel=kernel)
    ours = python_app(sample, executors=["qpu"], data_flow_kernel=kernel)
    inside = python_app(calls, executors=["qpu"], data_flow_kernel=kernel)
    asked = [lambda: bare().result(), lambda: ours(circuit).result()]
    for call in asked * 20:
        call()
    taken = [[milliseconds(call) for call in asked] for _ in range(rounds)]
    base, task = (statistics.median(column) for column in zip(*taken, strict=True))
    alone = inside(circuit, rounds).result()
    median, p99 = statistics.median(alone), alone[int(0.99 * rounds)]
    ratio = task / (base + ALLOWANCE)
    print(f"bare no-op                {base:7.3f} ms")
    print(f"quantum task              {task:7.3f} ms")
    print(f"ratio (no-op + 2 ms)      {ratio:7.2f}")
    print(f"primitive call, median    {median:7.3f} ms")
    print(f"primitive call, 99 %      {p99:7.3f} ms")
    return ratio <= RATIO and median <= MEDIAN_MILLISECONDS and p99 <= P99_MILLISECONDS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=500)
    chosen = parser.parse_args()
    # Parsl's own executor finds its programs there.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (
        tempfile.TemporaryDirectory(prefix="hybridflow-") as folder,
        DataFlowKernel(config(Path(folder))) as kernel,
    ):
        kept = report(chosen.rounds, kernel)
    return verdict(kept)


if __name__ == "__main__":
    sys.exit(main())

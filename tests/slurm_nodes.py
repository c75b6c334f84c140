"""A program for tests: says on which nodes of a Slurm job the tasks of an engine ran.

``slurm_nodes.py ENGINE FILE`` writes it into the file, as JSON, and goes on until it is ended. When
the file is taken away, it runs them once more.
"""

import json
import os
import sys
import time
from pathlib import Path

import hybridflow as hf
from hybridflow.pools import Pools, open_pools

TASKS = 8


@hf.quantum_task
def shots() -> dict[str, object]:
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(1)
    circuit.x(0)
    circuit.measure_all()
    counts = hf.Sampler().run([circuit], shots=5).result()[0].data.meas.get_counts()
    return {"node": os.environ["SLURMD_NODENAME"], "shots": sum(counts.values())}


def place() -> str:
    time.sleep(0.5)  # long enough for the other node to get some, too
    ranks = [name for name in os.environ if name == "SLURM_NTASKS" or name.startswith("PMI")]
    assert not ranks, ranks
    assert "HYBRIDFLOW_BROKER" not in os.environ
    return os.environ["SLURMD_NODENAME"]


@hf.quantum_task
def hold(file: Path) -> bool:
    deadline = time.monotonic() + 300
    while file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not file.exists()


def find_places(pools: Pools, file: Path) -> None:
    places = [pools.classical.submit(place) for _ in range(TASKS)]
    quantum = pools.quantum.submit(shots).result()
    classical = sorted({future.result() for future in places})
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({"quantum": quantum, "classical": classical}))
    draft.rename(file)


if __name__ == "__main__":
    engine, file = sys.argv[1], Path(sys.argv[2])
    with open_pools(engine=engine) as pools:
        find_places(pools, file)
        while pools.quantum.submit(hold, file).result():
            find_places(pools, file)

"""What Dask's users know from their workers holds in ours, too."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dask
import dask.bag
import numpy as np
import pytest
from distributed import (
    Client,
    LocalCluster,
    Scheduler,
    SpecCluster,
    get_worker,
    secede,
    worker_client,
)
from distributed.protocol import deserialize, serialize, to_serialize
from qiskit import QuantumCircuit

import hybridflow as hf
from hybridflow.environment import ENGINE_WORKER_MARKERS, ROLE
from hybridflow.errors import NoSlotError, TaskExitError
from hybridflow.tasks import current_task
from hybridflow_dask import HybridCluster, HybridWorkerPlugin, quantum
from hybridflow_dask.results import in_one_piece

pytestmark = pytest.mark.timeout(100)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where workers find this file
        with HybridCluster(workers=2) as cluster, Client(cluster) as client:
            cluster.wait_for_workers(timeout=60)
            yield client


def where(_: int) -> str:
    return str(get_worker().name)


def more(number: int) -> int:
    with worker_client() as client:
        return int(client.submit(lambda: number + 1).result(30))


def aside(number: int) -> int:
    secede()
    return number


def leave(_: int) -> None:
    raise SystemExit(3)


def ask_twice(_: int) -> tuple[str, str]:
    return current_task(), hf.quantum_task(current_task)()


def test_an_annotated_task_knows_what_it_is(client: Client) -> None:
    """A marked function that it calls is part of it, as in a task with the mark."""
    with quantum():
        first, second = client.gather(client.map(ask_twice, range(2)))
    assert first[0] == first[1] != ""
    assert second[0] == second[1] != first[0]
    assert client.submit(hf.quantum_task(current_task)).result(30) not in ("", *first, *second)
    assert client.submit(current_task).result(30) == ""


def test_tasks_know_their_worker(client: Client) -> None:
    assert client.submit(where, 1).result(30).startswith("classical-")
    assert client.submit(hf.quantum_task(where), 1).result(30).startswith("quantum-")


def test_tasks_can_submit_tasks_and_step_aside(client: Client) -> None:
    assert client.submit(more, 1).result(30) == 2
    assert client.submit(aside, 1).result(30) == 1


@pytest.mark.parametrize("function", [leave, hf.quantum_task(leave)])
def test_a_task_that_exits_fails_alone_and_by_its_name(client: Client, function: object) -> None:
    before = set(client.scheduler_info(n_workers=-1)["workers"])
    with pytest.raises(TaskExitError, match=r"'leave' called sys\.exit"):
        client.submit(function, 1).result(30)
    assert set(client.scheduler_info(n_workers=-1)["workers"]) == before


def test_a_preferred_worker_outside_slots_is_not_insisted_on(client: Client) -> None:
    future = client.submit(
        hf.quantum_task(where), 1, workers=["classical-0"], allow_other_workers=True
    )
    assert future.result(30).startswith("quantum-")


@pytest.mark.parametrize("number", [1.5, "2"])
def test_a_number_of_workers_is_a_whole_number(client: Client, number: object) -> None:
    with pytest.raises(hf.errors.InputError, match="must be a whole number"):
        client.cluster.scale(classical=number)


RESULTS = [
    {"01": 3, "10": 1},
    [0.5, -1.0],
    (1, "two"),
    {1, 2},
    {"nested": [{"0": 1}, (2, None)]},
    {},
    [],
    7,
]


@pytest.mark.parametrize("result", RESULTS, ids=repr)
def test_results_come_back_as_they_were(client: Client, result: object) -> None:
    found = client.submit(hf.quantum_task(lambda: result)).result(30)
    assert (type(found), found) == (type(result), result)


def test_a_result_with_arrays_comes_back_as_it_was(client: Client) -> None:
    found = client.submit(hf.quantum_task(lambda: [np.arange(3)])).result(30)
    assert type(found) is list
    assert found[0].tolist() == [0, 1, 2]


def test_counts_travel_in_one_piece() -> None:
    counts = {f"{n:010b}": n for n in range(1024)}
    assert len(serialize(to_serialize(counts))[1]) == 1024  # what Dask makes of it
    header, frames = serialize(to_serialize(in_one_piece(counts)))
    assert len(frames) == 1
    found = deserialize(header, frames)
    assert (type(found), found) == (dict, counts)


# --- workers that are not ours --------------------------------------------------------------------


def simulate(*_: object) -> int:
    """Sample without a mark."""
    bell = QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    bell.measure_all()
    counts = hf.Sampler().run([bell], shots=10).result()[0].data.meas.get_counts()
    return sum(counts.values())


@hf.quantum_task
def marked(*_: object) -> int:
    return simulate()


@pytest.fixture(scope="module")
def bare() -> Iterator[Client]:
    """A cluster started by hand, without anything of ours: workers with and without a nanny."""
    about = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "port": 0}
    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1"]
    quiet = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    environ = {k: v for k, v in os.environ.items() if k not in (ROLE, *ENGINE_WORKER_MARKERS)}
    with SpecCluster({}, {"cls": Scheduler, "options": about}) as cluster, ExitStack() as stack:
        for kind in ("nanny", "no-nanny"):
            process = subprocess.Popen(
                [*command, *quiet, f"--{kind}", "--name", kind, cluster.scheduler_address],
                env=environ | {"PYTHONPATH": str(Path(__file__).parent)},
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
        client = stack.enter_context(Client(cluster))
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.mark.parametrize("kind", ["nanny", "no-nanny"])
@pytest.mark.parametrize("function", [simulate, marked])
def test_a_worker_without_a_slot_never_simulates(bare: Client, kind: str, function: object) -> None:
    future = bare.submit(function, workers=[kind], pure=False)
    with pytest.raises(NoSlotError, match="hybridflow slot run"):
        future.result(60)


def test_an_annotation_that_got_lost_is_no_simulation(bare: Client) -> None:
    with quantum():
        steps = dask.bag.from_sequence(range(2)).map(simulate)
    with pytest.raises(NoSlotError, match=r"hybridflow\.quantum_task"):
        steps.compute()


def test_workers_that_are_up_can_be_made_ours(bare: Client) -> None:
    bare.register_plugin(HybridWorkerPlugin())
    with dask.annotate(executor="hybridflow"):
        inside = bare.submit(os.getppid)
    assert inside.result(60) in bare.run(os.getpid).values()
    with pytest.raises(NoSlotError, match="hybridflow slot run"):
        bare.submit(simulate, pure=False).result(60)


def test_a_cluster_inside_a_notebook_simulates() -> None:
    """Its workers are threads of a plain program."""
    options = {"processes": False, "dashboard_address": None}
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster,
        Client(cluster) as it,
    ):
        assert it.submit(simulate).result(60) == 10
    assert simulate() == 10

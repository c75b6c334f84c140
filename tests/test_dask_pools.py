"""Pools on Dask, and what our workers do for tasks that users send them without pools."""

import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import dask
import pool_tasks as tasks
import psutil
import pytest
from distributed import Client, LocalCluster, Scheduler, get_worker
from qiskit import QuantumCircuit

import hybridflow as hf
from hybridflow import environment
from hybridflow.environment import Role
from hybridflow.errors import (
    AcquireError,
    InputError,
    ResourceError,
    TaskError,
    TaskExitError,
    WorkerLostError,
)
from hybridflow.events import TaskEnded, TaskStarted, read_events
from hybridflow.pools import Pools, open_pools
from hybridflow_dask.labels import PROCESSES, QPU
from hybridflow_dask.pools import ClassicalPool, DaskPool
from hybridflow_dask.worker import HybridWorkerPlugin

SECONDS = 60

SITE = """
[qpu.toy]
backend = "fake"
num_qubits = 7
tasks_per_slot = 2

[classical]
workers = 1
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("site") / "toy.toml"
    file.write_text(SITE)
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def opened(site: Path, run: Path) -> Iterator[Pools]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv(environment.RUN, str(run))
        with open_pools(site, engine="dask") as made:
            # The variables must be there until the workers are.
            assert made.quantum.submit(tasks.quantum_add, 1).result(SECONDS) == 1
            assert made.classical.submit(tasks.add, 1).result(SECONDS) == 1
            yield made


@pytest.fixture
def client(opened: Pools) -> Client:
    return client_of(opened)


def client_of(opened: Pools) -> Client:
    assert isinstance(opened.quantum, DaskPool)
    return opened.quantum._client


# --- where tasks run, and what becomes of them ---------------------------------------------------


def test_a_classical_task_runs_in_the_main_thread_of_a_process(opened: Pools) -> None:
    """As qiskit-addon-sqd and JAX ask; a script's own functions, too."""

    def place() -> tuple[bool, int]:
        return threading.current_thread() is threading.main_thread(), os.getpid()

    found = [opened.classical.submit(place).result(SECONDS) for _ in range(2)]
    worker = opened.classical.submit(os.getppid).result(SECONDS)
    assert found[0] == found[1] == (True, found[0][1])
    assert psutil.Process(found[0][1]).ppid() == worker


def test_keywords_of_dask_are_the_tasks_own(opened: Pools) -> None:
    def given(**kwargs: Any) -> dict[str, Any]:
        return kwargs

    asked = {"key": 1, "workers": 2, "resources": 3, "retries": 4, "priority": 5, "pure": 6}
    assert opened.classical.submit(given, **asked).result(SECONDS) == asked


@pytest.mark.parametrize("kind", ["quantum", "classical"])
def test_what_cannot_be_pickled_fails_its_task_alone(opened: Pools, kind: str) -> None:
    pool = getattr(opened, kind)
    mark: Callable[..., Any] = hf.quantum_task if kind == "quantum" else lambda function: function
    circuit = QuantumCircuit(1, metadata={"lock": threading.Lock()})
    with pytest.raises(TaskError, match=r"'process' cannot be sent to a worker: .*lock"):
        pool.submit(mark(tasks.process), circuit)
    others = [pool.submit(mark(tasks.add), number) for number in range(5)]
    with pytest.raises(TaskError, match=r"result .*cannot be pickled.*lock"):
        pool.submit(mark(tasks.unpicklable)).result(SECONDS)
    with pytest.raises(TaskError, match=r"exception that cannot be pickled(.|\n)*Awkward: 1 and 2"):
        pool.submit(mark(tasks.fail_awkwardly)).result(SECONDS)
    assert [future.result(SECONDS) for future in others] == [*range(5)]


def test_an_exception_of_a_function_by_value(opened: Pools) -> None:
    class Mine(Exception):
        pass

    def fail() -> None:
        raise Mine("today")

    with pytest.raises(Mine, match="today"):
        opened.classical.submit(fail).result(SECONDS)


def test_a_killed_process_costs_its_task_alone(opened: Pools) -> None:
    with pytest.raises(WorkerLostError, match="'die' was killed by SIGKILL") as raised:
        opened.classical.submit(tasks.die).result(SECONDS)
    assert raised.value.transient
    assert opened.classical.submit(tasks.add, 1).result(SECONDS) == 1


def test_a_task_that_kills_its_workers_is_given_up(opened: Pools, client: Client) -> None:
    def forgive(dask_scheduler: Scheduler, failures: int) -> int:
        before, dask_scheduler.allowed_failures = dask_scheduler.allowed_failures, failures
        return before

    before = client.run_on_scheduler(forgive, failures=0)
    try:
        with pytest.raises(WorkerLostError, match="'die' was given up") as raised:
            opened.quantum.submit(hf.quantum_task(tasks.die)).result(SECONDS)
    finally:
        client.run_on_scheduler(forgive, failures=before)
    assert raised.value.transient
    assert opened.quantum.submit(tasks.quantum_add, 1).result(SECONDS) == 1


def test_a_task_can_be_cancelled(opened: Pools, client: Client, tmp_path: Path) -> None:
    running = opened.classical.submit(tasks.wait_for, tmp_path / "go")
    waiting = opened.classical.submit(tasks.add, 1)
    assert waiting.cancel()
    (tmp_path / "go").touch()
    assert running.result(SECONDS)
    assert opened.classical.submit(tasks.add, 2).result(SECONDS) == 2
    assert waiting.cancelled()
    assert not client.run_on_scheduler(add_tasks)


def add_tasks(dask_scheduler: Scheduler) -> list[Any]:
    return [key for key, task in dask_scheduler.tasks.items() if task.state == "waiting"]


# --- tasks without pools -------------------------------------------------------------------------


def test_sys_exit_ends_no_worker(client: Client) -> None:
    for function, options in (
        (tasks.leave, {}),
        (tasks.quantum_leave, {"resources": {QPU: 1}}),
    ):
        before = set(client.scheduler_info()["workers"])
        with pytest.raises(TaskExitError, match="exit"):
            client.submit(function, pure=False, **options).result(SECONDS)
        assert set(client.scheduler_info()["workers"]) == before


def test_a_task_knows_its_worker(client: Client) -> None:
    found = client.submit(lambda: get_worker().address, pure=False).result(SECONDS)
    assert found in client.scheduler_info()["workers"]


def test_delayed_tasks_may_ask_for_a_process(client: Client) -> None:
    with dask.annotate(executor=PROCESSES):
        inside = dask.delayed(tasks.process)()
    found = client.compute(dask.delayed(lambda pid: (pid, os.getpid()))(inside)).result(SECONDS)
    assert psutil.Process(found[0]).ppid() == found[1]


def test_every_task_is_recorded_once(opened: Pools, client: Client, run: Path) -> None:
    def named(name: str) -> list[TaskStarted]:
        events = read_events(run)
        ended = Counter(event.task for event in events if isinstance(event, TaskEnded))
        started = [e for e in events if isinstance(e, TaskStarted) and e.name == name]
        assert all(ended[event.task] == 1 for event in started)
        return started

    before = {name: len(named(name)) for name in ("double", "quantum_add", "fail")}
    opened.classical.submit(tasks.double, 1).result(SECONDS)
    opened.quantum.submit(tasks.quantum_add, 1).result(SECONDS)
    client.submit(tasks.double, 2, pure=False).result(SECONDS)
    client.submit(tasks.quantum_add, 2, pure=False, resources={QPU: 1}).result(SECONDS)
    with dask.annotate(executor=PROCESSES):
        client.submit(tasks.double, 3, pure=False).result(SECONDS)
    with pytest.raises(ValueError, match="mine"):
        client.submit(tasks.fail, "mine", pure=False).result(SECONDS)
    assert {name: len(named(name)) - before[name] for name in before} == {
        "double": 3,
        "quantum_add": 2,
        "fail": 1,
    }
    assert {event.kind for event in named("double")} == {Role.CLASSICAL}
    assert {event.kind for event in named("quantum_add")} == {Role.QUANTUM}
    failed = named("fail")[-1].task
    (end,) = (e for e in read_events(run) if isinstance(e, TaskEnded) and e.task == failed)
    assert "mine" in end.error


def test_a_client_with_other_versions_is_refused(client: Client) -> None:
    plugin = HybridWorkerPlugin()
    plugin.name = "older"  # the workers have one of this name already
    plugin._versions = plugin._versions | {"qiskit": "1.0"}
    with pytest.raises(InputError, match=r"it has qiskit .*, and the client has 1\.0"):
        client.register_plugin(plugin)
    client.unregister_worker_plugin("older")


# --- workers that are started by hand ------------------------------------------------------------


@pytest.fixture
def scheduler() -> Iterator[str]:
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


def worker(address: str, *options: str) -> list[str]:
    place = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--host", "127.0.0.1")
    mine = ("--no-nanny", "--nthreads", "1", "--preload", "hybridflow_dask.preload")
    return [sys.executable, "-m", "distributed.cli.dask_worker", address, *place, *mine, *options]


def in_slot(site: Path, command: list[str]) -> list[str]:
    return [sys.executable, "-m", "hybridflow", "slot", "run", "--site", str(site), "--", *command]


def test_a_worker_in_a_slot_samples(scheduler: str, site: Path, tmp_path: Path) -> None:
    command = in_slot(site, worker(scheduler, "--resources", "QPU=1"))
    path = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, env=path, stdout=log, stderr=log)
    with Client(scheduler, set_as_default=False) as client:
        found = client.submit(tasks.sample, 5, pure=False, resources={QPU: 1}).result(SECONDS)
        assert found == {"counts": {"01": 5}, "resource": "toy"}
    process.terminate()
    process.wait(SECONDS)


def test_a_worker_in_a_slot_that_does_not_say_so_ends(scheduler: str, site: Path) -> None:
    done = subprocess.run(
        in_slot(site, worker(scheduler)), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 1
    assert re.search("error: .* is in a QPU slot and does not say so.*--resources", done.stderr)


def test_a_worker_that_claims_a_slot_ends(scheduler: str) -> None:
    done = subprocess.run(
        worker(scheduler, "--resources", "QPU=1"), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 1
    assert re.search("error: .*declares the resource QPU and is in no slot", done.stderr)


# --- closing, and what is lost -------------------------------------------------------------------


def test_leaving_waits_for_all_tasks(site: Path) -> None:
    with open_pools(site, engine="dask") as made:
        futures = [made.classical.submit(abs, -n) for n in range(5)]
        futures += [made.quantum.submit(hf.quantum_task(abs), -n) for n in range(5)]
    assert [future.result(0) for future in futures] == [*range(5), *range(5)]
    for pool in (made.quantum, made.classical):
        with pytest.raises(RuntimeError, match="shutdown"):
            pool.submit(hf.quantum_task(abs) if pool is made.quantum else abs, 1)
    made.close()


def test_leaving_by_an_exception_does_not_wait(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    futures: list[Future[Any]] = []

    def leave() -> None:
        with open_pools(site, engine="dask") as made:
            futures.append(made.classical.submit(tasks.announce_and_wait, tmp_path / "pid"))
            futures.append(made.classical.submit(tasks.add, 1))
            futures.append(made.quantum.submit(tasks.quantum_add, 1))
            tasks.wait_for(tmp_path / "pid")
            futures[2].result(SECONDS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert [future.cancelled() for future in futures] == [True, True, False]
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_resource_that_refuses(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(SITE.replace("num_qubits = 7", "num_qubits = 7\nrefuse_acquires = 100"))
    with open_pools(file, engine="dask") as made:
        with pytest.raises(AcquireError, match="toy"):
            made.quantum.submit(hf.quantum_task(abs), 1).result(SECONDS)
        assert made.classical.submit(abs, -1).result(SECONDS) == 1


def test_a_lost_scheduler_is_an_error_and_no_wait() -> None:
    scheduler = subprocess.Popen(
        [
            *(sys.executable, "-m", "distributed.cli.dask_scheduler"),
            *("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert scheduler.stderr is not None
    line = next(line for line in scheduler.stderr if "Scheduler at:" in line)
    with dask.config.set({"distributed.comm.timeouts.connect": "3s"}):
        client = Client(line.split()[-1], set_as_default=False)
        pool = ClassicalPool(client)
        waiting = pool.submit(abs, -1)
        scheduler.kill()
        with pytest.raises(ResourceError, match="'abs' is lost"):
            waiting.result(SECONDS)
        with pytest.raises(ResourceError, match="'abs' is lost"):
            pool.submit(abs, -1).result(SECONDS)
        pool.shutdown()
        client.close()
    scheduler.communicate()

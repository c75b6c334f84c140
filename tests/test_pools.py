"""Both pools as ``concurrent.futures`` executors: a suite for every engine, then the local one."""

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ALL_COMPLETED, BrokenExecutor, Executor, as_completed, wait
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pool_tasks as tasks
import psutil
import pytest

import hybridflow as hf
from hybridflow import environment, pools, slot
from hybridflow.classical import ClassicalPool
from hybridflow.environment import Role
from hybridflow.errors import (
    InputError,
    MissingExtraError,
    SiteError,
    TaskError,
    TaskExitError,
    UnmarkedTaskError,
    WorkerLostError,
)
from hybridflow.events import TaskEnded, TaskStarted, read_events
from hybridflow.pools import Pools, engine_names, open_pools
from hybridflow.site import load_site

ENGINES = ["local", "parsl", "dask"]
SECONDS = 60

SITE = """
[qpu.toy]
backend = "fake"
num_qubits = 7
tasks_per_slot = 3

[qpu.other]
backend = "fake"
num_qubits = 3

[classical]
workers = 2
threads = 1
"""


@pytest.fixture(scope="module")
def site_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("site") / "toy.toml"
    file.write_text(SITE)
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def opened(engine: str, site_file: Path, run: Path) -> Iterator[Pools]:
    """One pair of pools for most tests: an engine takes its time to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv(environment.RUN, str(run / engine))
        patch.setenv("SLURM_NTASKS", "4")
        patch.setenv("PMI_RANK", "0")
        patch.setenv("toy_QRMI_TOKEN", "secret")
        with open_pools(site_file, engine=engine) as made:
            # The variables must be there until the workers are.
            assert made.quantum.submit(tasks.quantum_add, 1).result(SECONDS) == 1
            assert made.classical.submit(tasks.add, 1).result(SECONDS) == 1
            patch.undo()
            yield made


@pytest.fixture(params=["quantum", "classical"])
def pool(request: pytest.FixtureRequest, opened: Pools) -> Executor:
    chosen: Executor = getattr(opened, request.param)
    return chosen


@pytest.fixture
def add(request: pytest.FixtureRequest, pool: Executor, opened: Pools) -> Callable[..., int]:
    return tasks.quantum_add if pool is opened.quantum else tasks.add


# --- what concurrent.futures promises ------------------------------------------------------------


def test_they_are_executors(opened: Pools, engine: str) -> None:
    assert isinstance(opened.quantum, Executor)
    assert isinstance(opened.classical, Executor)
    assert opened.engine == engine
    assert opened.site.default == "toy"
    with pytest.raises(AttributeError):
        opened.engine = "another"  # type: ignore[misc]


def test_submit(pool: Executor, add: Callable[..., int]) -> None:
    assert pool.submit(add, 3).result(SECONDS) == 3
    assert pool.submit(add, 3, b=4).result(SECONDS) == 7
    future = pool.submit(add, 1, 1)
    assert future.exception(SECONDS) is None
    assert future.done()


def test_map_keeps_the_order(pool: Executor, add: Callable[..., int]) -> None:
    assert list(pool.map(add, range(20), range(20), timeout=SECONDS)) == list(range(0, 40, 2))


def test_as_completed_and_wait(pool: Executor, add: Callable[..., int]) -> None:
    futures = {pool.submit(add, number): number for number in range(8)}
    for future in as_completed(futures, timeout=SECONDS):
        assert future.result() == futures[future]
    assert wait(futures, timeout=SECONDS, return_when=ALL_COMPLETED).not_done == set()


def test_callbacks(pool: Executor, add: Callable[..., int]) -> None:
    found: list[int] = []
    called = threading.Event()
    future = pool.submit(add, 5)
    future.add_done_callback(lambda done: (found.append(done.result()), called.set()))
    assert called.wait(SECONDS)
    assert found == [5]


def test_an_exception_keeps_its_type_and_its_text(opened: Pools) -> None:
    for pool, function in (
        (opened.quantum, tasks.quantum_fail),
        (opened.classical, tasks.fail),
    ):
        with pytest.raises(ValueError, match="mine") as raised:
            pool.submit(function, "mine").result(SECONDS)
        assert str(raised.value) == "mine"


def test_a_task_that_exits_does_not_hang(opened: Pools) -> None:
    for pool, function in (
        (opened.quantum, tasks.quantum_leave),
        (opened.classical, tasks.leave),
    ):
        with pytest.raises(TaskExitError, match="exit"):
            pool.submit(function).result(SECONDS)


def test_arrays_travel(opened: Pools) -> None:
    array = np.arange(500_000.0)
    np.testing.assert_array_equal(
        opened.classical.submit(tasks.double, array).result(SECONDS), array * 2
    )


# --- who runs what, where ------------------------------------------------------------------------


def test_a_quantum_task_samples_on_the_sites_resource(opened: Pools) -> None:
    sample = opened.quantum.submit(tasks.sample, 50).result(SECONDS)
    assert sample == {"counts": {"01": 50}, "resource": "toy"}


def test_tasks_share_a_slot(opened: Pools, tmp_path: Path) -> None:
    """As many as the site says run at a time: each waits here for the two others."""
    futures = [opened.quantum.submit(tasks.meet, tmp_path, name, 3) for name in "abc"]
    assert all(future.result(SECONDS) for future in futures)


def test_a_function_without_the_mark_is_refused(opened: Pools) -> None:
    with pytest.raises(UnmarkedTaskError, match=r"'add'.*quantum_task"):
        opened.quantum.submit(tasks.add, 1).result(SECONDS)


def test_a_quantum_task_is_refused_by_classical_workers(opened: Pools) -> None:
    with pytest.raises(TaskError, match="classical"):
        opened.classical.submit(tasks.quantum_add, 1).result(SECONDS)
    with pytest.raises(TaskError, match="'sample'"):
        opened.classical.submit(tasks.sample_in_a_classical_task).result(SECONDS)


def test_classical_workers_have_a_clean_environment(opened: Pools, site_file: Path) -> None:
    found = opened.classical.submit(tasks.variables).result(SECONDS)
    assert environment.BROKER not in found
    assert found[environment.ROLE] == Role.CLASSICAL
    assert found[environment.SITE] == str(site_file)
    assert found["OMP_NUM_THREADS"] == "1"
    assert not {"SLURM_NTASKS", "PMI_RANK", "toy_QRMI_TOKEN"} & set(found)


def test_classical_workers_know_the_site(opened: Pools) -> None:
    assert opened.classical.submit(tasks.transpiled_width).result(SECONDS) == 7


def test_tasks_are_recorded(opened: Pools, run: Path, engine: str) -> None:
    opened.quantum.submit(tasks.quantum_add, 1).result(SECONDS)
    opened.classical.submit(tasks.add, 1).result(SECONDS)
    events = read_events(run / engine)
    started = [event for event in events if isinstance(event, TaskStarted)]
    ended = [event for event in events if isinstance(event, TaskEnded)]
    assert {(event.kind, event.name) for event in started} >= {
        (Role.QUANTUM, "quantum_add"),
        (Role.CLASSICAL, "add"),
    }
    assert all(event.worker and event.task for event in started)
    assert {event.task for event in ended} <= {event.task for event in started}


# --- the local engine ----------------------------------------------------------------------------


@pytest.fixture
def local(site_file: Path) -> Iterator[Pools]:
    with open_pools(site_file) as made:
        yield made


def test_a_killed_worker_costs_its_task_alone(local: Pools, tmp_path: Path) -> None:
    other = local.classical.submit(tasks.wait_for, tmp_path / "go")
    with pytest.raises(WorkerLostError, match=r"'die' was killed by SIGKILL") as raised:
        local.classical.submit(tasks.die).result(SECONDS)
    assert raised.value.transient
    assert isinstance(raised.value, BrokenExecutor)
    assert pickle.loads(pickle.dumps(raised.value)).transient
    (tmp_path / "go").touch()
    assert other.result(SECONDS)
    assert list(local.classical.map(tasks.add, range(4))) == [0, 1, 2, 3]


def test_a_worker_killed_while_idle_is_replaced(local: Pools) -> None:
    for _ in range(2):
        worker = psutil.Process(local.classical.submit(tasks.process).result(SECONDS))
        worker.kill()
        psutil.wait_procs([worker], SECONDS)
    futures = [local.classical.submit(tasks.process) for _ in range(4)]
    assert worker.pid not in {future.result(SECONDS) for future in futures}


def test_a_dead_worker_is_noticed_though_its_child_lives(local: Pools, tmp_path: Path) -> None:
    """The child holds the worker's end of the socket open."""
    with pytest.raises(WorkerLostError):
        local.classical.submit(tasks.die_with_a_child, tmp_path / "pid").result(SECONDS)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    assert child.is_running()
    child.kill()


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        (lambda: 1, (), "'<lambda>' cannot be sent to a worker process"),
        (tasks.add, (threading.Lock(),), "'add' cannot be sent to a worker process.*lock"),
        (tasks.unpicklable, (), "result of a classical task cannot be pickled.*lock"),
        (tasks.fail_awkwardly, (), r"exception that cannot be pickled(.|\n)*Awkward: 1 and 2"),
    ],
    ids=["function", "argument", "result", "exception"],
)
def test_what_cannot_be_pickled_fails_its_task_alone(
    local: Pools, function: Any, args: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        local.classical.submit(function, *args).result(SECONDS)
    assert local.classical.submit(tasks.add, 1).result(SECONDS) == 1


def test_a_remote_traceback_is_kept(local: Pools) -> None:
    with pytest.raises(ValueError, match="mine") as raised:
        local.classical.submit(tasks.fail, "mine").result(SECONDS)
    assert "raise ValueError(text)" in "".join(raised.value.__notes__)


def test_leaving_waits_for_all_tasks(site_file: Path) -> None:
    with open_pools(site_file, workers=1) as made:
        futures = [made.classical.submit(tasks.add, n) for n in range(5)]
        futures += [made.quantum.submit(tasks.quantum_add, n) for n in range(5)]
    assert [future.result(0) for future in futures] == [*range(5), *range(5)]
    for pool in (made.quantum, made.classical):
        with pytest.raises(RuntimeError, match="shutdown"):
            pool.submit(tasks.quantum_add if pool is made.quantum else tasks.add, 1)
    made.close()


def test_leaving_by_an_exception_does_not_wait(site_file: Path, tmp_path: Path) -> None:
    def leave() -> None:
        with open_pools(site_file, workers=1) as made:
            futures.append(made.classical.submit(tasks.announce_and_wait, tmp_path / "pid"))
            futures.append(made.classical.submit(tasks.add, 1))
            tasks.wait_for(tmp_path / "pid")
            raise KeyboardInterrupt

    futures: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        leave()
    with pytest.raises(WorkerLostError):
        futures[0].result(0)
    assert futures[1].cancelled()
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_no_process_is_left_when_a_pool_is_not_waited_for(tmp_path: Path) -> None:
    pool = ClassicalPool(1)
    workers = [psutil.Process(pool.submit(tasks.process).result(SECONDS))]
    future = pool.submit(tasks.wait_for, tmp_path / "go")
    pool.shutdown(wait=False)
    (tmp_path / "go").touch()
    assert future.result(SECONDS)
    _, alive = psutil.wait_procs(workers, SECONDS)
    assert not alive


def test_another_resource_than_the_default(site_file: Path) -> None:
    with open_pools(site_file, resource="other") as made:
        assert made.quantum.submit(tasks.sample, 5).result(SECONDS)["resource"] == "other"
    with pytest.raises(SiteError, match="'moon'"):
        open_pools(site_file, resource="moon")


def test_two_sites_may_use_one_name(tmp_path: Path) -> None:
    """The resource of the site that the pools were opened with, not of the first that was used."""
    widths = []
    for width in (3, 4):
        site = tmp_path / f"{width}.toml"
        site.write_text(f'[qpu.toy]\nbackend = "fake"\nnum_qubits = {width}\n')
        with open_pools(site) as made:
            widths.append(made.quantum.submit(hf.quantum_task(tasks.transpiled_width)).result())
    assert widths == [3, 4]


def test_the_mark_need_not_be_required(site_file: Path) -> None:
    with open_pools(site_file, require_mark=False) as made:
        assert made.quantum.submit(tasks.add, 1).result(SECONDS) == 1


# --- a driver that is killed ---------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
import pool_tasks as tasks
from hybridflow.pools import open_pools

if __name__ == "__main__":
    with open_pools(workers=2) as pools:
        idle = pools.classical.submit(tasks.process).result()
        busy = pools.classical.submit(tasks.announce_and_wait, Path(sys.argv[1]))
        busy.result()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_killed_leaves_no_worker(tmp_path: Path, number: signal.Signals) -> None:
    script, announced = tmp_path / "driver.py", tmp_path / "pid"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(announced)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    tasks.wait_for(announced)
    workers = psutil.Process(driver.pid).children()
    assert int(announced.read_text()) in {worker.pid for worker in workers}
    if number is signal.SIGINT:
        os.killpg(driver.pid, number)  # as the terminal does
    else:
        driver.send_signal(number)
    _, errors = driver.communicate(timeout=SECONDS)
    _, alive = psutil.wait_procs(workers, SECONDS)
    assert not alive
    assert driver.returncode == -number
    # One traceback, the driver's own.
    assert errors.count(b"Traceback") == (1 if number is signal.SIGINT else 0)


CARELESS = """
from hybridflow.pools import open_pools
import pool_tasks as tasks

with open_pools(workers=1) as pools:
    print(pools.classical.submit(tasks.add, 1).result())
"""


def test_a_program_that_starts_pools_when_it_is_loaded_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "careless.py"
    script.write_text(CARELESS)
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 1
    assert re.search(r'TaskError: .*if __name__ == "__main__":', done.stderr)


# --- open_pools ----------------------------------------------------------------------------------


def test_engines_are_found() -> None:
    assert {"local", "parsl"} <= set(engine_names())


def test_wrong_calls(site_file: Path) -> None:
    with pytest.raises(InputError, match=r"no workflow engine 'airflow'; installed are: .*local"):
        open_pools(site_file, engine="airflow")
    with pytest.raises(InputError, match=r"'local' has no option 'worker'; it has: .*workers"):
        open_pools(site_file, worker=3)
    with pytest.raises(InputError, match="`workers` must be at least 1, not 0"):
        open_pools(site_file, workers=0)
    with pytest.raises(InputError, match="`tasks_per_slot` must be at least 1, not -2"):
        open_pools(site_file, tasks_per_slot=-2)
    with pytest.raises(SiteError, match="cannot be read"):
        open_pools("/no/such/site.toml")


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, site_file: Path) -> None:
    missing = EntryPoint("dask", "hybridflow_no_such_package.pools:open", pools.ENGINES)
    monkeypatch.setattr(pools, "entry_points", lambda **chosen: [missing])
    with pytest.raises(MissingExtraError, match=r'pip install "hybridflow\[dask\]"'):
        open_pools(site_file, engine="dask")


def test_a_site_may_be_given_as_it_is(site_file: Path) -> None:
    site = load_site(site_file)
    with open_pools(site) as made:
        assert made.site is site
    assert hf.open_pools is open_pools
    assert hf.Pools is Pools


def test_pools_of_a_site_do_not_change_this_thread(local: Pools) -> None:
    assert local.quantum.submit(tasks.sample, 1).result(SECONDS)["resource"] == "toy"
    assert slot.default_site().default == "aer"

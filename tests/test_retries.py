"""An engine that runs a task once more does not pay for its samples once more."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import retry_tasks as tasks
from distributed import Client, wait
from parsl import DataFlowKernel, python_app
from parsl.config import Config

from hybridflow import environment
from hybridflow.records import JobState
from hybridflow.testing import QpuEmulator, qpu_emulator
from hybridflow_dask import HybridCluster
from hybridflow_parsl import QPUExecutor, retry_handler

SECONDS = 90
CASES = [
    (tasks.sample, "raise", 31),
    (tasks.sample, "die", 32),
    (tasks.sample_in_threads, "die", 33),
]
"""Each samples twice: two samples, each paid for once."""


@pytest.fixture(scope="module")
def emulator() -> Iterator[QpuEmulator]:
    with qpu_emulator("qpu", seconds_per_job=0.02) as running:
        yield running


@pytest.fixture
def site(emulator: QpuEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    (tmp_path / "run").mkdir()
    monkeypatch.setenv(environment.RUN, str(tmp_path / "run"))
    file = tmp_path / "site.toml"
    file.write_text(f"{emulator.site}\n[classical]\nworkers = 1\n")
    return file


def shots_executed(emulator: QpuEmulator, already: int) -> int:
    entries = emulator.log()[already:]
    assert {entry.state for entry in entries} == {JobState.DONE}
    return sum(entry.shots for entry in entries)


def check(submit: Callable[..., Any], emulator: QpuEmulator, tmp_path: Path) -> None:
    already = len(emulator.log())
    for task, how, shots in CASES:
        marker = tmp_path / f"{shots}"
        ids = submit(task, shots, how, marker)
        assert marker.exists()
        assert len(ids) == 2
    assert shots_executed(emulator, already) == sum(2 * shots for *_, shots in CASES)


def test_parsl(site: Path, emulator: QpuEmulator, tmp_path: Path) -> None:
    config = Config(
        executors=[QPUExecutor(site=site, tasks_per_slot=1)],
        run_dir=str(tmp_path / "parsl"),
        strategy_period=0.2,
        initialize_logging=False,
        retries=1,
        retry_handler=retry_handler,
    )
    with DataFlowKernel(config) as kernel:

        def submit(task: Any, *args: Any) -> Any:
            app = python_app(task, executors=["qpu"], data_flow_kernel=kernel)
            return app(*args).result(SECONDS)

        check(submit, emulator, tmp_path)


def test_dask(site: Path, emulator: QpuEmulator, tmp_path: Path) -> None:
    with HybridCluster(site, workers=1, tasks_per_slot=1) as cluster, Client(cluster) as client:

        def submit(task: Any, *args: Any) -> Any:
            return client.submit(task, *args, pure=False, retries=1).result(SECONDS)

        check(submit, emulator, tmp_path)
        # A result that is lost with the worker that held it: its task runs once more.
        already = len(emulator.log())
        held = client.submit(tasks.pid_after_sampling, 34, pure=False)
        wait(held, SECONDS)
        first = client.submit(tasks.pid_after_sampling, 35, pure=False).result(SECONDS)[1]
        psutil.Process(first).kill()
        assert held.result(SECONDS)[1] != first
        assert shots_executed(emulator, already) == 34 + 35

"""What all tests share: a clean environment, and nothing left behind."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hybridflow.slurm.cluster import SlurmCluster
from hybridflow.testing import slurm_cluster

slurm = slurm_cluster(
    scope="session", nodes=3, qpus={"aer_a": 1, "aer_b": 2}, licenses={"cloud": 2}, plugin=True
)
"""A real Slurm cluster for all tests that leave it as it was."""

accounted = slurm_cluster(
    scope="session",
    nodes=1,
    qpus={"aer": 2, "aer_b": 1},
    licenses={"cloud": 2},
    accounting=True,
    settings={"AccountingStorageEnforce": "associations"},
)
"""One that keeps accounts: its database takes longer to make than all else of it."""

# A job in the background of a shell ignores Ctrl-C, and one under nohup SIGHUP; so would every
# program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the shell that started pytest must not decide what is tested."""
    for name in list(os.environ):
        if name.startswith(("HYBRIDFLOW_", "SLURM_", "QRMI_", "PARSL_", "DASK_")):
            monkeypatch.delenv(name)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder of the test's own with a short name: the path of a socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        yield Path(folder)


@pytest.fixture
def on_cluster(
    slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[SlurmCluster]:
    """The cluster, for this process's own commands; jobs write into a folder of the test."""
    for name, value in slurm.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield slurm
    slurm.run(["scancel", "--user", str(os.getuid())])


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """No test leaves a process behind: checked when all have run, before interpreter exit."""
    before = set(psutil.Process().children(recursive=True))
    yield
    from hybridflow import slot

    slot.close_all()
    left = set(psutil.Process().children(recursive=True)) - before
    left = {process for process in left if not _is_tracker(process)}
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive, f"left running: {[(p.pid, p.cmdline()) for p in alive]}"


def _is_tracker(process: psutil.Process) -> bool:
    # Of multiprocessing: one a process, ends with it.
    try:
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False

"""HybridCluster: groups of real workers, under the door and keepers, and how they end."""

import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dask_cluster_tasks as tasks
import psutil
import pytest
from distributed import Client, Security

from hybridflow import environment
from hybridflow.errors import (
    InputError,
    SiteError,
    TaskError,
)
from hybridflow_dask import HybridCluster

SECONDS = 60
QPU = {"QPU": 1}

FAKE = """
default = "fake"

[qpu.fake]
backend = "fake"
tasks_per_slot = 2

[qpu.other]
backend = "fake"

[qpu.refused]
backend = "fake"
refuse_acquires = 99

[classical]
workers = 1
threads = 3
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("site") / "fake.toml"
    file.write_text(FAKE)
    return file


@pytest.fixture(scope="module", autouse=True)
def _short_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All that a cluster writes goes where these tests can look, and workers find the tasks."""
    folder = tmp_path_factory.mktemp("t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setattr(tempfile, "tempdir", None)
        yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def cluster(site: Path) -> Iterator[HybridCluster]:
    """One cluster for most tests: its workers' start takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_NTASKS", "4")
        patch.setenv("fake_QRMI_TOKEN", "secret")
        with HybridCluster(site) as started:
            started.wait_for_workers(timeout=SECONDS)
            yield started


@pytest.fixture
def client(cluster: HybridCluster) -> Iterator[Client]:
    with Client(cluster) as connected:
        yield connected


def wait_for(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def names(cluster: HybridCluster) -> set[object]:
    """Names of the workers that the scheduler knows."""
    return {worker.name for worker in list(cluster.scheduler.workers.values())}


def processes() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


# --- what it starts ------------------------------------------------------------------------------


def test_groups_have_their_workers_and_their_names(cluster: HybridCluster, client: Client) -> None:
    """One worker a resource, which declares it; classical workers declare nothing."""
    known = {worker.name: worker for worker in cluster.scheduler.workers.values()}
    assert set(known) == {"quantum-fake-0", "classical-0"}
    quantum, classical = known["quantum-fake-0"], known["classical-0"]
    assert quantum.resources == {"QPU": 2, "QPU-fake": 2}
    assert (quantum.nthreads, classical.nthreads) == (2, 1)
    assert classical.resources == {}
    assert re.fullmatch(
        r"HybridCluster\('tls://127.0.0.1:\d+', quantum=1/1, classical=1/1\)", repr(cluster)
    )
    assert "quantum:" in cluster._repr_html_()
    assert cluster.errors == {}


def test_quantum_tasks_are_in_a_slot_and_classical_ones_are_clean(client: Client) -> None:
    quantum = client.submit(tasks.slot_variables, resources=QPU, pure=False).result(SECONDS)
    classical = client.submit(tasks.variables, workers="classical-0", pure=False).result(SECONDS)
    assert quantum[environment.ROLE] == "quantum"
    assert environment.BROKER in quantum
    assert classical[environment.ROLE] == "classical"
    assert environment.BROKER not in classical
    assert quantum[environment.SITE] == classical[environment.SITE]
    assert classical["OMP_NUM_THREADS"] == classical["RAYON_NUM_THREADS"] == "3"
    for variables in (quantum, classical):
        assert "SLURM_NTASKS" not in variables
        assert "secret" not in variables.values()


def test_only_the_user_can_read_the_keys(cluster: HybridCluster) -> None:
    """Keys are files of mode 0600 in a folder of mode 0700, named in no environment."""
    folder = Path(cluster.security.tls_worker_key).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [file for file in folder.iterdir() if file.is_file()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files if file.suffix != ".log"} == {0o600}
    assert any(file.suffix == ".pem" for file in files)


def test_nobody_without_the_keys_gets_in(cluster: HybridCluster) -> None:
    stranger = Security.temporary()
    with pytest.raises(OSError, match=r"certificate|TLS|SSL|Timed out"):
        Client(cluster.scheduler_address, security=stranger, timeout=5)


def test_all_ports_are_of_this_machine_only(cluster: HybridCluster) -> None:
    here = [psutil.Process(), *processes()]
    listening = {
        connection.laddr.ip
        for process in here
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert cluster.dashboard_link.startswith("http://127.0.0.1:")


# --- wrong input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"resources": ["nowhere"]}, SiteError, "no resource 'nowhere'"),
        ({"resources": ["fake", "fake"]}, InputError, "twice"),
        ({"workers": -1}, InputError, "`workers` must be at least 0"),
        ({"tasks_per_slot": 0}, InputError, "`tasks_per_slot` must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(
    site: Path, options: dict[str, object], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        HybridCluster(site, **options)  # type: ignore[arg-type]


def test_wrong_sizes_are_refused(cluster: HybridCluster) -> None:
    with pytest.raises(InputError, match="`classical` must be at least 0"):
        cluster.scale(-1)
    with pytest.raises(InputError, match="`quantum` must be at most 1"):
        cluster.scale(quantum=2)
    with pytest.raises(InputError, match="least, most"):
        cluster.adapt(classical=(3, 1))
    with pytest.raises(InputError, match="say what to adapt"):
        cluster.adapt()


def test_a_classical_worker_opens_no_cluster(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.ROLE, "classical")
    with pytest.raises(TaskError, match="__main__"):
        HybridCluster(site)


# --- sizes ---------------------------------------------------------------------------------------


def test_each_group_is_scaled_by_itself(
    cluster: HybridCluster, client: Client, tmp_path: Path
) -> None:
    """Growing and shrinking the classical group never touches the QPU worker."""
    before = client.submit(tasks.slot_process, resources=QPU, pure=False).result(SECONDS)
    cluster.scale(3)
    cluster.wait_for_workers(4, timeout=SECONDS)
    assert names(cluster) == {"quantum-fake-0", *(f"classical-{n}" for n in range(3))}
    kept = client.submit(tasks.many_bytes, 1, workers="classical-2", pure=False)
    kept.result(SECONDS)
    cluster.scale(classical=1)
    wait_for(lambda: len(cluster.scheduler.workers) == 2)
    wait_for(lambda: len(cluster.workers) == 2)
    assert kept.result(SECONDS) == tasks.many_bytes(1)
    assert client.submit(tasks.slot_process, resources=QPU, pure=False).result(SECONDS) == before

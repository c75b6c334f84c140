"""HybridCluster: groups of real workers, under the door and keepers, and how they end."""

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask_cluster_tasks as tasks
import psutil
import pytest
from distributed import Client, Scheduler, Security
from distributed.exceptions import WorkerStartTimeoutError

from hybridflow import environment
from hybridflow.environment import Role
from hybridflow.errors import (
    AcquireError,
    InputError,
    ResourceError,
    SiteError,
    TaskError,
    WorkerLostError,
)
from hybridflow.lease import Lease
from hybridflow.site import load_site
from hybridflow_dask import HybridCluster, launch, workers
from hybridflow_dask.admission import examine
from hybridflow_dask.folder import PrivateFolder
from hybridflow_dask.groups import STARTS
from hybridflow_dask.workers import WorkerProcess

SECONDS = 60
QPU = {"QPU": 1}

FAKE = """
default = "fake"

[qpu.fake]
backend = "fake"
tasks_per_slot = 2

[qpu.other]
backend = "fake"

[qpu.slow]
backend = "fake"
seconds_per_job = 600

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


def test_its_own_client_goes_by_way_of_memory(cluster: HybridCluster) -> None:
    with cluster.get_client() as near:
        assert near.scheduler.address.startswith("inproc://")
        assert near.submit(sum, [1, 2], pure=False).result(SECONDS) == 3
        assert near.submit(tasks.slot_process, pure=False).result(SECONDS)
        assert cluster.get_client() is near
        near.wait_for_workers(1)
        assert near.dashboard_link == cluster.dashboard_link
        with cluster.get_client(set_as_default=False) as other:
            assert other is not near
    assert cluster.scheduler_address.startswith("tls://")  # what all others use


def test_nobody_without_the_keys_gets_in(cluster: HybridCluster) -> None:
    stranger = Security.temporary()
    with pytest.raises(OSError, match=r"certificate|TLS|SSL|Timed out"):
        Client(cluster.scheduler_address, security=stranger, timeout=5)


def test_all_ports_are_of_this_machine_only(cluster: HybridCluster) -> None:
    # Beside the daemons of a Slurm cluster that other tests have started in this process.
    slurms = {"slurmctld", "slurmd", "slurmdbd", "slurmstepd", "munged", "mariadbd"}
    here = [psutil.Process(), *(one for one in processes() if one.name() not in slurms)]
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
    cluster.scale(classical=0)
    wait_for(lambda: set(cluster.workers) == {"quantum-fake-0"})
    assert kept.result(SECONDS) == tasks.many_bytes(1)
    cluster.scale(classical=1)
    cluster.wait_for_workers(timeout=SECONDS)
    assert names(cluster) == {"quantum-fake-0", "classical-0"}
    assert client.submit(tasks.slot_process, resources=QPU, pure=False).result(SECONDS) == before


def test_a_worker_that_is_scaled_away_ends_its_task_first(
    cluster: HybridCluster, client: Client, tmp_path: Path
) -> None:
    """What was under way in a slot is not run twice, and its result stays."""
    calls, go = tmp_path / "calls", tmp_path / "go"
    running = client.submit(tasks.waits, calls, go, resources=QPU, pure=False)
    wait_for(calls.exists)
    cluster.scale(quantum=0)
    later = client.submit(tasks.slot_process, resources=QPU, pure=False)
    go.touch()
    assert running.result(SECONDS) == 1
    wait_for(lambda: set(cluster.workers) == {"classical-0"})
    assert running.result(SECONDS) == 1
    assert repr(cluster).endswith("quantum=0/0, classical=1/1)")
    cluster.scale(quantum=1)
    assert later.result(SECONDS)
    cluster.wait_for_workers(timeout=SECONDS)


def test_groups_adapt_to_their_own_tasks(
    cluster: HybridCluster, client: Client, tmp_path: Path
) -> None:
    """Classical workers come and go with classical tasks; an idle slot is given back."""
    go = tmp_path / "go"
    cluster.adapt(
        classical=(1, 2), quantum=(0, 1), interval="100ms", wait_count=2, target_duration="10ms"
    )
    wait_for(lambda: names(cluster) == {"classical-0"})
    files = [tmp_path / str(number) for number in range(4)]
    many = [client.submit(tasks.waits_too, file, go, pure=False) for file in files]
    wait_for(lambda: names(cluster) == {"classical-0", "classical-1"})
    quantum = client.submit(tasks.waits, tmp_path / "q", go, resources=QPU, pure=False)
    wait_for(lambda: "quantum-fake-0" in names(cluster))
    go.touch()
    assert client.gather([*many, quantum]) == [1] * 5
    wait_for(lambda: len(names(cluster)) == 1)
    cluster.scale(classical=0, quantum=1)
    wait_for(lambda: not cluster.workers or set(cluster.workers) == {"quantum-fake-0"})
    cluster.scale(classical=1)
    cluster.wait_for_workers(timeout=SECONDS)


# --- processes that are killed -------------------------------------------------------------------


def test_fifty_tasks_survive_the_death_of_their_worker(
    cluster: HybridCluster, client: Client, tmp_path: Path
) -> None:
    """``kill -9`` of a QPU worker: another one is there within seconds, in the same slot."""
    slot = client.submit(tasks.slot_variables, resources=QPU, pure=False).result(SECONDS)
    futures = [
        client.submit(tasks.dies_first, number, 7, tmp_path / "calls", resources=QPU, pure=False)
        for number in range(50)
    ]
    assert client.gather(futures) == list(range(50))
    again = client.submit(tasks.slot_variables, resources=QPU, pure=False).result(SECONDS)
    assert again[environment.BROKER] == slot[environment.BROKER]


def test_a_task_that_kills_its_worker_takes_no_other_along(client: Client, tmp_path: Path) -> None:
    """Whoever has seen two workers die runs alone, so that the third death has one cause."""
    calls, tries, go = tmp_path / "calls", tmp_path / "tries", tmp_path / "go"
    beside = client.submit(tasks.waits, calls, go, resources=QPU, pure=False)
    deadly = client.submit(tasks.dies_beside, calls, tries, resources=QPU, pure=False)
    later = client.submit(tasks.slot_process, resources=QPU, pure=False)
    wait_for(lambda: calls.exists() and len(calls.read_text()) == 3)
    go.touch()
    assert beside.result(SECONDS) >= 3  # more often, if its result was on a worker that died
    with pytest.raises(WorkerLostError, match="3 quantum workers died") as raised:
        deadly.result(SECONDS)
    assert not raised.value.transient
    assert len(tries.read_text()) == 3
    assert later.result(SECONDS)


@pytest.mark.parametrize("name", ["quantum-fake-0", "classical-0"])
def test_a_group_is_kept_at_its_size(cluster: HybridCluster, client: Client, name: str) -> None:
    """A door or a keeper that is killed is replaced, with all that was below it."""
    process = cluster.workers[name]
    below = psutil.Process(process._process.pid)
    started = [below, *below.children(recursive=True)]
    below.kill()
    _, alive = psutil.wait_procs(started, timeout=SECONDS)
    assert alive == []
    wait_for(lambda: cluster.workers.get(name) not in (None, process))
    cluster.wait_for_workers(timeout=SECONDS)
    assert client.submit(tasks.slot_process, resources=QPU, pure=False).result(SECONDS)
    assert client.submit(tasks.add, 1, 2, pure=False).result(SECONDS) == 3


# --- groups that give up -------------------------------------------------------------------------


def test_a_slot_that_cannot_be_had_says_why(site: Path) -> None:
    """The door's own words reach the waiting caller, the display and the tasks."""
    with HybridCluster(site, resources=["refused"], workers=0) as own, Client(own) as connected:
        pending = connected.submit(tasks.slot_process, resources=QPU, pure=False)
        with pytest.raises(AcquireError, match=r"'quantum-refused' has no QPU slot.*refused"):
            own.wait_for_workers(timeout=SECONDS)
        with pytest.raises(AcquireError):
            connected.wait_for_workers(1)
        assert "quantum=0/1 (given up: AcquireError: the group 'quantum-refused'" in repr(own)
        assert isinstance(own.errors["quantum-refused"], AcquireError)
        with pytest.raises(AcquireError, match="refused"):
            pending.result(SECONDS)
        own.scale(quantum=1)
        assert own.errors == {}
        with pytest.raises(AcquireError):
            own.wait_for_workers(timeout=SECONDS)


def test_workers_that_never_come_up_are_not_started_for_ever(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = tmp_path / "starts"
    script = f"open({str(starts)!r}, 'a').write('x'); raise SystemExit('no luck')"
    monkeypatch.setattr(launch, "_WORKER", (sys.executable, "-c", script))
    with HybridCluster(site, resources=[], log_dir=tmp_path / "logs") as own:
        with pytest.raises(WorkerLostError, match=r"no luck \(more in .*logs/classical-0.log\)"):
            own.wait_for_workers(timeout=SECONDS)
        assert starts.read_text() == "x" * STARTS
        with Client(own) as connected, pytest.raises(WorkerLostError, match="no luck"):
            connected.submit(tasks.add, 1, 2).result(SECONDS)
    assert starts.read_text() == "x" * STARTS


def test_waiting_has_a_time_limit(cluster: HybridCluster) -> None:
    with pytest.raises(WorkerStartTimeoutError):
        cluster.wait_for_workers(99, timeout=0.1)


# --- ends ----------------------------------------------------------------------------------------


def test_it_is_used_with_await(site: Path) -> None:
    async def main() -> int:
        async with HybridCluster(site, resources=[], asynchronous=True) as own:
            await own.wait_for_workers(timeout=SECONDS)
            async with Client(own, asynchronous=True) as connected:
                return await connected.submit(tasks.add, 1, 2)

    assert asyncio.run(main()) == 3


def test_a_cluster_of_two_resources_without_keys(site: Path) -> None:
    """Each resource has a worker of its own; connections in the clear are possible."""
    with (
        HybridCluster(site, resources=["fake", "other"], workers=0, security=False) as own,
        Client(own) as connected,
    ):
        own.wait_for_workers(timeout=SECONDS)
        assert own.scheduler_address.startswith("tcp://")
        assert names(own) == {"quantum-fake-0", "quantum-other-0"}
        slot = connected.submit(tasks.slot_variables, resources={"QPU": 1, "QPU-other": 1})
        index = Path(slot.result(SECONDS)[environment.BROKER], "slots.json")
        assert '"other"' in index.read_text()
        own.scale(quantum=1)
        wait_for(lambda: names(own) == {"quantum-fake-0"})


def test_running_tasks_do_not_hold_up_the_end(site: Path, tmp_path: Path) -> None:
    """Nor does a vendor job, which is stopped, nor what else the tasks have started."""
    before = processes()
    with HybridCluster(site, resources=["slow"]) as own, Client(own) as connected:
        file, too, never = tmp_path / "calls", tmp_path / "too", tmp_path / "never"
        kept = [
            connected.submit(tasks.waits, file, never, resources=QPU, pure=False),
            connected.submit(tasks.samples, tmp_path / "samples", resources=QPU, pure=False),
            connected.submit(tasks.waits_too, too, never, pure=False),
        ]
        wait_for(lambda: all(path.exists() for path in (file, too, tmp_path / "samples")))
        started = processes() - before
        begun = time.monotonic()
        del kept
    assert time.monotonic() - begun < 8  # as long as Dask's nanny alone would wait
    assert not [process for process in started if process.is_running()]


def test_a_scheduler_that_is_closed_takes_all_along(site: Path, tmp_path: Path) -> None:
    """Whoever waits is told why at once; nothing is started again, and nothing is left."""
    before = processes()
    with HybridCluster(site) as own, Client(own) as connected:
        calls, never = tmp_path / "calls", tmp_path / "never"
        running = connected.submit(tasks.waits, calls, never, resources=QPU, pure=False)
        waiting = connected.submit(tasks.add, running, 1)
        wait_for(calls.exists)
        started = processes() - before
        with ThreadPoolExecutor() as threads:
            answers = [threads.submit(future.result, SECONDS) for future in (running, waiting)]
            begun = time.monotonic()
            own.sync(own.scheduler.close)
            errors = [answer.exception(SECONDS) for answer in answers]
        assert time.monotonic() - begun < 5
        assert [type(error) for error in errors] == [ResourceError] * 2
        assert re.search("'waits' is lost, because the Dask scheduler was closed", str(errors[0]))
        wait_for(lambda: connected.status == "closed")
        assert "scheduler=closed (ResourceError: the Dask scheduler was closed" in repr(own)
        assert list(own.errors) == ["scheduler"]
        with pytest.raises(ResourceError, match="was closed"):
            own.wait_for_workers(timeout=SECONDS)
    assert not [process for process in started if process.is_running()]


DRIVER = """
import sys, time
from dask.distributed import Client
from hybridflow_dask import HybridCluster

def wait():
    time.sleep(600)

if __name__ == "__main__":
    with HybridCluster(sys.argv[1]) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(timeout=60)
        future = client.submit(wait)
        while not any(worker.processing for worker in cluster.scheduler.workers.values()):
            time.sleep(0.01)
        print("ready", flush=True)
        future.result()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_ended_leaves_nothing(
    site: Path, tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    temporary = tmp_path / "t"
    temporary.mkdir()
    driver = subprocess.Popen(
        [sys.executable, str(script), str(site)],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        started = psutil.Process(driver.pid).children(recursive=True)
        names = [" ".join(process.cmdline()) for process in started]
        for part in ("hybridflow.broker", "slot run", "hybridflow.keeper", "dask worker"):
            assert any(part in name for name in names), names
        if number is signal.SIGINT:  # as the terminal does it
            os.killpg(driver.pid, number)
        else:
            driver.send_signal(number)
        assert driver.wait(SECONDS) != 0
    _, alive = psutil.wait_procs(started, timeout=SECONDS)
    assert alive == []
    assert list(temporary.iterdir()) == []


def test_workers_of_a_scheduler_that_was_killed_end(site: Path, tmp_path: Path) -> None:
    """A scheduler of its own, and workers under the door and a keeper, started by hand."""
    before = processes()
    address_file = tmp_path / "scheduler.json"
    serve = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--no-dashboard"]
    address = ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(address_file)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(
        [sys.executable, *serve, *address], env=os.environ | {"TMPDIR": str(tmp_path)}, **quiet
    )
    try:
        wait_for(address_file.exists)
        wait_for(lambda: address_file.read_text().endswith("}"))
        url = json.loads(address_file.read_text())["address"]
        folder = PrivateFolder(tmp_path)
        with Lease.hold(folder.path / "driver.lease") as lease:
            made = launch.Launch(load_site(site), folder, lease.path, "127.0.0.1", Security())
            commands = [made.quantum(url, "q-0", "fake", 2), made.classical(url, "c-0")]
            roles = [Role.QUANTUM, Role.CLASSICAL]
            running = [
                subprocess.Popen(command, env=made.variables(role), **quiet)
                for command, role in zip(commands, roles, strict=True)
            ]
            with Client(url) as connected:
                connected.wait_for_workers(2, timeout=SECONDS)
                started = processes() - before
                scheduler.kill()
                scheduler.wait(SECONDS)
                for process in running:
                    process.wait(SECONDS)
        folder.close()
    finally:
        scheduler.kill()
        scheduler.wait(SECONDS)
    _, alive = psutil.wait_procs(started, timeout=SECONDS)
    assert alive == []


# --- the parts -----------------------------------------------------------------------------------


def test_a_process_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "GRACE_SECONDS", 0.1)
    script = "import signal, time; signal.signal(15, lambda *_: None); print('up', flush=True)"

    async def main() -> WorkerProcess:
        ended: list[WorkerProcess] = []
        handle = os.open(os.devnull, os.O_RDONLY)
        worker = WorkerProcess(
            "stubborn-0",
            [sys.executable, "-c", f"{script}; time.sleep(600)"],
            os.environ,
            log=tmp_path / "log",
            handle=handle,
            end_seconds=0.1,
            on_end=ended.append,
        )
        await worker
        while not worker.output():
            await asyncio.sleep(0.01)
        await worker.close()
        os.close(handle)
        assert ended == [worker]
        return worker

    worker = asyncio.run(main())
    assert worker.exit_status == 128 + signal.SIGKILL
    assert worker.output() == "up\n"


def test_a_private_folder_goes_with_those_that_share_it(tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    file = Path(folder.write("key", "secret"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    folder.close()
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_keys_of_ones_own_are_put_on_disk_only_where_they_are_in_memory(tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path)
    own = Security.temporary()
    saved = launch.on_disk(own, folder)
    assert Path(saved.tls_worker_key).read_text() == own.tls_worker_key
    assert launch.on_disk(saved, folder).tls_worker_key == saved.tls_worker_key
    assert saved.require_encryption
    folder.close()


def test_a_scheduler_closes_while_a_worker_is_asked_what_it_is(tmp_path: Path) -> None:
    """Also where it gives that worker up in the same moment, and the worker never answers."""

    async def main() -> None:
        asked = asyncio.Event()

        async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()
            writer.close()

        async with (
            await asyncio.start_server(keep_silent, "127.0.0.1") as silent,
            Scheduler(
                host="127.0.0.1", port=0, dashboard=False, local_directory=str(tmp_path)
            ) as scheduler,
        ):
            host, port = silent.sockets[0].getsockname()
            address = f"tcp://{host}:{port}"
            question = asyncio.create_task(examine(scheduler, address, require_slot=True))
            await asked.wait()
            scheduler.rpc.remove(address)
            await asyncio.sleep(0)
            await scheduler.rpc.close()
            question.cancel()
            with pytest.raises(asyncio.CancelledError):
                await question

    asyncio.run(asyncio.wait_for(main(), SECONDS))

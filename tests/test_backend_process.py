"""A backend in a process of its own: calls, pushed ends, and whoever of the two dies first."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from qiskit import QuantumCircuit
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import backends, wire
from hybridflow.backends import channel, factory, open_backend, target_snapshot
from hybridflow.backends.aer import AerBackend
from hybridflow.backends.process import BackendProcess
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    HybridflowError,
    MissingExtraError,
    RequestError,
    ResourceError,
    SiteError,
    VendorJobError,
)
from hybridflow.records import Batch, JobState, Primitive, Resource
from hybridflow.testing import FakeQPU

NULL = {"mode": "null"}


def batch(name: str = "bell", shots: int = 10) -> Batch:
    circuit = QuantumCircuit(2, name=name)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    pubs = wire.pack_pubs([SamplerPub(circuit, shots=shots)], [None])
    return Batch(primitive=Primitive.SAMPLER, pubs=pubs)


@pytest.fixture(name="host")
def _host() -> Iterator[Callable[..., BackendProcess]]:
    made: list[BackendProcess] = []

    def host(**options: Any) -> BackendProcess:
        resource = Resource(name="hosted", backend="fake", options=options)
        made.append(BackendProcess(resource, {}))
        return made[-1]

    yield host
    pids = [found.pid for found in made]
    for found in made:
        found.release()
    assert not [pid for pid in pids if pid is not None and psutil.pid_exists(pid)]


def kill(hosted: BackendProcess) -> None:
    assert hosted.pid is not None
    os.kill(hosted.pid, signal.SIGKILL)


# Calls


def test_it_is_the_backend_that_it_hosts(host: Callable[..., BackendProcess]) -> None:
    hosted = host(num_qubits=3, basis_gates=["x", "h", "cx"])
    direct = FakeQPU("hosted", wire.decode(wire.encode(_options()), FakeQPU.Options))
    assert hosted.capabilities == direct.capabilities
    assert hosted.target() == direct.target()
    assert hosted.metadata() == direct.metadata()
    for backend in (hosted, direct):
        backend.acquire()
    found = {}
    for backend in (hosted, direct):
        job_id = backend.start(batch(), tag="tag")
        assert backend.find("tag") == job_id
        assert backend.status(job_id, wait=30).state is JobState.DONE
        found[backend] = backend.result(job_id), backend.usage(job_id)
    assert found[hosted] == found[direct]
    direct.release()


def _options() -> dict[str, Any]:
    return {"num_qubits": 3, "basis_gates": ["x", "h", "cx"]}


def test_the_end_of_a_job_wakes_who_waits_and_is_told(host: Callable[..., BackendProcess]) -> None:
    hosted = host(seconds_per_job=0.3, **NULL)
    hosted.acquire()
    heard = threading.Event()
    hosted.subscribe(lambda _: heard.set())
    job_id = hosted.start(batch(), tag="tag")
    assert not hosted.status(job_id).state.final
    assert not hosted.status(job_id, wait=0.01).state.final
    assert hosted.status(job_id, wait=30).state is JobState.DONE
    assert heard.wait(30)
    assert hosted.usage(job_id).qpu_seconds == pytest.approx(0.3)


def test_errors_come_typed(host: Callable[..., BackendProcess]) -> None:
    hosted = host(fail_circuits="bad", max_shots=100)
    with pytest.raises(ResourceError, match="acquired"):
        hosted.start(batch(), tag="tag")
    hosted.acquire()
    with pytest.raises(RequestError, match="100 shots"):
        hosted.start(batch(shots=101), tag="tag")
    job_id = hosted.start(batch("bad"), tag="tag")
    status = hosted.status(job_id, wait=30)
    assert status.state is JobState.FAILED
    assert "'bad' fails" in status.message
    with pytest.raises(VendorJobError, match="'bad' fails"):
        hosted.result(job_id)
    with pytest.raises(ResourceError, match="no job"):
        hosted.status("unheard of")


def test_a_job_is_stopped(host: Callable[..., BackendProcess]) -> None:
    hosted = host(seconds_per_job=60.0, **NULL)
    hosted.acquire()
    job_id = hosted.start(batch(), tag="tag")
    hosted.stop(job_id)
    assert hosted.status(job_id, wait=30).state is JobState.CANCELLED
    hosted.stop(job_id)


def test_release_ends_the_process_and_acquire_starts_another(
    host: Callable[..., BackendProcess],
) -> None:
    hosted = host(seconds_per_job=60.0, **NULL)
    hosted.acquire()
    first = hosted.pid
    job_id = hosted.start(batch(), tag="tag")
    hosted.release()
    hosted.release()
    assert first is not None
    assert hosted.pid is None
    assert not psutil.pid_exists(first)
    assert hosted.status(job_id).state is JobState.CANCELLED
    hosted.acquire()
    assert hosted.pid not in (None, first)


def test_a_wrong_definition_is_told_as_if_it_were_here() -> None:
    for options, error, message in (
        ({"num_qubits": 0}, SiteError, "num_qubits"),
        ({"no_such_key": 1}, SiteError, "no_such_key"),
    ):
        hosted = BackendProcess(Resource(name="hosted", backend="fake", options=options), {})
        with pytest.raises(error, match=message):
            _ = hosted.capabilities
        assert hosted.pid is None
    nowhere = BackendProcess(Resource(name="hosted", backend="fake"), {}, interpreter="/no/python")
    with pytest.raises(AcquireError, match="/no/python"):
        nowhere.acquire()
    silent = BackendProcess(Resource(name="hosted", backend="fake"), {}, interpreter="/bin/false")
    with pytest.raises(SiteError, match="/bin/false has no hybridflow"):
        silent.acquire()


# Deaths


def test_a_dead_host_is_an_error_until_it_is_acquired_again(
    host: Callable[..., BackendProcess],
) -> None:
    hosted = host(seconds_per_job=60.0, **NULL)
    hosted.acquire()
    job_id = hosted.start(batch(), tag="tag")
    kill(hosted)
    asked: list[Callable[[], object]] = [
        lambda: hosted.status(job_id, wait=30),
        lambda: hosted.result(job_id),
        lambda: hosted.usage(job_id),
        lambda: hosted.start(batch(), tag="other"),
        lambda: hosted.find("other"),
        lambda: hosted.stop("unheard of"),
        hosted.target,
        hosted.metadata,
    ]
    for ask in asked:
        with pytest.raises(BackendLostError, match="exit status -9") as caught:
            ask()
        assert caught.value.transient
    assert hosted.pid is None
    hosted.acquire()
    with pytest.raises(ResourceError, match="no job"):
        hosted.status(job_id)
    assert hosted.target().num_qubits == 12


def test_what_has_ended_survives_the_host(host: Callable[..., BackendProcess]) -> None:
    hosted = host(**NULL)
    hosted.acquire()
    job_id = hosted.start(batch(), tag="tag")
    assert hosted.status(job_id, wait=30).state is JobState.DONE
    kill(hosted)
    with pytest.raises(BackendLostError):
        hosted.start(batch(), tag="other")
    assert len(hosted.result(job_id)) == 1


def test_a_host_that_dies_while_it_is_asked(host: Callable[..., BackendProcess]) -> None:
    hosted = host(exit_on_job=1)
    hosted.acquire()
    with pytest.raises(BackendLostError, match="exit status 1"):
        hosted.start(batch(), tag="tag")
    hosted.release()
    hosted.acquire()
    with pytest.raises(BackendLostError):
        hosted.start(batch(), tag="tag")


def test_signals_of_the_terminal_do_not_end_it(host: Callable[..., BackendProcess]) -> None:
    hosted = host(**NULL)
    hosted.acquire()
    pid = hosted.pid
    assert pid is not None
    assert os.getpgid(pid) != os.getpgid(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    job_id = hosted.start(batch(), tag="tag")
    assert hosted.status(job_id, wait=30).state is JobState.DONE
    assert hosted.pid == pid


def test_the_thread_that_acquires_may_end(host: Callable[..., BackendProcess]) -> None:
    # The kernel tells a child of the death of the *thread* that started it.
    hosted = host(**NULL)
    thread = threading.Thread(target=hosted.acquire)
    thread.start()
    thread.join()
    job_id = hosted.start(batch(), tag="tag")
    assert hosted.status(job_id, wait=30).state is JobState.DONE


OWNER = """
    import os, sys
    from hybridflow import wire
    from hybridflow.backends import open_backend
    from hybridflow.records import Batch, Resource

    with open(sys.argv[1], "rb") as stream:
        batch = wire.decode(stream.read(), Batch)
    backend = open_backend(Resource(name="aer", backend="aer", options=OPTIONS), {"key": "s3cret"})
    backend.acquire()
    job_id = backend.start(batch, tag="tag")
    print(backend.pid, flush=True)
"""


def owner(code: str, file: Path, options: str = "{}") -> list[str]:
    source = textwrap.dedent(OWNER).replace("OPTIONS", options) + textwrap.dedent(code)
    file.write_bytes(wire.encode(batch()))
    return [sys.executable, "-c", source, str(file)]


def test_the_owner_never_imports_qiskit_and_keeps_credentials_to_itself(tmp_path: Path) -> None:
    code = """
        import pathlib
        state = backend.status(job_id, wait=60).state
        place = pathlib.Path("/proc") / str(backend.pid)
        try:
            environment = (place / "environ").read_bytes()
        except PermissionError:
            environment = b""  # it is not dumpable: not even its user may look
        hidden = b"s3cret" not in environment + (place / "cmdline").read_bytes()
        loaded = sorted({"qiskit", "qiskit_aer", "numpy"} & set(sys.modules))
        print(state.value, len(backend.result(job_id)), hidden, loaded)
        backend.release()
    """
    ran = subprocess.run(
        owner(code, tmp_path / "batch"), capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.splitlines()[1:] == ["done 1 True []"]
    assert ran.stderr == ""


@pytest.mark.parametrize("stuck", [False, True], ids=["idle", "stuck"])
def test_the_host_dies_with_its_owner(tmp_path: Path, stuck: bool) -> None:
    command = owner("sys.stdin.read()", tmp_path / "batch")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        hosted = psutil.Process(int(process.stdout.readline()))
        if stuck:
            # As Aer does, which holds the GIL: no thread can see the end of the connection.
            hosted.suspend()
        process.kill()
    _, alive = psutil.wait_procs([hosted], timeout=5)
    assert not alive


def test_a_host_nobody_released_ends_at_exit(tmp_path: Path) -> None:
    ran = subprocess.run(
        owner("", tmp_path / "batch"), capture_output=True, text=True, timeout=60, check=True
    )
    pid = int(ran.stdout)
    if psutil.pid_exists(pid):
        _, alive = psutil.wait_procs([psutil.Process(pid)], timeout=5)
        assert not alive
    assert ran.stderr == ""


def test_a_busy_host_is_released_by_force() -> None:
    hosted = BackendProcess(Resource(name="aer", backend="aer"), {}, release_seconds=0.2)
    hosted.acquire()
    heavy = QuantumCircuit(24)
    for _ in range(20):
        heavy.t(range(24))
        heavy.h(range(24))
    heavy.measure_all()
    pubs = wire.pack_pubs([SamplerPub(heavy, shots=10)], [None])
    hosted.start(Batch(primitive=Primitive.SAMPLER, pubs=pubs), tag="tag")
    pid = hosted.pid
    began = time.monotonic()
    hosted.release()
    assert time.monotonic() - began < 5
    assert pid is not None
    assert not psutil.pid_exists(pid)


# What opens it


def test_open_backend_gives_a_process_where_the_type_asks_for_one() -> None:
    assert isinstance(open_backend(Resource(name="a", backend="aer"), {}), BackendProcess)
    direct = open_backend(Resource(name="f", backend="fake", options={"num_qubits": 3}), {})
    assert isinstance(direct, FakeQPU)
    assert direct.capabilities.num_qubits == 3
    with pytest.raises(SiteError, match="no backend 'nonsense'"):
        open_backend(Resource(name="n", backend="nonsense"), {})
    with pytest.raises(SiteError, match=r"resource 'f'.*num_qubit"):
        open_backend(Resource(name="f", backend="fake", options={"num_qubit": 3}), {})


def test_the_snapshot_is_cached_on_disk_by_definition(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    factory._snapshot.cache_clear()
    made: list[str] = []
    real = AerBackend.target

    def target(self: AerBackend) -> Any:
        made.append(self.name)
        return real(self)

    monkeypatch.setattr(AerBackend, "target", target)
    resource = Resource(name="aer", backend="aer", options={"num_qubits": 7})
    snapshot = target_snapshot(resource)
    assert snapshot.num_qubits == 7
    factory._snapshot.cache_clear()  # as another process would find it
    assert target_snapshot(resource) == snapshot
    renamed = Resource(name="other", backend="aer", options={"num_qubits": 7})
    assert target_snapshot(renamed) == snapshot
    assert len(made) == 1
    assert target_snapshot(Resource(name="aer", backend="aer")).num_qubits is None
    assert len(made) == 2
    files = list(tmp_path.rglob("*.msgpack"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(b"damaged")
    factory._snapshot.cache_clear()
    assert target_snapshot(resource) == snapshot
    assert len(made) == 3
    factory._snapshot.cache_clear()


def test_the_snapshot_names_a_missing_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def target(self: AerBackend) -> Any:
        raise MissingExtraError("install it with: pip install 'hybridflow[aer]'")

    monkeypatch.setattr(AerBackend, "target", target)
    factory._snapshot.cache_clear()
    with pytest.raises(MissingExtraError, match=r"hybridflow\[aer\]"):
        target_snapshot(Resource(name="aer", backend="aer"))


def test_messages_hide_credentials() -> None:
    message = channel.Open(
        call=1, resource=Resource(name="r", backend="fake"), credentials={"key": "s3cret"}
    )
    assert "s3cret" not in repr(message)
    assert "s3cret" in wire.encode(message).decode("latin1")


def test_public_names_are_there() -> None:
    for name in backends.__all__:
        assert hasattr(backends, name)
    assert issubclass(BackendLostError, HybridflowError)

"""The emulated QPU as a service: a device's behaviour, counted at the vendor's side."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import urllib3
from emulated import (
    KEYS,
    LONG,
    PER_SHOT,
    SHORT,
    acquired,
    backend_of,
    batch,
    counts,
    entry_of,
    pub,
    quieten,
    request,
    resource_of,
    tag,
)
from family import eventually, readable

from hybridflow import wire
from hybridflow.backends import target_snapshot
from hybridflow.backends.emulator import EmulatorBackend, EmulatorOptions
from hybridflow.backends.emulator.messages import API_KEY, Caller, Execution, Submission
from hybridflow.broker.client import connect
from hybridflow.broker.core import Broker
from hybridflow.broker.process import BrokerProcess
from hybridflow.broker.work import Limits
from hybridflow.emulator import load_config
from hybridflow.emulator.jobs import Job, Jobs
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    HybridflowError,
    RequestCancelledError,
    RequestError,
    ResourceError,
    SiteError,
    TooLargeError,
)
from hybridflow.records import (
    Batch,
    JobState,
    PackedPub,
    PackedResult,
    Primitive,
    Resource,
    Usage,
)
from hybridflow.site import load_site
from hybridflow.testing import QpuEmulator, check_backend, qpu_emulator

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def shared() -> Iterator[QpuEmulator]:
    with qpu_emulator("qpu", "other", seconds_per_shot=PER_SHOT, keys=KEYS) as started:
        yield started


@pytest.fixture
def emulator(shared: QpuEmulator) -> Iterator[QpuEmulator]:
    """The service, without a fault or a running job at the test's end."""
    yield shared
    quieten(shared)


# --- the backend ---------------------------------------------------------------------------------


def test_backend_keeps_the_promises_of_all_backends() -> None:
    """Ideal; and as a small device without tags."""
    small = {"num_qubits": 4, "max_pubs": 3, "max_shots": 1500, "lanes": 2, "tags": False}
    for options in ({"seconds_per_job": 0.02}, small):
        with qpu_emulator("qpu", **options) as started:
            check_backend(partial(backend_of, started, user=""), fidelity=1)
            assert all(entry.state.final for entry in started.log())


def test_it_declares_what_the_service_says() -> None:
    options = {"device": "FakeManilaV2", "depolarizing": 0.0, "tags": False}
    with qpu_emulator(seconds_per_job=3.0, time_scale=0.5, lanes=4, **options) as started:
        backend = EmulatorBackend("emulated", EmulatorOptions(url=started.url))
        declared = backend.capabilities
        assert declared.simulator
        assert declared.durable_jobs
        assert not declared.tags
        assert (declared.lanes, declared.num_qubits, declared.fixed_seconds) == (4, 5, 1.5)
        assert backend.metadata()["device"] == "FakeManilaV2"
        assert backend.metadata()["calibration"] == backend.target().calibration != ""
        backend.release()


def test_targets_of_a_service_are_asked_for_each_time(
    emulator: QpuEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another service may answer at that address tomorrow. No key is needed to transpile."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    resource = Resource(name="qpu", backend="emulator", options={"url": emulator.url})
    assert target_snapshot(resource).num_qubits is None
    assert target_snapshot(resource).calibration.startswith("emulated-")
    assert not any(tmp_path.iterdir())


# --- the device ----------------------------------------------------------------------------------


def test_jobs_take_and_bill_the_device_s_time() -> None:
    timing = {"seconds_per_job": 1.0, "seconds_per_circuit": 0.5, "seconds_per_shot": 0.01}
    with (
        qpu_emulator("qpu", time_scale=0.1, **timing) as started,
        acquired(started, user="") as backend,
    ):
        began = time.monotonic()
        job_id = backend.start(batch(50, pubs=2), tag="mine")
        assert backend.status(job_id, wait=20).state is JobState.DONE
        assert time.monotonic() - began >= 0.3
        assert backend.usage(job_id) == Usage(qpu_seconds=3.0, shots=100)
        (entry,) = started.log()
        assert (entry.resource, entry.tag, entry.account) == ("qpu", "mine", "")
        assert (entry.pubs, entry.circuits, entry.shots) == (2, 2, 100)
        assert entry.caller.pid == os.getpid()
        assert entry.started is not None
        assert entry.ended is not None
        assert entry.submitted <= entry.started <= entry.ended - 0.3


def test_one_job_at_a_time_in_the_order_of_their_coming(emulator: QpuEmulator) -> None:
    with acquired(emulator) as alice, acquired(emulator, user="bob") as bob:
        jobs = [user.start(batch(SHORT), tag=tag()) for user in (alice, bob, alice, bob)]
        assert bob.status(jobs[-1], wait=20).state is JobState.DONE
        entries = [entry_of(emulator, job) for job in jobs]
        assert [entry.account for entry in entries] == ["alice", "bob", "alice", "bob"]
        assert_serial(entries)


def assert_serial(entries: list[Execution]) -> None:
    spans = sorted((entry.started or 0.0, entry.ended or 0.0) for entry in entries)
    assert all(started > 0 and ended >= started for started, ended in spans)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


def test_resources_of_one_service_have_queues_of_their_own(emulator: QpuEmulator) -> None:
    with acquired(emulator) as backend:
        backend.start(batch(LONG), tag=tag())
        other = EmulatorBackend(
            "qpu",
            EmulatorOptions(url=emulator.url, resource="other"),
            {API_KEY: KEYS["alice"]},
        )
        other.acquire()
        job_id = other.start(batch(SHORT), tag=tag())
        assert other.status(job_id, wait=20).state is JobState.DONE
        assert entry_of(emulator, job_id).resource == "other"
        other.release()


def test_waiting_and_running_jobs_are_cancelled(emulator: QpuEmulator) -> None:
    with acquired(emulator) as backend:
        running, waiting, last = (
            backend.start(batch(shots), tag=tag()) for shots in (LONG, LONG, SHORT)
        )
        eventually(lambda: backend.status(running).state is JobState.RUNNING)
        backend.stop(waiting)
        assert backend.status(waiting).state is JobState.CANCELLED
        assert backend.status(running).state is JobState.RUNNING
        backend.stop(running)
        assert backend.status(running, wait=20).state is JobState.CANCELLED
        assert backend.status(last, wait=20).state is JobState.DONE
        with pytest.raises(RequestCancelledError):
            backend.result(running)
        assert entry_of(emulator, waiting).started is None
        assert 0 < backend.usage(running).qpu_seconds < LONG * PER_SHOT
        assert backend.usage(waiting) == Usage()


def test_results_can_be_fetched_again_and_by_another_process(emulator: QpuEmulator) -> None:
    with acquired(emulator) as first:
        job_id = first.start(batch(SHORT), tag="kept")
    with acquired(emulator) as second:  # the first has released it
        assert second.find("kept") == job_id
        assert second.status(job_id, wait=20).state is JobState.DONE
        assert counts(second.result(job_id)) == counts(second.result(job_id))


def test_jobs_of_another_user_do_not_exist(emulator: QpuEmulator) -> None:
    with acquired(emulator) as alice, acquired(emulator, user="bob") as bob:
        job_id = alice.start(batch(SHORT), tag="of alice")
        assert bob.find("of alice") is None
        questions: list[Callable[[str], Any]] = [bob.status, bob.result, bob.usage, bob.stop]
        for question in questions:
            with pytest.raises(ResourceError, match="no job"):
                question(job_id)
        assert alice.status(job_id, wait=20).state is JobState.DONE


def test_a_full_queue_is_said_to_be_full() -> None:
    with (
        qpu_emulator("qpu", max_queued=1, seconds_per_job=600) as started,
        acquired(started, user="") as backend,
    ):
        running = backend.start(batch(1), tag=tag())
        eventually(lambda: backend.status(running).state is JobState.RUNNING)
        waiting = backend.start(batch(1), tag=tag())
        with pytest.raises(ResourceError, match="full") as caught:
            backend.start(batch(1), tag=tag())
        assert caught.value.transient
        backend.stop(waiting)  # which makes room
        backend.start(batch(1), tag=tag())


def test_a_simulator_that_dies_fails_its_job_alone() -> None:
    with (
        qpu_emulator("qpu", seconds_per_shot=PER_SHOT) as started,
        acquired(started, user="") as backend,
    ):
        (child,) = children_of(started.pid)
        os.kill(child, signal.SIGSTOP)
        job_id = backend.start(batch(SHORT), tag=tag())
        eventually(lambda: backend.status(job_id).state is JobState.RUNNING)
        os.kill(child, signal.SIGKILL)
        status = backend.status(job_id, wait=20)
        assert (status.state, status.transient) == (JobState.FAILED, True)
        assert "interrupted" in status.message
        again = backend.start(batch(SHORT), tag=tag())
        assert backend.status(again, wait=30).state is JobState.DONE


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [
        int(word) for task in tasks.iterdir() for word in (task / "children").read_text().split()
    ]


# --- what arrives is checked ---------------------------------------------------------------------


def raw(emulator: QpuEmulator, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
    headers = {"Authorization": f"Bearer {KEYS['alice']}"}
    with urllib3.PoolManager() as pool:
        return pool.request(
            method, emulator.url + path, headers=headers, retries=False, timeout=20, **options
        )


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/resources/qpu/jobs", b"\x80\x04K\x01.", 400, "could not be read"),
        ("POST", "/resources/qpu/jobs", b"", 400, "could not be read"),
        ("POST", "/resources/none/jobs", None, 404, "has no resource 'none'; it has: qpu, other"),
        ("GET", "/resources/qpu/jobs", None, 400, "tag"),
        ("GET", "/jobs/none", None, 404, "no job 'none'"),
        ("GET", "/elsewhere", None, 400, "nothing at /elsewhere"),
    ],
)
def test_bad_requests(
    emulator: QpuEmulator, method: str, path: str, body: bytes | None, status: int, says: str
) -> None:
    if path == "/resources/none/jobs":
        body = wire.encode(Submission(batch=batch(1), tag="", caller=Caller()))
    answer = raw(emulator, method, path, body=body)
    assert answer.status == status
    assert says in answer.json()["message"]


@pytest.mark.parametrize(
    "pubs",
    [
        (),
        (msgspec.structs.replace(pub(1), circuits=0),),
        (msgspec.structs.replace(pub(1), shots=-1),),
    ],
    ids=["nothing", "no circuit", "no shots"],
)
def test_bad_jobs(emulator: QpuEmulator, pubs: tuple[PackedPub, ...]) -> None:
    with acquired(emulator) as backend, pytest.raises(RequestError):
        backend.start(Batch(primitive=Primitive.SAMPLER, pubs=pubs), tag=tag())


@pytest.mark.parametrize("wait", ["-1", "nan", "soon"])
def test_bad_wait(emulator: QpuEmulator, wait: str) -> None:
    with acquired(emulator) as backend:
        job_id = backend.start(batch(SHORT), tag=tag())
    assert raw(emulator, "GET", f"/jobs/{job_id}?wait={wait}").status == 400


def test_a_request_over_the_bound_is_not_read(emulator: QpuEmulator) -> None:
    host, _, port = emulator.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as stream:
        stream.sendall(
            b"POST /resources/qpu/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n"
        )
        assert stream.recv(64).startswith(b"HTTP/1.1 400")


def test_a_request_over_the_bound_is_not_sent(emulator: QpuEmulator) -> None:
    with acquired(emulator) as backend:
        backend._seen = msgspec.structs.replace(backend._info, max_bytes=100)
        with pytest.raises(TooLargeError, match="takes 100"):
            backend.start(batch(SHORT), tag=tag())


def test_what_is_kept_is_bounded() -> None:
    jobs = Jobs(kept_jobs=2, kept_bytes=100)
    made = []
    for number in range(5):
        submission = Submission(batch=batch(1), tag=str(number), caller=Caller())
        made.append(Job("qpu", "", submission, now=float(number)))
        jobs.add(made[-1])
        if number < 4:
            made[-1].begin(0.0)
            made[-1].succeed(((PackedResult(arrays={"meas": b"0" * 60}),), Usage()), 0.0)
            jobs.ended(made[-1])
    assert [entry.tag for entry in jobs.log(None)] == ["2", "3", "4"]
    with pytest.raises(ResourceError, match="kept no longer"):
        made[2].packed_results()
    assert made[3].packed_results()
    with pytest.raises(ResourceError, match="no job"):
        jobs.get(made[0].id, "")
    made[4].begin(0.0)
    made[4].succeed(((PackedResult(arrays={"meas": b"0" * 60}),), Usage()), 0.0)
    jobs.ended(made[4])
    assert made[3].results is None
    assert made[4].packed_results()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"url": "ftp://here"}, "http"),
        ({"url": "http://"}, "host"),
        ({"url": "http://me:secret@here"}, "password"),
        ({"url": "http://here:port"}, "address"),
        ({"timeout_seconds": 0.0}, "timeout_seconds"),
    ],
)
def test_bad_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EmulatorOptions(**options)


@contextlib.contextmanager
def someone_else(answer: bytes) -> Iterator[EmulatorBackend]:
    """A service that is none of ours, or a proxy: it gives one answer, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            stream, _ = server.accept()
            with stream:
                stream.recv(65536)
                stream.sendall(
                    b"HTTP/1.1 %s\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello" % answer
                )

        thread = threading.Thread(target=greet)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        backend = EmulatorBackend("qpu", EmulatorOptions(url=url))
        yield backend
        thread.join()
        backend.release()


@pytest.mark.parametrize(
    ("answer", "says", "transient"),
    [
        (b"200 OK", "no emulated QPU of this version", False),
        (b"404 Not Found", "no emulated QPU of this version: HTTP status 404", False),
        (b"502 Bad Gateway", "gave no answer .HTTP status 502", True),
    ],
)
def test_another_service_is_not_taken_for_an_emulator(
    answer: bytes, says: str, transient: bool
) -> None:
    with someone_else(answer) as backend:
        with pytest.raises(AcquireError, match=says) as caught:
            backend.acquire()
        assert caught.value.transient is transient


@pytest.mark.parametrize("answer", [b"201 Created", b"504 Gateway Timeout"])
def test_a_proxy_that_loses_a_job_s_id_does_not_have_it_paid_for_again(answer: bytes) -> None:
    """It may run: the broker neither repeats it nor says that nothing was started."""
    submission = Submission(batch=batch(1), tag="", caller=Caller())
    with someone_else(answer) as backend, pytest.raises(BackendLostError):
        backend._client.start("qpu", submission, max_bytes=2**20)


# --- the service as a process --------------------------------------------------------------------


def service(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "hybridflow", "qpu-emulator", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def written(folder: Path, text: str, mode: int = 0o600) -> str:
    file = folder / "service.toml"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("[qpu.a]\n[keys]\nalice = 'secret-of-alice'", 0o644, "chmod 600"),
        ("[qpu.a]\n[keys]\nalice = 'short'", 0o600, "8 characters"),
        ("[qpu.a]\n[keys]\nalice = 'the-same-key'\nbob = 'the-same-key'", 0o600, "same key"),
        ("admins = ['eve']\n[qpu.a]\n[keys]\nbob = 'key-of-bob'", 0o600, "no key: eve"),
        ("[qpu]", 0o600, "no resource"),
        ("[qpu.a]\nspeed = 3", 0o600, "speed"),
        ("[qpu.a]\ntime_scale = -1", 0o600, "time_scale"),
        ("[qpu.a]\nlanes = 0", 0o600, "lanes"),
        ("kept_jobs = 0\n[qpu.a]", 0o600, "kept_jobs"),
        ("[qpu", 0o600, "service.toml"),
    ],
)
def test_bad_configuration(tmp_path: Path, text: str, mode: int, says: str) -> None:
    with pytest.raises(SiteError, match=says):
        load_config(written(tmp_path, text, mode))


def test_configuration_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


def test_the_files_that_come_with_hybridflow() -> None:
    site = load_site(ROOT / "configs" / "emulator.toml")
    config = load_config(ROOT / "configs" / "emulator" / "service.toml")
    assert set(config.qpu) == set(site.resources)


def test_other_machines_are_served_only_with_keys() -> None:
    done = service("--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "give each user a key" in done.stderr


def test_a_port_that_is_taken(emulator: QpuEmulator) -> None:
    done = service("--port", emulator.url.rpartition(":")[2])
    assert done.returncode == 3
    assert "Address already in use" in done.stderr


def test_an_address_that_is_not_here(tmp_path: Path) -> None:
    keys = written(tmp_path, "[qpu.a]\n[keys]\nalice = 'key-of-alice'")
    done = service("--host", "203.0.113.7", "--port", "0", "--config", keys)  # RFC 5737
    assert done.returncode == 3
    assert "203.0.113.7 cannot be served" in done.stderr
    assert "--host" in done.stderr


def test_an_end_of_input_that_cannot_come() -> None:
    command = 'exec "$0" -m hybridflow qpu-emulator --port 0 --until-eof <&-'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "standard input is closed" in done.stderr


def test_options_and_configuration_do_not_mix(tmp_path: Path) -> None:
    done = service("--config", written(tmp_path, "[qpu.a]"), "--no-tags")
    assert done.returncode == 2
    assert "--config says it all" in done.stderr
    assert service("--seconds-per-job", "-1").returncode == 2


def test_a_signal_ends_it_in_order() -> None:
    arguments = [sys.executable, "-m", "hybridflow", "qpu-emulator", "--port", "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        backend = EmulatorBackend("emulated", EmulatorOptions(url=url))
        backend.acquire()
        backend.release()
        process.terminate()
        assert process.wait(20) == 0


def test_it_forgets_jobs_as_its_configuration_says(tmp_path: Path) -> None:
    config = written(tmp_path, "kept_jobs = 2\n[qpu.emulated]")
    arguments = [sys.executable, "-m", "hybridflow", "qpu-emulator", "--port", "0"]
    with subprocess.Popen(
        [*arguments, "--config", config], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        backend = EmulatorBackend("emulated", EmulatorOptions(url=url))
        backend.acquire()
        jobs = [backend.start(batch(1), tag=tag()) for _ in range(4)]
        assert backend.status(jobs[-1], wait=20).state is JobState.DONE
        kept = [entry.job for entry in backend._client.log()]
        backend.release()
        process.terminate()
    assert kept == jobs[-2:]


def test_it_ends_with_whoever_started_it() -> None:
    code = (
        "import time\nfrom hybridflow.testing import qpu_emulator\n"
        "with qpu_emulator() as emulator:\n    print(emulator.pid, flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        handle = os.pidfd_open(int(owner.stdout.readline()))
        owner.kill()
        assert readable(handle)
        os.close(handle)


def test_a_service_that_cannot_start_says_why() -> None:
    with pytest.raises(AcquireError, match="depolarizing"), qpu_emulator(depolarizing=3.0):
        pass


# --- brokers -------------------------------------------------------------------------------------

SCRIPT = """
import os
from qiskit import QuantumCircuit
import hybridflow as hf

circuit = QuantumCircuit(2)
circuit.h(0)
circuit.cx(0, 1)
circuit.measure_all()
for _ in range(3):
    result = hf.Sampler().run([circuit], shots=5).result()
    assert set(result[0].data.meas.get_counts()) <= {"00", "11"}
assert not [name for name in os.environ if "API_KEY" in name]
print(result.metadata["hybridflow"]["backend"])
"""


@pytest.fixture
def place(emulator: QpuEmulator, tmp_path: Path) -> Path:
    (tmp_path / "site.toml").write_text(emulator.site)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def through_the_door(place: Path, key: str = KEYS["alice"]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "hybridflow", "slot", "run", "--site", "site.toml"]
    return subprocess.Popen(
        [*command, "--resource", "qpu", "--", sys.executable, "script.py"],
        cwd=place,
        env={**os.environ, f"qpu_{API_KEY}": key},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_brokers_share_one_serial_device(emulator: QpuEmulator, place: Path) -> None:
    """The script of the README, in two slots at once."""
    before = len(emulator.log())
    users = [through_the_door(place, KEYS[name]) for name in ("alice", "bob")]
    for user in users:
        output, errors = user.communicate(timeout=60)
        assert (user.returncode, output) == (0, "emulator\n"), errors
    entries = emulator.log()[before:]
    assert len(entries) == 6
    assert {entry.account for entry in entries} == {"alice", "bob"}
    assert len({entry.caller.pid for entry in entries}) == 2
    assert_serial(entries)


@pytest.mark.parametrize("key", ["no-such-key", ""])
def test_a_wrong_key_is_refused_and_not_shown(place: Path, key: str) -> None:
    user = through_the_door(place, key)
    _, errors = user.communicate(timeout=60)
    assert user.returncode == 3
    assert "does not know this key" in errors
    assert "no-such-key" not in errors


@pytest.mark.parametrize("key", [f"{KEYS['alice']}\n", "kéy-of-alice", "key of alice"])
def test_what_is_no_key_is_refused_and_not_shown(place: Path, key: str) -> None:
    user = through_the_door(place, key)
    output, errors = user.communicate(timeout=60)
    assert user.returncode == 3
    assert f"the credential {API_KEY} is no key" in errors
    assert key.strip() not in output + errors


def test_a_service_that_is_down_may_be_back_later(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    site = f'[qpu.qpu]\nbackend = "emulator"\nurl = "http://127.0.0.1:{port}"\n'
    (place / "site.toml").write_text(site)
    user = through_the_door(place)
    _, errors = user.communicate(timeout=60)
    assert user.returncode == 75
    assert "no emulated QPU can be reached" in errors


def test_a_job_outlives_its_broker_and_is_found_by_its_tag(
    emulator: QpuEmulator, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, before = tmp_path_factory.mktemp("slot"), len(emulator.log())
    broker = BrokerProcess(resource_of(emulator), {API_KEY: KEYS["alice"]}, folder)
    broker.start()
    connection = connect(broker.socket)
    asked = connection.submit(request(100)).future
    eventually(lambda: running(emulator.log()[before:]))
    (entry,) = emulator.log()[before:]
    assert entry.caller.pid == broker.pid
    broker.kill()
    connection.close()
    with pytest.raises(HybridflowError):
        asked.result(0)
    with acquired(emulator) as backend:
        found = backend.find(entry.tag)
        assert found == entry.job
        assert backend.status(found, wait=20).state is JobState.DONE
        assert set(counts(backend.result(found))) == {"00", "11"}
        assert backend.usage(found).shots == 100
    assert len(emulator.log()) == before + 1


def running(entries: list[Execution]) -> bool:
    return [entry.state for entry in entries] == [JobState.RUNNING]


def test_a_service_that_dies_is_a_typed_error_and_leaves_nothing() -> None:
    with qpu_emulator("qpu", seconds_per_job=600) as started:
        backend = EmulatorBackend("qpu", EmulatorOptions(url=started.url))
        broker = Broker(resource_of(started), backend, limits=Limits(patience_seconds=1.0))
        asked: Future[Any] = Future()
        broker.start()
        broker.submit(request(SHORT), asked.set_result)
        eventually(lambda: running(started.log()))
        (simulator,) = children_of(started.pid)
        handle = os.pidfd_open(simulator)
        os.kill(started.pid, signal.SIGKILL)
        error = asked.result(30)
        assert isinstance(error, ResourceError)
        assert "no emulated QPU can be reached" in str(error)
        assert error.transient
        broker.drain(5)
        assert broker.join(10)
        assert readable(handle)
        os.close(handle)

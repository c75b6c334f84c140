"""The backend `ibm_runtime` at a service: the real client, a loopback server with Aer behind it."""

import contextlib
import inspect
import json
import os
import pkgutil
import signal
import socket
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import qiskit_ibm_runtime
import requests
from emulated import entry_of, tag
from family import eventually
from ibm_desk import (
    CREDENTIALS,
    KEY,
    KEYS,
    PER_SHOT,
    Console,
    acquired,
    backend_of,
    batch,
    pub,
    resource_of,
)
from qiskit import QuantumCircuit
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import environment, wire
from hybridflow.backends import target_snapshot
from hybridflow.backends.ibm_runtime import IbmRuntimeBackend
from hybridflow.backends.ibm_runtime.account import API_KEY
from hybridflow.backends.ibm_runtime.faults import KINDS, Phase, is_transient_reason, typed
from hybridflow.backends.process import BackendProcess
from hybridflow.broker.client import connect
from hybridflow.broker.process import BrokerProcess
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    HybridflowError,
    NoSlotError,
    RequestError,
    ResourceError,
    TooLargeError,
    VendorJobError,
)
from hybridflow.records import Batch, JobState, Primitive, Request
from hybridflow.testing import QpuEmulator, check_backend, qpu_emulator

_CRN = "QRMI_IBM_QCS_SERVICE_CRN"


@pytest.fixture(scope="module")
def shared() -> Iterator[QpuEmulator]:
    with qpu_emulator(
        "qpu", device="FakeManilaV2", seconds_per_shot=PER_SHOT, time_scale=0.1, keys=KEYS
    ) as started:
        yield started


@pytest.fixture(scope="module")
def console(shared: QpuEmulator) -> Console:
    return Console(shared)


@pytest.fixture
def emulator(shared: QpuEmulator) -> Iterator[QpuEmulator]:
    """The service, without a fault or a running job at the test's end."""
    yield shared
    shared.faults()
    left = [entry.job for entry in shared.log() if not entry.state.final]
    if left:
        with acquired(shared) as backend:
            for job_id in left:
                backend.stop(job_id)
    eventually(lambda: all(entry.state.final for entry in shared.log()))


@pytest.fixture(scope="module")
def opened(shared: QpuEmulator) -> Iterator[IbmRuntimeBackend]:
    with acquired(shared) as backend:
        yield backend


@pytest.fixture
def backend(opened: IbmRuntimeBackend, emulator: QpuEmulator) -> IbmRuntimeBackend:
    """A backend in job mode, acquired."""
    return opened


def done(backend: IbmRuntimeBackend, job_id: str) -> None:
    status = backend.status(job_id, wait=30)
    assert status.state is JobState.DONE, status


def test_a_session_keeps_the_promises_of_a_backend(emulator: QpuEmulator) -> None:
    check_backend(lambda: backend_of(emulator, mode="session", idle_seconds=0.2), fidelity=0.65)


# --- what it is ----------------------------------------------------------------------------------


def test_it_is_described_by_the_service(backend: IbmRuntimeBackend) -> None:
    can = backend.capabilities
    assert (can.simulator, can.num_qubits, can.max_shots, can.max_pubs) == (False, 5, 100_000, 300)
    assert (can.durable_jobs, can.tags, can.find_seconds) == (True, True, 0.2)
    assert can.shot_seconds == pytest.approx(250e-6)
    target, metadata = backend.target(), backend.metadata()
    assert target.calibration == metadata["calibration"] != ""
    assert metadata["instance"] == CREDENTIALS["QRMI_IBM_QCS_SERVICE_CRN"]


def test_a_laptop_with_a_key_is_told_the_target(
    emulator: QpuEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IbmRuntimeBackend, "own_process", False)
    with pytest.raises(NoSlotError):
        target_snapshot(resource_of(emulator))
    for key, value in CREDENTIALS.items():
        monkeypatch.setenv(f"qpu_{key}", value)
    assert target_snapshot(resource_of(emulator)).num_qubits == 5


def test_a_job_costs_what_the_service_says(
    backend: IbmRuntimeBackend, emulator: QpuEmulator
) -> None:
    job_id = backend.start(batch(50, pubs=2), tag=tag())
    done(backend, job_id)
    backend.result(job_id)
    usage = backend.usage(job_id)
    assert usage.qpu_seconds == entry_of(emulator, job_id).qpu_seconds == pytest.approx(0.1)
    assert usage.shots == 100


# --- modes ---------------------------------------------------------------------------------------


def test_a_job_runs_alone(backend: IbmRuntimeBackend, console: Console) -> None:
    job_id = backend.start(batch(), tag=tag())
    assert console.session_of(job_id) is None
    done(backend, job_id)


def test_a_session_lasts_as_long_as_there_is_something_to_run(
    emulator: QpuEmulator, console: Console
) -> None:
    with acquired(emulator, mode="session", idle_seconds=0.5) as backend:
        first = backend.start(batch(200), tag=tag())
        second = backend.start(batch(), tag=tag())
        session = console.session_of(first)
        assert session is not None
        assert console.session_of(second) == session
        assert console.session(session)["mode"] == "dedicated"
        assert console.is_open(session)
        done(backend, first)
        done(backend, second)
        eventually(lambda: not console.is_open(session))  # though nobody asks for anything
        third = backend.start(batch(), tag=tag())
        again = console.session_of(third)
        assert again not in (None, session)
        done(backend, third)
    assert again is not None
    assert not console.is_open(again)


def test_a_session_of_which_a_job_runs_stays_open(emulator: QpuEmulator, console: Console) -> None:
    emulator.faults(stuck_jobs=1)
    with acquired(emulator, mode="session", idle_seconds=0.05) as backend:
        job_id = backend.start(batch(), tag=tag())
        session = console.session_of(job_id)
        assert session is not None
        assert not backend.status(job_id, wait=0.5).state.final
        assert console.is_open(session)
    assert not console.is_open(session)
    # The job runs on: whoever comes later can have it.
    with acquired(emulator) as later:
        assert not later.status(job_id).state.final
        later.stop(job_id)
        assert later.status(job_id, wait=20).state is JobState.CANCELLED


def test_a_batch_is_open_until_the_release(emulator: QpuEmulator, console: Console) -> None:
    with acquired(emulator, mode="batch", idle_seconds=0.0) as backend:
        first = backend.start(batch(), tag=tag())
        done(backend, first)
        session = console.session_of(first)
        assert session is not None
        assert console.session(session)["mode"] == "batch"
        second = backend.start(batch(), tag=tag())
        assert console.session_of(second) == session
        done(backend, second)
    assert not console.is_open(session)


@pytest.mark.parametrize("mode", ["session", "batch"])
def test_a_session_that_the_service_has_closed_is_followed_by_another(
    emulator: QpuEmulator, console: Console, mode: str
) -> None:
    with acquired(emulator, mode=mode, idle_seconds=30.0) as backend:
        first = backend.start(batch(), tag=tag())
        done(backend, first)
        session = console.session_of(first)
        assert session is not None
        console.close(session)
        before = len(emulator.log())
        second = backend.start(batch(), tag=tag())
        assert console.session_of(second) not in (None, session)
        assert len(emulator.log()) == before + 1
        done(backend, second)


def test_a_job_whose_session_was_closed_may_be_run_again(
    emulator: QpuEmulator, console: Console
) -> None:
    emulator.faults(stuck_jobs=1)
    with acquired(emulator, mode="session") as backend:
        job_id = backend.start(batch(), tag=tag())
        console.close(console.session_of(job_id) or "")
        status = backend.status(job_id, wait=20)
        assert (status.state, status.transient) == (JobState.FAILED, True)
        with pytest.raises(VendorJobError, match="session was closed by the service"):
            backend.result(job_id)


@pytest.mark.parametrize(("mode", "kind"), [("dedicated", "session"), ("batch", "batch")])
def test_a_session_of_the_slots_plugin_is_used_and_left_open(
    emulator: QpuEmulator, console: Console, mode: str, kind: str
) -> None:
    session = console.open(mode)
    slots = {environment.TOKEN: session, "QRMI_IBM_QCS_SESSION_MODE": mode}
    with acquired(emulator, credentials=CREDENTIALS | slots, idle_seconds=0.0) as backend:
        job_id = backend.start(batch(), tag=tag())
        assert console.session_of(job_id) == session
        done(backend, job_id)
    assert console.is_open(session)


# --- jobs outlive who started them ---------------------------------------------------------------


def test_a_job_is_found_by_its_tag_and_has_its_results_in_another_process(
    emulator: QpuEmulator,
) -> None:
    mark = tag()
    with acquired(emulator) as first:
        job_id = first.start(batch(20), tag=mark)
    with acquired(emulator) as second:
        assert second.find(mark) == job_id
        assert second.find(tag()) is None
        done(second, job_id)
        data, metadata = wire.unpack_result(second.result(job_id)[0])
        assert sum(data.meas.get_counts().values()) == metadata["shots"] == 20
        assert second.usage(job_id).qpu_seconds > 0


def test_a_job_is_attached_to_when_its_process_was_killed(emulator: QpuEmulator) -> None:
    emulator.faults(stuck_jobs=1)
    hosted = BackendProcess(resource_of(emulator), CREDENTIALS)
    hosted.acquire()
    try:
        stuck = hosted.start(batch(), tag=tag())
        waiting = hosted.start(batch(), tag=tag())
        assert hosted.pid is not None
        os.kill(hosted.pid, signal.SIGKILL)
        with pytest.raises(BackendLostError):
            hosted.status(waiting, wait=20)
        hosted.acquire()
        hosted.stop(stuck)
        assert hosted.status(waiting, wait=30).state is JobState.DONE
        assert len(hosted.result(waiting)) == 1
    finally:
        hosted.release()


# --- faults --------------------------------------------------------------------------------------


def is_discreet(error: BaseException) -> bool:
    return KEY not in str(error) and KEY not in repr(error)


@pytest.mark.parametrize(
    ("faults", "kind", "transient"),
    [
        ({"busy": 1}, ResourceError, True),
        ({"away_seconds": 30.0}, ResourceError, True),
        ({"broken": 1}, BackendLostError, True),
        ({"pages": 1}, BackendLostError, True),
        ({"halved": 1}, BackendLostError, True),
        ({"slow_seconds": 30.0}, BackendLostError, True),
        ({"expired": 3}, AcquireError, False),
    ],
)
def test_a_start_that_fails_says_whether_something_may_run(
    emulator: QpuEmulator, faults: dict[str, Any], kind: type[HybridflowError], transient: bool
) -> None:
    patience = 3.0 if "slow_seconds" in faults else 60.0
    with acquired(emulator, timeout_seconds=patience) as backend:
        emulator.faults(**faults, only=["start"])
        with pytest.raises(ResourceError) as raised:
            backend.start(batch(), tag=tag())
        assert (type(raised.value), raised.value.transient) == (kind, transient)
        assert is_discreet(raised.value)
        emulator.faults()
        done(backend, backend.start(batch(), tag=tag()))


@pytest.mark.parametrize("fault", ["drop_accepted", "break_accepted"])
def test_a_job_that_was_taken_without_an_answer_is_sent_once_and_found(
    emulator: QpuEmulator, backend: IbmRuntimeBackend, fault: str
) -> None:
    emulator.faults(**{fault: 1})
    before, mark = len(emulator.log()), tag()
    with pytest.raises(BackendLostError, match="may have taken a job"):
        backend.start(batch(), tag=mark)
    (taken,) = emulator.log()[before:]
    assert backend.find(mark) == taken.job


@pytest.mark.parametrize(
    "fault", [{"busy": 1}, {"broken": 1}, {"pages": 1}, {"away_seconds": 30.0}, {"halved": 1}]
)
def test_a_question_that_fails_may_be_asked_again(
    emulator: QpuEmulator, backend: IbmRuntimeBackend, fault: dict[str, Any]
) -> None:
    job_id = backend.start(batch(), tag=tag())
    emulator.faults(**fault, only=["status"])
    with pytest.raises(ResourceError) as raised:
        backend.status(job_id, wait=20)
    assert raised.value.transient
    emulator.faults()
    done(backend, job_id)
    emulator.faults(**fault, only=["result"])
    with pytest.raises(ResourceError) as raised:
        backend.result(job_id)
    assert raised.value.transient
    emulator.faults()
    assert len(backend.result(job_id)) == 1


def test_a_token_that_is_too_old_is_replaced(
    emulator: QpuEmulator, backend: IbmRuntimeBackend
) -> None:
    for question in ("start", "status", "find", "result"):
        emulator.faults(expired=1, only=[question])
        mark = tag()
        job_id = backend.start(batch(), tag=mark)
        done(backend, job_id)
        assert backend.find(mark) == job_id
        assert len(backend.result(job_id)) == 1


def test_a_session_is_gone_on_with_under_another_token(
    emulator: QpuEmulator, console: Console
) -> None:
    with acquired(emulator, mode="session", idle_seconds=30.0) as backend:
        first = backend.start(batch(), tag=tag())
        emulator.faults(expired=1, only=["start"])
        second = backend.start(batch(), tag=tag())
        session = console.session_of(first)
        assert session is not None
        assert console.session_of(second) == session
        done(backend, first)
        done(backend, second)
        emulator.faults(broken=1)  # as it is closed
    assert not console.is_open(session)


def test_a_saved_account_is_enough(emulator: QpuEmulator, tmp_path: Path) -> None:
    file = tmp_path / "accounts.json"
    saved = {"channel": "ibm_quantum_platform", "token": KEY, "instance": CREDENTIALS[_CRN]}
    file.write_text(json.dumps({"mine": saved}))
    options = {"account": "mine", "account_file": str(file)}
    with acquired(emulator, credentials={}, **options) as backend:
        done(backend, backend.start(batch(), tag=tag()))
    saved["token"] = "a-key-that-was-revoked"
    file.write_text(json.dumps({"mine": saved}))
    with pytest.raises(AcquireError) as raised, acquired(emulator, credentials={}, **options):
        pass
    assert "a-key-that-was-revoked" not in str(raised.value)


def test_a_wrong_key_is_refused_and_stands_in_no_text(
    emulator: QpuEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = "a-key-that-was-revoked"
    backend = backend_of(emulator, credentials=CREDENTIALS | {API_KEY: wrong})
    with pytest.raises(AcquireError, match="key could not be found") as raised:
        backend.acquire()
    backend.release()
    assert not raised.value.transient
    assert wrong not in str(raised.value)
    assert wrong not in caplog.text


def test_no_key_at_all_says_where_it_comes_from(emulator: QpuEmulator) -> None:
    backend = backend_of(emulator, credentials={})
    with pytest.raises(NoSlotError, match="hybridflow slot run"):
        backend.acquire()


def test_it_is_offline(emulator: QpuEmulator) -> None:
    emulator.faults(offline=True)
    backend = backend_of(emulator)
    with pytest.raises(AcquireError, match="not operational") as raised:
        backend.acquire()
    backend.release()
    assert raised.value.transient


def test_an_unknown_device_is_refused(emulator: QpuEmulator) -> None:
    backend = backend_of(emulator, device="ibm_nowhere")
    with pytest.raises(AcquireError, match="ibm_nowhere") as raised:
        backend.acquire()
    backend.release()
    assert not raised.value.transient


@pytest.mark.parametrize("question", ["describe", "target"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [({"pages": 1}, "the answer is no JSON"), ({"halved": 1}, "Incomplete"), ({"busy": 1}, "429")],
)
def test_a_device_that_cannot_be_described_now_may_be_later(
    emulator: QpuEmulator, question: str, fault: dict[str, int], said: str
) -> None:
    backend = backend_of(emulator)
    try:
        # The package asks for the list itself, first, and takes silence for an empty one.
        count = 2 if question == "describe" else 1
        emulator.faults(**dict.fromkeys(fault, count), only=[question])
        with pytest.raises(AcquireError, match=said) as raised:
            backend.acquire()
        assert raised.value.transient
        emulator.faults()
        backend.acquire()
    finally:
        backend.release()


@pytest.mark.parametrize("listens", [True, False])
def test_nothing_answers_there(emulator: QpuEmulator, listens: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if not listens:
            silent.close()
        backend = backend_of(emulator, url=url, token_url=url, timeout_seconds=1.0)
        with pytest.raises(AcquireError) as raised:
            backend.acquire()
        backend.release()
        assert raised.value.transient


def test_a_job_fails_with_its_reason(emulator: QpuEmulator, backend: IbmRuntimeBackend) -> None:
    for transient in (False, True):
        emulator.faults(fail_jobs=1, fail_transient=transient)
        job_id = backend.start(batch(), tag=tag())
        status = backend.status(job_id, wait=20)
        assert (status.state, status.transient) == (JobState.FAILED, transient)
        with pytest.raises(VendorJobError, match="as the emulator was told"):
            backend.result(job_id)


def test_a_circuit_that_is_not_isa_is_refused_before_it_is_sent(
    emulator: QpuEmulator, backend: IbmRuntimeBackend
) -> None:
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    foreign = wire.pack_pubs([SamplerPub.coerce(circuit, 5)], [None])
    before = len(emulator.log())
    with pytest.raises(RequestError, match="instruction h"):
        backend.start(Batch(primitive=Primitive.SAMPLER, pubs=foreign), tag=tag())
    assert len(emulator.log()) == before


# --- the package's exceptions --------------------------------------------------------------------


def exceptions_of_the_package() -> Iterator[type[Exception]]:
    for module in pkgutil.walk_packages(qiskit_ibm_runtime.__path__, "qiskit_ibm_runtime."):
        if not module.name.endswith("exceptions"):
            continue
        for _, kind in inspect.getmembers(import_module(module.name), inspect.isclass):
            if issubclass(kind, Exception) and kind.__module__ == module.name:
                yield kind


def test_every_exception_of_the_package_is_mapped() -> None:
    found = set(exceptions_of_the_package())
    assert len(found) > 20
    assert {kind.__name__ for kind in found} <= set(KINDS)


@pytest.mark.parametrize("phase", Phase)
def test_the_packages_text_is_kept_and_a_credential_is_not(phase: Phase) -> None:
    for kind in exceptions_of_the_package():
        error = typed(kind(f"what IBM says of {KEY}"), resource="fez", phase=phase, secrets=[KEY])
        assert kind.__name__ in str(error)
        assert "what IBM says of ***" in str(error)
        assert is_discreet(error)


@pytest.mark.parametrize(
    ("status", "body", "kind", "transient"),
    [
        (400, '{"error": {"code": 3458, "message": "pending"}}', ResourceError, True),
        (400, '{"errors": [{"code": 1012, "message": "concurrent"}]}', ResourceError, True),
        (400, '{"errors": [{"code": 1211, "message": "backend"}]}', RequestError, False),
        (400, "<html>", RequestError, False),
        (413, "[]", TooLargeError, False),
        (403, '{"errors": []}', AcquireError, False),
        (404, "", ResourceError, False),
        (504, "", BackendLostError, True),
    ],
)
def test_a_refusal_is_understood_by_its_status_and_code(
    status: int, body: str, kind: type[HybridflowError], transient: bool
) -> None:
    answer = requests.Response()
    answer.status_code, answer._content = status, body.encode()
    answer.request = requests.Request("POST", "https://quantum.example.org/api/v1/jobs").prepare()
    behind = requests.HTTPError(body, response=answer)
    raised = qiskit_ibm_runtime.exceptions.IBMRuntimeError("Failed to run program")
    raised.__context__ = behind
    error = typed(raised, resource="fez", phase=Phase.STARTING)
    assert (type(error), error.transient) == (kind, transient)


def test_reasons_of_failed_jobs_are_ibms() -> None:
    assert is_transient_reason(9999)
    assert not is_transient_reason(1305)
    assert not is_transient_reason(None)


# --- a broker ------------------------------------------------------------------------------------


def test_a_job_whose_reply_was_lost_is_found_and_paid_once(
    emulator: QpuEmulator, tmp_path: Path
) -> None:
    emulator.faults(drop_accepted=1)
    before = len(emulator.log())
    broker = BrokerProcess(resource_of(emulator, mode="batch"), CREDENTIALS, tmp_path)
    broker.start()
    try:
        with contextlib.closing(connect(broker.socket)) as connection:
            wanted = Request(id=tag(), primitive=Primitive.SAMPLER, pubs=(pub(20),))
            reply = connection.submit(wanted).future.result(60)
    finally:
        broker.kill()
    (paid,) = emulator.log()[before:]
    assert reply.provenance.vendor_job_id == paid.job
    assert (reply.provenance.simulator, reply.provenance.backend) == (False, "ibm_runtime")
    assert reply.provenance.qpu_seconds == paid.qpu_seconds > 0
    assert KEY not in broker.log.read_text()

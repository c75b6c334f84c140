"""Faults of the emulated QPU, and what becomes of requests under them, in a broker's process."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import msgspec
import pytest
import urllib3
from emulated import (
    KEYS,
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
from family import eventually

from hybridflow.backends.emulator.client import Client
from hybridflow.backends.emulator.messages import API_KEY
from hybridflow.broker.base import Connection
from hybridflow.broker.client import connect
from hybridflow.broker.process import BrokerProcess
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    HybridflowError,
    RequestError,
    ResourceError,
    VendorJobError,
)
from hybridflow.records import Batch, JobState, Primitive, Reply
from hybridflow.testing import QpuEmulator, qpu_emulator

FAULT_SECONDS = 3.0
"""How long a fault lasts that does not end by itself: a broker has more patience than a test."""

CREDENTIALS = {API_KEY: KEYS["alice"]}


@pytest.fixture(scope="module", params=[True, False], ids=["tags", "no tags"])
def shared(request: pytest.FixtureRequest) -> Iterator[QpuEmulator]:
    with qpu_emulator("qpu", seconds_per_shot=PER_SHOT, keys=KEYS, tags=request.param) as started:
        yield started


@pytest.fixture
def emulator(shared: QpuEmulator) -> Iterator[QpuEmulator]:
    """The service, without a fault or a running job at the test's end."""
    yield shared
    quieten(shared)


# --- the backend ---------------------------------------------------------------------------------


@pytest.mark.parametrize("transient", [False, True])
def test_a_job_fails(emulator: QpuEmulator, transient: bool) -> None:
    emulator.faults(fail_jobs=1, fail_transient=transient)
    with acquired(emulator) as backend:
        first, second = (backend.start(batch(SHORT), tag=tag()) for _ in range(2))
        status = backend.status(first, wait=20)
        assert (status.state, status.transient) == (JobState.FAILED, transient)
        with pytest.raises(VendorJobError, match="as the emulator was told"):
            backend.result(first)
        assert backend.status(second, wait=20).state is JobState.DONE


def test_it_is_offline(emulator: QpuEmulator) -> None:
    emulator.faults(offline=True)
    backend = backend_of(emulator)
    with pytest.raises(AcquireError, match="offline") as caught:
        backend.acquire()
    assert caught.value.transient
    backend.release()


def test_an_offline_window_ends_by_itself(emulator: QpuEmulator) -> None:
    with acquired(emulator) as backend:
        job_id = backend.start(batch(SHORT), tag=tag())
        emulator.faults(away_seconds=0.5)
        with pytest.raises(ResourceError, match="HTTP status 503") as caught:
            backend.start(batch(SHORT), tag=tag())
        assert caught.value.transient
        assert not isinstance(caught.value, BackendLostError)  # nothing was started
        eventually(lambda: is_done(backend.status, job_id))
        assert len(counts(backend.result(job_id))) > 0


def is_done(ask: Callable[[str], Any], job_id: str) -> bool:
    with contextlib.suppress(ResourceError):
        return ask(job_id).state is JobState.DONE
    return False


def test_answers_are_slow(emulator: QpuEmulator) -> None:
    before = len(emulator.log())
    backend = backend_of(emulator, timeout_seconds=0.2)
    backend.acquire()
    emulator.faults(slow_seconds=600)  # and off again at the end, which is not slow
    questions: list[Callable[[str], Any]] = [backend.find, backend.stop]
    for question in questions:
        with pytest.raises(ResourceError, match="gave no answer") as caught:
            question("whatever")
        assert caught.value.transient
        assert not isinstance(caught.value, BackendLostError)  # nothing was started
    with pytest.raises(BackendLostError):  # which the backend cannot know
        backend.start(batch(SHORT), tag=tag())
    backend.release()
    assert len(emulator.log()) == before


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ({"busy": 1}, ResourceError),
        ({"broken": 1}, BackendLostError),
        ({"break_accepted": 1}, BackendLostError),
        ({"drop_accepted": 1}, BackendLostError),
    ],
    ids=str,
)
def test_what_is_known_of_a_job_that_was_not_accepted_in_order(
    emulator: QpuEmulator, faults: dict[str, Any], error: type[HybridflowError]
) -> None:
    """Whether it may run: not after 429, and nobody knows after 500 or silence."""
    mark, before = tag(), len(emulator.log())
    emulator.faults(**faults, only=["start"])
    with acquired(emulator) as backend:
        with pytest.raises(ResourceError) as caught:
            backend.start(batch(SHORT), tag=mark)
        assert type(caught.value) is error
        assert caught.value.transient
        started = emulator.log()[before:]
        assert len(started) == ("accepted" in next(iter(faults)))
        has_tags = backend.capabilities.tags
        assert backend.find(mark) == (started[0].job if started and has_tags else None)


def test_faults_concern_chosen_questions_alone(emulator: QpuEmulator) -> None:
    with acquired(emulator) as backend:
        job_id = backend.start(batch(SHORT), tag=tag())
        emulator.faults(busy=1, broken=1, only=["usage"])
        assert backend.status(job_id, wait=20).state is JobState.DONE
        for says in ("429", "500"):
            with pytest.raises(ResourceError, match=f"HTTP status {says}") as caught:
                backend.usage(job_id)
            assert caught.value.transient
        assert backend.usage(job_id).shots == SHORT


def test_a_doubled_answer_is_not_taken_for_the_next(emulator: QpuEmulator) -> None:
    with acquired(emulator) as backend:
        emulator.faults(doubled=2, only=["start"])
        first, second = (backend.start(batch(SHORT), tag=tag()) for _ in range(2))
        assert first != second
        assert backend.status(second, wait=20).state is JobState.DONE
        assert {entry_of(emulator, job).shots for job in (first, second)} == {SHORT}


def test_a_stuck_job_keeps_the_device_until_it_is_cancelled(emulator: QpuEmulator) -> None:
    emulator.faults(stuck_jobs=1)
    with acquired(emulator) as backend:
        stuck, waiting = (backend.start(batch(SHORT), tag=tag()) for _ in range(2))
        assert backend.status(waiting, wait=20 * SHORT * PER_SHOT).state is JobState.QUEUED
        assert backend.status(stuck).state is JobState.RUNNING
        backend.stop(stuck)
        assert backend.status(waiting, wait=20).state is JobState.DONE
        assert backend.status(stuck).state is JobState.CANCELLED


def test_results_are_lost(emulator: QpuEmulator) -> None:
    emulator.faults(lose_results=1)
    with acquired(emulator) as backend:
        job_id = backend.start(batch(SHORT), tag=tag())
        assert backend.status(job_id, wait=20).state is JobState.DONE
        with pytest.raises(ResourceError, match="kept no longer") as caught:
            backend.result(job_id)
        assert not caught.value.transient
        assert backend.usage(job_id).shots == SHORT


def test_a_job_is_forgotten(emulator: QpuEmulator) -> None:
    emulator.faults(forget_jobs=1)
    mark = tag()
    with acquired(emulator) as backend:
        job_id = backend.start(batch(SHORT), tag=mark)
        eventually(lambda: entry_of(emulator, job_id).state is JobState.DONE)
        with pytest.raises(ResourceError, match="no job") as caught:
            backend.status(job_id)
        assert not caught.value.transient
        assert backend.find(mark) is None


def test_sizes_are_checked_against_the_circuits(emulator: QpuEmulator) -> None:
    """Who says less than there is would have the device's time for nothing."""
    small = msgspec.structs.replace(pub(SHORT), circuits=2)
    with acquired(emulator) as backend:
        job_id = backend.start(Batch(primitive=Primitive.SAMPLER, pubs=(small,)), tag=tag())
        assert backend.status(job_id, wait=20).state is JobState.FAILED
        with pytest.raises(RequestError, match="says that it executes 2 circuits, and has 1"):
            backend.result(job_id)


# --- who may switch them -------------------------------------------------------------------------


def put_faults(emulator: QpuEmulator, key: str, body: bytes) -> urllib3.BaseHTTPResponse:
    headers = {"Authorization": f"Bearer {key}"}
    with urllib3.PoolManager() as pool:
        return pool.request(
            "PUT", f"{emulator.url}/faults", headers=headers, retries=False, timeout=20, body=body
        )


def test_a_user_switches_no_faults(emulator: QpuEmulator) -> None:
    answer = put_faults(emulator, KEYS["alice"], b'{"offline": true}')
    assert answer.status == 403
    assert "only admins" in answer.json()["message"]
    backend_of(emulator).acquire()


def test_a_user_reads_no_log_but_her_own(emulator: QpuEmulator) -> None:
    with acquired(emulator) as alice, acquired(emulator, user="bob") as bob:
        jobs = {user: user.start(batch(SHORT), tag=tag()) for user in (alice, bob)}
        for user, job_id in jobs.items():
            assert user.status(job_id, wait=20).state is JobState.DONE
    for name, (_, job_id) in zip(("alice", "bob"), jobs.items(), strict=True):
        with contextlib.closing(Client(emulator.url, KEYS[name])) as client:
            log = client.log()
        assert log[-1].job == job_id
        assert {entry.account for entry in log} == {name}
    assert set(jobs.values()) <= {entry.job for entry in emulator.log()}


@pytest.mark.parametrize(
    ("body", "says"),
    [(b'{"offline": 3}', "offline"), (b'{"fail_jobs": -1}', "fail_jobs"), (b"{", "no faults")],
)
def test_bad_faults(emulator: QpuEmulator, body: bytes, says: str) -> None:
    answer = put_faults(emulator, emulator._key, body)
    assert answer.status == 400
    assert says in answer.json()["message"]


# --- through a broker ----------------------------------------------------------------------------


@contextlib.contextmanager
def running(emulator: QpuEmulator, folder: Path) -> Iterator[BrokerProcess]:
    process = BrokerProcess(resource_of(emulator, timeout_seconds=1.0), CREDENTIALS, folder)
    process.start()
    try:
        yield process
    finally:
        process.kill()


@pytest.fixture(scope="module")
def broker(
    shared: QpuEmulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    with running(shared, tmp_path_factory.mktemp("slot")) as process:
        yield process


@pytest.fixture
def connection(broker: BrokerProcess) -> Iterator[Connection]:
    with contextlib.closing(connect(broker.socket)) as opened:
        yield opened


@pytest.mark.parametrize(
    "faults",
    [
        {"busy": 2, "only": ["start"]},
        {"busy": 4, "only": ["status", "result", "usage"]},
        {"broken": 1, "only": ["start"]},
        {"broken": 4, "only": ["status", "result", "usage"]},
        {"doubled": 4, "only": ["start", "status", "usage"]},
        {"slow_seconds": 2.0, "only": ["start"]},
        {"away_seconds": 1.0},
        {"away_seconds": 1.0, "only": ["start"]},
        {"away_seconds": 1.0, "only": ["describe"], "drop_accepted": 1},
        {"drop_accepted": 1},
        {"break_accepted": 1},
        {"drop_results": 2},
        {"fail_jobs": 1},
        {"fail_jobs": 1, "fail_transient": True},
        {"lose_results": 1},
        {"forget_jobs": 1},
    ],
    ids=str,
)
def test_every_request_is_delivered_or_fails_and_none_is_executed_twice(
    emulator: QpuEmulator, connection: Connection, faults: dict[str, Any]
) -> None:
    asked, before = [1, 2, 4], len(emulator.log())
    emulator.faults(**faults)
    futures = [connection.submit(request(shots)).future for shots in asked]
    wait(futures, FAULT_SECONDS)
    emulator.faults()
    delivered = [outcome(future) for future in futures]
    assert all(got in (0, shots) for got, shots in zip(delivered, asked, strict=True))
    eventually(lambda: all(entry.state.final for entry in emulator.log()))
    done = [entry for entry in emulator.log()[before:] if entry.state is JobState.DONE]
    assert sum(delivered) <= sum(entry.shots for entry in done) <= sum(asked)


def outcome(future: Any) -> int:
    """Return the shots that came, or none where an error came that says what happened."""
    error = future.exception(90)
    if error is not None:
        assert isinstance(error, ResourceError)
        assert str(error)
        return 0
    reply: Reply = future.result()
    return sum(counts(reply.results).values())


def test_a_stuck_job_ends_when_nobody_wants_it(
    emulator: QpuEmulator, connection: Connection
) -> None:
    before = len(emulator.log())
    emulator.faults(stuck_jobs=1)
    stuck = connection.submit(request(1))
    eventually(lambda: [entry.state for entry in emulator.log()[before:]] == [JobState.RUNNING])
    assert stuck.cancel()
    assert outcome(stuck.future) == 0
    assert outcome(connection.submit(request(2)).future) == 2
    assert emulator.log()[before].state is JobState.CANCELLED


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slot")  # made with mode 0700


def test_requests_of_a_stuck_job_fail_at_the_broker_s_end(
    emulator: QpuEmulator, folder: Path
) -> None:
    before = len(emulator.log())
    emulator.faults(stuck_jobs=1)
    with running(emulator, folder) as own, contextlib.closing(connect(own.socket)) as connection:
        stuck = connection.submit(request(1)).future
        eventually(lambda: [entry.state for entry in emulator.log()[before:]] == [JobState.RUNNING])
        assert own.drain(0.5)
        error = stuck.exception(20)
        assert isinstance(error, ResourceError)
        assert error.transient

"""The broker's process: real processes, real sockets, and what can happen to them."""

import contextlib
import logging
import os
import select
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq
from device import Device, names
from device import request as named_request
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hybridflow.broker import client as client_module
from hybridflow.broker import line, protocol
from hybridflow.broker.client import SocketConnection, connect
from hybridflow.broker.core import Broker
from hybridflow.broker.line import Line
from hybridflow.broker.place import check_folder, check_path, lock
from hybridflow.broker.process import BrokerProcess, socket_path
from hybridflow.broker.protocol import (
    Ack,
    Again,
    Ask,
    Bye,
    Cancel,
    Failed,
    Finished,
    Hello,
    Later,
    Refused,
    Status,
    Submit,
    Welcome,
)
from hybridflow.broker.reception import Reception
from hybridflow.broker.server import Server
from hybridflow.broker.work import Limits
from hybridflow.errors import (
    AcquireError,
    BrokerLostError,
    RequestCancelledError,
    RequestError,
    SiteError,
    TooLargeError,
)
from hybridflow.events import BrokerStarted, BrokerStopped, read_events
from hybridflow.kernel import process_namespace
from hybridflow.records import (
    ClientInfo,
    JobState,
    PackedPub,
    Primitive,
    Request,
    Resource,
)
from hybridflow.wire import array_from_bytes, pack_pubs


def request(shots: int = 1) -> Request:
    pub = PackedPub(circuit=b"never opened", shots=shots)
    return Request(id=uuid.uuid4().hex, primitive=Primitive.SAMPLER, pubs=(pub,))


def shots_of(reply: Any) -> int:
    return array_from_bytes(reply.results[0].arrays["meas"]).shape[0]


def resource(**options: Any) -> Resource:
    return Resource(name="fake", backend="fake", options={"mode": "null"} | options)


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        select.select([], [], [], 0.01)


def ended(pid: int, seconds: float = 20) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with contextlib.closing(os.fdopen(handle)):
        return bool(select.select([handle], [], [], seconds)[0])


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slot")  # made with mode 0700


@pytest.fixture
def brokers(folder: Path) -> Iterator[Callable[..., BrokerProcess]]:
    made: list[BrokerProcess] = []

    def make(run: Path | None = None, drain_seconds: float = 20, **options: Any) -> BrokerProcess:
        broker = BrokerProcess(resource(**options), {}, folder, run, drain_seconds=drain_seconds)
        made.append(broker)
        broker.start()
        return broker

    yield make
    for broker in made:
        broker.kill()


@pytest.fixture
def connections() -> Iterator[Callable[..., SocketConnection]]:
    made: list[SocketConnection] = []

    def make(path: Path, **options: Any) -> SocketConnection:
        made.append(SocketConnection(path, **options))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


# -- round trips -------------------------------------------------------------------------------


def test_round_trip(brokers: Any, connections: Any) -> None:
    broker = brokers()
    connection = connections(broker.socket)
    description = connection.describe()
    assert (description.resource, description.backend) == ("fake", "fake")
    assert description.target.num_qubits == 12
    ticket = connection.submit(request(shots=7))
    reply = ticket.future.result(10)
    assert shots_of(reply) == 7
    assert reply.provenance.resource == "fake"
    assert ticket.state() is JobState.DONE
    assert not ticket.cancel()


def test_errors_are_typed_and_concern_one_request(brokers: Any, connections: Any) -> None:
    connection = connections(brokers(max_shots=100).socket)
    good, wrong = connection.submit(request(shots=100)), connection.submit(request(shots=101))
    with pytest.raises(TooLargeError, match="101 shots") as caught:
        wrong.future.result(10)
    assert caught.value.resource == "fake"
    assert wrong.state() is JobState.FAILED
    assert shots_of(good.future.result(10)) == 100


MANY = """
import sys, uuid
from pathlib import Path
from threading import Thread
from hybridflow.broker.client import connect
from hybridflow.records import PackedPub, Primitive, Request
from hybridflow.wire import array_from_bytes, pack_pubs

connection = connect(sys.argv[1])
wrong = []

def work(first):
    for shots in range(first, first + 40):
        pub = PackedPub(circuit=b"x" * 100, shots=shots)
        request = Request(id=uuid.uuid4().hex, primitive=Primitive.SAMPLER, pubs=(pub,))
        reply = connection.submit(request).future.result(30)
        if array_from_bytes(reply.results[0].arrays["meas"]).shape[0] != shots:
            wrong.append(shots)

threads = [Thread(target=work, args=(int(sys.argv[2]) + 100 * i,)) for i in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit(len(wrong))
"""


def test_many_clients_in_many_processes_get_their_own_results(brokers: Any) -> None:
    broker = brokers()
    programs = [
        subprocess.Popen([sys.executable, "-c", MANY, str(broker.socket), str(1000 * i + 1)])
        for i in range(3)
    ]
    assert [program.wait(60) for program in programs] == [0, 0, 0]


def test_a_process_has_one_connection_to_a_socket(brokers: Any) -> None:
    broker = brokers()
    connection = connect(broker.socket)
    assert connect(str(broker.socket)) is connection
    connection.close()
    with pytest.raises(BrokerLostError, match="was closed here"):
        connection.submit(request())
    with pytest.raises(BrokerLostError, match="was closed here"):
        connection.describe()
    again = connect(broker.socket)
    assert again is not connection
    assert again.describe().resource == "fake"
    again.close()


def test_closing_fails_what_is_pending(brokers: Any, connections: Any) -> None:
    connection = connections(brokers(seconds_per_job=60).socket)
    ticket = connection.submit(request())
    wait_until(lambda: ticket.state() is JobState.RUNNING)
    connection.close()
    with pytest.raises(BrokerLostError, match="was closed here"):
        ticket.future.result(10)
    assert ticket.state() is JobState.FAILED


def test_cancelling_frees_the_device(brokers: Any, connections: Any) -> None:
    connection = connections(brokers(seconds_per_shot=60).socket)
    running = connection.submit(request())
    wait_until(lambda: running.state() is JobState.RUNNING)
    waiting = connection.submit(request())
    assert waiting.state() is JobState.QUEUED
    for ticket in (waiting, running):
        assert ticket.cancel()
        with pytest.raises(RequestCancelledError):
            ticket.future.result(10)
        assert ticket.state() is JobState.CANCELLED
    instead = connection.submit(request())
    wait_until(lambda: instead.state() is JobState.RUNNING)


def test_the_broker_itself_does_not_import_qiskit() -> None:
    program = (
        "import sys, hybridflow.broker.__main__, hybridflow.broker.embedded, "
        "hybridflow.broker.client; "
        "sys.exit(any(name.startswith(('qiskit', 'numpy')) for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], timeout=30, check=True)


def bell_request() -> Request:
    from qiskit import QuantumCircuit
    from qiskit.primitives.containers.sampler_pub import SamplerPub

    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    pubs = pack_pubs([SamplerPub.coerce(circuit, 100)], [7])
    return Request(id=uuid.uuid4().hex, primitive=Primitive.SAMPLER, pubs=pubs)


def test_aer_has_a_process_of_its_own_and_may_die_there(folder: Path, connections: Any) -> None:
    broker = BrokerProcess(Resource(name="aer", backend="aer"), {}, folder)
    broker.start()
    try:
        connection = connections(broker.socket)
        before = connection.submit(bell_request()).future.result(30)
        (host,) = psutil.Process(broker.pid).children(recursive=True)
        assert "qiskit" in Path(f"/proc/{host.pid}/maps").read_text()
        host.kill()
        after = connection.submit(bell_request()).future.result(30)
        assert after.results == before.results
        (host,) = psutil.Process(broker.pid).children(recursive=True)
        assert "qiskit" not in Path(f"/proc/{broker.pid}/maps").read_text()
        os.kill(broker.pid, signal.SIGKILL)
        host.wait(20)
    finally:
        broker.kill()


# -- the broker dies, or ends --------------------------------------------------------------------


def test_a_broker_that_was_stopped_is_not_waited_for_for_ever(
    brokers: Any, connections: Any
) -> None:
    broker = brokers()
    connection = connections(broker.socket, lost_after=0.5, silent_after=0.5)
    connection.describe()
    os.kill(broker.pid, signal.SIGSTOP)
    stopped = f"process {broker.pid}, was stopped .*CONT"
    with pytest.raises(BrokerLostError, match=stopped) as caught:
        connection.submit(request()).future.result(20)
    assert caught.value.transient
    other = connections(broker.socket, lost_after=0.1)  # it never was there for this one
    with pytest.raises(BrokerLostError, match=stopped):
        other.describe()
    patient = connections(broker.socket, silent_after=0.5)
    waiting = patient.submit(request(shots=3))
    os.kill(broker.pid, signal.SIGCONT)
    assert shots_of(waiting.future.result(20)) == 3
    assert shots_of(connection.submit(request(shots=2)).future.result(20)) == 2


def test_what_is_outstanding_survives_kill_and_restart(
    brokers: Any, connections: Any, folder: Path
) -> None:
    broker = brokers(seconds_per_job=0.3)
    connection = connections(broker.socket)
    tickets = [connection.submit(request(shots=n)) for n in range(1, 6)]
    wait_until(lambda: tickets[0].state() is JobState.RUNNING)
    os.kill(broker.pid, signal.SIGKILL)
    assert broker.wait(10) == -signal.SIGKILL
    assert not broker.is_alive()
    later = connection.submit(request(shots=6))
    assert later.state() is JobState.QUEUED
    broker.restart()
    assert [shots_of(t.future.result(20)) for t in [*tickets, later]] == [1, 2, 3, 4, 5, 6]
    assert broker.drain(5)
    assert not broker.socket.exists()


def test_a_broker_that_stays_dead_fails_what_is_outstanding(brokers: Any, connections: Any) -> None:
    broker = brokers(seconds_per_job=60)
    connection = connections(broker.socket, lost_after=0.5)
    ticket = connection.submit(request())
    wait_until(lambda: ticket.state() is JobState.RUNNING)
    broker.kill()
    with pytest.raises(BrokerLostError, match=r"no broker at .* 0.5 s") as caught:
        ticket.future.result(10)
    assert caught.value.transient
    broker.restart()
    after = connection.submit(request())
    wait_until(lambda: after.state() is JobState.RUNNING)


def test_a_vanished_folder_fails_what_is_outstanding(brokers: Any, connections: Any) -> None:
    broker = brokers(seconds_per_job=60)
    connection = connections(broker.socket)
    ticket = connection.submit(request())
    wait_until(lambda: ticket.state() is JobState.RUNNING)
    broker.kill()
    broker.socket.parent.rename(broker.socket.parent.with_name("gone"))
    with pytest.raises(BrokerLostError, match="the slot has ended"):
        ticket.future.result(10)
    with pytest.raises(BrokerLostError, match="the slot has ended"):
        connect(broker.socket)


def test_what_is_cancelled_while_the_broker_is_dead_is_not_run_by_the_next(
    brokers: Any, connections: Any
) -> None:
    broker = brokers(seconds_per_job=60)
    connection = connections(broker.socket)
    ticket = connection.submit(request())
    wait_until(lambda: ticket.state() is JobState.RUNNING)
    broker.kill()
    assert ticket.cancel()
    broker.restart()
    with pytest.raises(RequestCancelledError):
        ticket.future.result(10)


def test_sigterm_drains(brokers: Any, connections: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    broker = brokers(run=run, seconds_per_job=0.3, max_pubs=1)
    connection = connections(broker.socket)
    tickets = [connection.submit(request(shots=n)) for n in (1, 2, 3)]
    wait_until(lambda: tickets[0].state() is JobState.RUNNING)
    os.kill(broker.pid, signal.SIGTERM)
    assert [shots_of(ticket.future.result(10)) for ticket in tickets] == [1, 2, 3]
    assert broker.wait(10) == 0
    assert not broker.socket.exists()
    kinds = [type(event) for event in read_events(run)]
    assert (kinds[0], kinds[-1], len(kinds)) == (BrokerStarted, BrokerStopped, 8)


def test_a_draining_broker_takes_nothing_more(brokers: Any, connections: Any) -> None:
    broker = brokers(seconds_per_job=60, drain_seconds=1)
    connection = connections(broker.socket)
    running = connection.submit(request())
    wait_until(lambda: running.state() is JobState.RUNNING)
    os.kill(broker.pid, signal.SIGTERM)
    wait_until(lambda: bool(connection.submit(request()).future.exception(10)))
    with pytest.raises(BrokerLostError, match="stop") as caught:
        running.future.result(10)
    assert caught.value.transient
    assert broker.wait(10) == 0


def test_the_door_says_how_long_draining_may_last(brokers: Any, connections: Any) -> None:
    broker = brokers(seconds_per_job=60)
    connection = connections(broker.socket)
    tickets = [connection.submit(request(shots=n)) for n in (1, 2)]
    wait_until(lambda: tickets[0].state() is JobState.RUNNING)
    begun = time.monotonic()
    assert broker.drain(0.2)
    assert time.monotonic() - begun < 10
    for ticket in tickets:
        with pytest.raises(BrokerLostError):
            ticket.future.result(10)
    assert broker.wait() == 0
    assert broker.drain(0.2)


def test_an_interrupt_from_the_terminal_does_not_reach_it(brokers: Any, connections: Any) -> None:
    broker = brokers()
    assert os.getsid(broker.pid) == broker.pid
    os.kill(broker.pid, signal.SIGINT)
    connections(broker.socket).submit(request()).future.result(10)
    assert broker.is_alive()


DOOR = """
import sys, time
from hybridflow.broker.process import BrokerProcess
from hybridflow.records import Resource
resource = Resource(name="fake", backend="fake", options={"mode": "null"})
broker = BrokerProcess(resource, {}, sys.argv[1])
broker.start()
print(broker.pid, flush=True)
time.sleep(600)
"""


def test_the_broker_ends_when_its_door_is_killed(folder: Path) -> None:
    door = subprocess.Popen(
        [sys.executable, "-c", DOOR, str(folder)], stdout=subprocess.PIPE, text=True
    )
    with door:
        assert door.stdout is not None
        pid = int(door.stdout.readline())
        assert not ended(pid, 0)
        door.kill()
    assert ended(pid)
    wait_until(lambda: not socket_path(folder, "fake").exists())


def test_the_end_of_the_thread_that_started_it_is_not_its_end(
    folder: Path, connections: Any
) -> None:
    broker = BrokerProcess(resource(), {}, folder)
    thread = threading.Thread(target=broker.start)
    thread.start()
    thread.join(30)
    try:
        # The kernel has told the broker by now that its parent, the thread, has ended.
        connections(broker.socket).submit(request()).future.result(10)
        assert broker.is_alive()
    finally:
        broker.kill()


# -- the place -----------------------------------------------------------------------------------


def test_the_socket_is_private_and_a_stale_one_is_replaced(brokers: Any, connections: Any) -> None:
    broker = brokers()
    assert stat.S_IMODE(broker.socket.stat().st_mode) == 0o600
    broker.kill()
    assert broker.socket.exists()
    broker.restart()
    connections(broker.socket).submit(request()).future.result(10)
    assert broker.drain(5)
    assert not broker.socket.exists()


def test_two_brokers_do_not_share_a_socket(brokers: Any, folder: Path, connections: Any) -> None:
    broker = brokers()
    with pytest.raises(AcquireError, match="another broker serves"):
        BrokerProcess(resource(), {}, folder).start()
    with pytest.raises(RuntimeError, match="already running"):
        broker.start()
    connections(broker.socket).submit(request()).future.result(10)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o500])
def test_a_folder_with_another_mode_is_refused(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(SiteError, match=f"mode {mode:04o}.*0700"):
        BrokerProcess(resource(), {}, folder).start()
    with pytest.raises(SiteError, match=f"mode {mode:04o}.*0700"):
        connect(socket_path(folder, "fake"))


def test_a_folder_that_is_none_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BrokerLostError, match="does not exist"):
        connect(socket_path(folder / "missing", "fake"))
    link = folder / "link"
    link.symlink_to(folder)
    with pytest.raises(SiteError, match="no folder"):
        check_folder(link)
    file = folder / "file"
    file.touch(0o700)
    with pytest.raises(SiteError, match="no folder"):
        check_folder(file)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(SiteError, match="belongs to user"):
        check_folder(folder)


def test_a_path_that_is_too_long_for_a_socket_is_refused(folder: Path) -> None:
    check_path(Path("/" + "x" * 106))
    with pytest.raises(SiteError, match="108 bytes"):
        check_path(Path("/" + "ü" * 53 + "x"))
    deep = folder / ("x" * 100)
    deep.mkdir(mode=0o700)
    with pytest.raises(SiteError, match="107"):
        BrokerProcess(resource(), {}, deep).start()
    with pytest.raises(SiteError, match="107"):
        connect(socket_path(deep, "fake"))


def test_a_lock_is_held_once(folder: Path) -> None:
    held = lock(folder / "a.sock")
    with pytest.raises(AcquireError):
        lock(folder / "a.sock")
    os.close(held)
    os.close(lock(folder / "a.sock"))


# -- starting ------------------------------------------------------------------------------------


def test_the_starter_gets_the_backends_error(folder: Path) -> None:
    broker = BrokerProcess(resource(refuse_acquires=1), {}, folder)
    with pytest.raises(AcquireError, match="acquisition 1 is refused") as caught:
        broker.start()
    assert caught.value.transient
    assert not broker.is_alive()
    assert not broker.socket.exists()


def test_a_broker_that_dies_while_it_starts_is_reported_with_its_log(folder: Path) -> None:
    wrong = Resource(name="fake", backend="no-such-backend")
    with pytest.raises(SiteError, match="no-such-backend"):
        BrokerProcess(wrong, {}, folder).start()


def test_started_by_hand_it_says_what_is_missing() -> None:
    program = subprocess.run(
        [sys.executable, "-m", "hybridflow.broker"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert program.returncode == 2
    assert "hybridflow slot run" in program.stdout


def test_credentials_stand_nowhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "s3cr3t-" + uuid.uuid4().hex
    monkeypatch.setenv("fake_QRMI_IBM_QCS_IAM_APIKEY", secret)
    broker = BrokerProcess(resource(), {"QRMI_IBM_QCS_IAM_APIKEY": secret}, folder)
    broker.start()
    try:
        process = Path(f"/proc/{broker.pid}")
        seen = process.joinpath("cmdline").read_bytes() + process.joinpath("environ").read_bytes()
        assert b"hybridflow.broker" in seen
        assert secret.encode() not in seen
        assert secret not in repr(broker)
        assert broker.drain(5)
    finally:
        broker.kill()
    for file in folder.iterdir():
        assert secret not in file.read_text()


def test_a_log_line_hides_credentials() -> None:
    from hybridflow.broker.__main__ import _Redacted

    secrets = ["k3y-value", "ab", "line-end\n", "two\r\nlines ", "k3y-value-and-more"]
    text = f"key k3y-value of ab: {secrets[2]!r}, {secrets[3]!r}, {secrets[4]}"
    record = logging.makeLogRecord({"msg": text})
    shown = r"key *** of ab: '***\n', 'two\r\n*** ', ***"
    assert _Redacted(secrets).format(record).endswith(shown)


def test_a_broker_with_credentials_cannot_be_dumped() -> None:
    program = (
        "import ctypes; from hybridflow.kernel import forbid_dumps; forbid_dumps(); "
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=30, check=True
    )
    assert out.stdout.strip() == b"0"


# -- clients' processes ----------------------------------------------------------------------------

FORKING = """
import os, sys, uuid
from hybridflow.broker.client import connect
from hybridflow.errors import BrokerLostError
from hybridflow.records import PackedPub, Primitive, Request

def request():
    pub = PackedPub(circuit=b"x", shots=1)
    return Request(id=uuid.uuid4().hex, primitive=Primitive.SAMPLER, pubs=(pub,))

connection = connect(sys.argv[1])
ticket = connection.submit(request())
child = os.fork()
if not child:
    code = 1
    try:
        for forbidden in (
            ticket.future.result, ticket.cancel, lambda: connection.submit(request()),
            connection.describe,
        ):
            try:
                forbidden()
            except BrokerLostError as error:
                assert str(os.getpid()) in str(error)
            else:
                raise AssertionError(forbidden)
        own = connect(sys.argv[1])
        assert own is not connection
        connection.close()
        own.submit(request()).future.result(20)
        own.close()
        code = 0
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
ticket.future.result(20)
connection.submit(request()).future.result(20)
assert connect(sys.argv[1]) is connection
"""


def test_a_forked_child_makes_a_connection_of_its_own(brokers: Any) -> None:
    # The job lasts long enough to be pending in the child.
    broker = brokers(seconds_per_job=0.5)
    subprocess.run([sys.executable, "-c", FORKING, str(broker.socket)], timeout=60, check=True)


ENDING = """
import sys
from hybridflow.broker.client import connect
from hybridflow.records import PackedPub, Primitive, Request
pub = PackedPub(circuit=b"x", shots=1)
ticket = connect(sys.argv[1]).submit(Request(id="r", primitive=Primitive.SAMPLER, pubs=(pub,)))
while ticket.state() != "running":
    pass
print("running", flush=True)
if sys.argv[2] == "stay":
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["exit", "stay"])
def test_what_an_ended_client_wanted_is_dropped(brokers: Any, connections: Any, how: str) -> None:
    broker = brokers(seconds_per_shot=60)
    begun = time.monotonic()
    program = subprocess.Popen(
        [sys.executable, "-c", ENDING, str(broker.socket), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "running\n"
        connection = connections(broker.socket)
        ticket = connection.submit(request())
        assert ticket.state() is JobState.QUEUED
        if how == "stay":
            program.kill()
        assert program.wait(20) == (-signal.SIGKILL if how == "stay" else 0)
    wait_until(lambda: ticket.state() is JobState.RUNNING)
    assert time.monotonic() - begun < 30


# -- the server, message by message ------------------------------------------------------------


class Peer:
    """A client that says what it is told to."""

    def __init__(self, path: Path) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{path}")

    def say(self, *messages: Any) -> None:
        for message in messages:
            self._socket.send(message if isinstance(message, bytes) else protocol.encode(message))

    def say_parts(self, *parts: bytes) -> None:
        self._socket.send_multipart(parts)

    def hear(self) -> Any:
        assert self._socket.poll(10_000), "no answer"
        return protocol.read_broker(self._socket.recv())

    def hello(self) -> Welcome:
        self.say(Hello(protocol.VERSION, ClientInfo(pid=os.getpid())))
        answer = self.hear()
        assert isinstance(answer, Welcome)
        return answer

    def state(self, request_id: str) -> JobState | None:
        self.say(Ask(request_id))
        answer = self.hear()
        assert isinstance(answer, Status)
        return answer.state

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class Served:
    """A server in a thread of this process, in front of a device that does as it is told."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.device = Device()
        limits = options.pop("limits", None)
        self.server = Server(path, **options)
        self.server.bind()
        self.broker = Broker(
            Resource(name="dev", backend="device"),
            self.device,
            limits=limits,
            on_end=self.server.broker_ended,
        )
        assert self.server.await_broker(self.broker.begin())
        self.thread = threading.Thread(target=self.server.serve, args=(self.broker,))
        self.thread.start()
        self.peer = Peer(path)

    def close(self) -> None:
        self.device.gate.set()
        self.server.drain(5)
        self.thread.join(10)
        assert not self.thread.is_alive()
        assert self.broker.join(10)
        self.server.close()
        self.peer.close()


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def make(**options: Any) -> Served:
        made.append(Served(folder / "dev.sock", **options))
        return made[-1]

    yield make
    for served in made:
        served.close()


@pytest.fixture
def served_once(serve: Any) -> Served:
    served: Served = serve()
    served.peer.hello()
    return served


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xc1" * 1000,
        b"\x91" * 100_000,
        b"\x81\xa4type\xa6Submit",
        b"\x82\xa4type\xa5Hello\xa7version\xa3one",
        protocol.encode(Status("r", None)),
    ],
)
def test_garbage_is_answered_and_does_no_harm(serve: Any, garbage: bytes) -> None:
    served = serve()
    peer = served.peer
    for known in (False, True):
        if known:
            peer.hello()
        peer.say(garbage)
        answer = peer.hear()
        assert isinstance(answer, Failed)
        assert answer.id is None
        assert answer.error.kind == "RequestError"
    peer.say(Submit(named_request("a")))
    assert isinstance(peer.hear(), Finished)


def test_a_message_of_several_parts_is_refused(serve: Any) -> None:
    peer = serve().peer
    peer.say_parts(b"one", b"two")
    answer = peer.hear()
    assert isinstance(answer, Failed)
    assert "1 part, not 2" in answer.error.message


def test_a_message_that_is_too_large_is_refused(serve: Any, folder: Path) -> None:
    served = serve(max_message_bytes=10_000)
    peer = served.peer
    peer.hello()
    peer.say(Submit(named_request("a", size=12_000)))
    answer = peer.hear()
    assert isinstance(answer, Failed)
    assert answer.error.kind == "TooLargeError"
    # Far too large: the connection is cut before the message is in memory; others are served on.
    peer.say(b"x" * 1_000_000)
    other = Peer(folder / "dev.sock")
    other.hello()
    other.say(Submit(named_request("b")))
    assert isinstance(other.hear(), Finished)
    other.close()


def test_a_client_refuses_what_no_broker_would_take(
    serve: Any, connections: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    monkeypatch.setattr(client_module, "MAX_MESSAGE_BYTES", 1000)
    with pytest.raises(TooLargeError, match="split"):
        connections(folder / "dev.sock").submit(named_request("a", size=1000))


def test_the_first_message_has_to_be_hello(serve: Any) -> None:
    peer = serve().peer
    for message in (Submit(named_request("a")), Ask("a"), Ack(("a",)), Cancel("a"), Bye()):
        peer.say(message)
        answer = peer.hear()
        assert isinstance(answer, Failed)
        assert "Hello" in answer.error.message


def test_another_version_is_refused(
    serve: Any, connections: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = serve().peer
    peer.say(Hello(99, ClientInfo()))
    answer = peer.hear()
    assert isinstance(answer, Refused)
    assert "version 99" in answer.error.message


def test_a_refused_client_says_so_to_all_who_wait(
    serve: Any, connections: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()

    def hello(version: int, *fields: Any) -> Hello:
        return Hello(version + 1, *fields)

    monkeypatch.setattr(line, "Hello", hello)
    connection = connections(folder / "dev.sock")
    with pytest.raises(RequestError, match="same installation"):
        connection.describe()
    with pytest.raises(RequestError, match="same installation"):
        connection.submit(named_request("a"))


def test_a_broker_that_is_busy_is_not_away(
    serve: Any, connections: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may work on something for longer than it has for a sign of life."""
    serve()
    lines: list[int] = []
    welcome, take = Line._follow, Reception.take

    def follow(line: Line, *args: Any) -> None:
        lines.append(id(line))
        welcome(line, *args)

    def take_its_time(reception: Reception, identity: bytes, message: Any) -> None:
        if isinstance(message, Submit):
            time.sleep(1.0)
        take(reception, identity, message)

    monkeypatch.setattr(Line, "_follow", follow)
    monkeypatch.setattr(Reception, "take", take_its_time)
    connection = connections(folder / "dev.sock", silent_after=0.3)
    assert connection.submit(named_request("a")).future.result(20)
    assert len(lines) == 1  # it was connected once


LEAVING = """
import os, sys
import zmq
from hybridflow.broker import protocol
from hybridflow.kernel import process_namespace
from hybridflow.records import ClientInfo
context = zmq.Context()
dealer = context.socket(zmq.DEALER)
dealer.connect("ipc://" + sys.argv[1])
info = ClientInfo(pid=os.getpid())
dealer.send(protocol.encode(protocol.Hello(protocol.VERSION, info, process_namespace())))
assert isinstance(protocol.read_broker(dealer.recv()), protocol.Welcome)
print("welcome", flush=True)
sys.stdin.read()
if sys.argv[2] == "bye":
    dealer.send(protocol.encode(protocol.Bye()))
context.destroy(1000)
"""


@pytest.mark.parametrize("last_word", ["bye", ""])
def test_a_goodbye_is_heard_though_its_process_has_ended_meanwhile(
    serve: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, last_word: str
) -> None:
    """What a process that died was given is free; what one that left was given is its own."""
    served = serve()
    died: list[int] = []
    busy, go_on, take = threading.Event(), threading.Event(), Reception.take

    def take_its_time(reception: Reception, identity: bytes, message: Any) -> None:
        if isinstance(message, Ask):
            busy.set()
            assert go_on.wait(20)
        take(reception, identity, message)

    monkeypatch.setattr(Reception, "take", take_its_time)
    monkeypatch.setattr(served.broker, "part", lambda client: died.append(client.pid))
    served.peer.hello()
    with subprocess.Popen(
        [sys.executable, "-c", LEAVING, str(folder / "dev.sock"), last_word],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "welcome\n"
        served.peer.say(Ask("r"))
        assert busy.wait(20)
        program.communicate(timeout=20)
    served.peer.say(Ask("s"))
    go_on.set()
    assert [isinstance(served.peer.hear(), Status) for _ in range(2)] == [True, True]
    assert died == ([] if last_word else [program.pid])


def test_an_id_runs_once(serve: Any) -> None:
    served = serve()
    peer = served.peer
    peer.hello()
    held = named_request("hold")
    peer.say(Submit(held), Submit(held))
    assert served.device.started.acquire(timeout=10)
    assert peer.state(held.id) is JobState.RUNNING
    peer.say(Submit(held))
    peer.hello()
    served.device.gate.set()
    first = peer.hear()
    assert isinstance(first, Finished)
    # Not acknowledged: whoever asks again gets it again.
    peer.say(Submit(held))
    assert peer.hear() == first
    assert peer.state(held.id) is JobState.DONE
    peer.say(Ack((held.id, "unknown")))
    assert peer.state(held.id) is None
    assert len(served.device.batches) == 1


# -- a full queue ------------------------------------------------------------------------------

NARROW = Limits(queue_bytes=1000)


def test_a_request_without_room_is_called_in_when_there_is_some(serve: Any) -> None:
    served = serve(limits=NARROW)
    peer = served.peer
    peer.hello()
    held, first, second = (
        named_request("hold"),
        named_request("a", size=900),
        named_request("b", size=500),
    )
    small = named_request("c")
    peer.say(Submit(held), Submit(first), Submit(second), Submit(small))
    assert [peer.hear(), peer.hear()] == [Later(second.id), Later(small.id)]
    served.device.gate.set()
    heard = [peer.hear() for _ in range(4)]
    assert {type(one) for one in heard} == {Finished, Again}
    called = [one.id for one in heard if isinstance(one, Again)]
    assert called == [second.id, small.id]
    peer.say(Submit(second), Submit(small))
    assert {peer.hear().id, peer.hear().id} == set(called)


def test_a_request_outside_can_be_cancelled_and_its_clients_end_lets_others_in(
    serve: Any, folder: Path
) -> None:
    served = serve(limits=NARROW)
    one, other = served.peer, Peer(folder / "dev.sock")
    one.hello()
    other.hello()
    mine = [
        named_request("hold"),
        named_request("a", size=900),
        named_request("b", size=900),
        named_request("c", size=90),
    ]
    one.say(*map(Submit, mine))
    assert [one.hear(), one.hear()] == [Later(mine[2].id), Later(mine[3].id)]
    theirs = named_request("d", size=90)
    other.say(Submit(theirs))
    assert other.hear() == Later(theirs.id)
    one.say(Cancel(mine[2].id))
    answer = one.hear()
    assert isinstance(answer, Failed)
    assert isinstance(answer.error.error(), RequestCancelledError)
    assert one.hear() == Again(mine[3].id)  # it is small enough, and nobody stands before it now
    one.say(Bye())
    assert other.hear() == Again(theirs.id)
    other.close()


def test_a_client_with_more_than_fits_gets_all_of_it(
    serve: Any, connections: Any, folder: Path
) -> None:
    serve(limits=NARROW)
    connection = connections(folder / "dev.sock")
    tickets = [connection.submit(named_request(f"c{i}", size=300)) for i in range(60)]
    assert [names(ticket.future) for ticket in tickets] == [[f"c{i}"] for i in range(60)]


def test_a_failure_is_kept_as_a_result_is(serve: Any) -> None:
    served = serve()
    peer = served.peer
    peer.hello()
    bad = named_request("bad")
    peer.say(Submit(bad))
    first = peer.hear()
    assert isinstance(first, Failed)
    peer.say(Submit(bad))
    assert peer.hear() == first
    assert peer.state(bad.id) is JobState.FAILED
    assert len(served.device.batches) == 1


def test_clients_do_not_see_each_others_requests(serve: Any, folder: Path) -> None:
    served = serve()
    served.peer.hello()
    other = Peer(folder / "dev.sock")
    other.hello()
    one = named_request("a")
    served.peer.say(Submit(one))
    assert isinstance(served.peer.hear(), Finished)
    assert other.state(one.id) is None
    other.say(Submit(named_request("b")))
    answer = other.hear()
    assert isinstance(answer, Finished)
    assert answer.reply.results[0].arrays["of"] == b"b"
    other.close()


def test_outcomes_that_nobody_fetches_are_bounded(serve: Any) -> None:
    served = serve(kept_bytes=3000)
    peer = served.peer
    peer.hello()
    requests = [named_request(f"c{i}", size=1000) for i in range(5)]
    for one in requests:
        peer.say(Submit(one))
        assert isinstance(peer.hear(), Finished)
    peer.say(Submit(requests[0]))
    answer = peer.hear()
    assert isinstance(answer, Failed)
    assert answer.error.transient
    assert "dropped" in answer.error.message
    peer.say(Submit(requests[-1]))
    assert isinstance(peer.hear(), Finished)
    assert len(served.device.batches) == 5


def test_a_client_that_says_goodbye_wants_nothing_more(serve: Any) -> None:
    served = serve()
    peer = served.peer
    peer.hello()
    peer.say(Submit(named_request("hold")))
    assert served.device.started.acquire(timeout=10)
    peer.say(Bye())
    wait_until(lambda: served.device.stopped == ["job-1"])
    peer.hello()
    peer.say(Submit(named_request("a")))
    assert isinstance(peer.hear(), Finished)


def test_a_dead_client_of_another_process_namespace_is_not_guessed_at(serve: Any) -> None:
    served = serve()
    peer = served.peer
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    peer.say(Hello(protocol.VERSION, ClientInfo(pid=child.pid), namespace=1))
    assert isinstance(peer.hear(), Welcome)
    peer.say(Submit(named_request("a")))
    assert isinstance(peer.hear(), Finished)


def test_a_broker_that_gives_up_ends_the_server(serve: Any, connections: Any, folder: Path) -> None:
    served = serve()

    def acquire() -> None:
        raise AcquireError("the licence has expired")

    served.device.acquire = acquire
    connection = connections(folder / "dev.sock")
    ticket = connection.submit(named_request("crash"))
    error = ticket.future.exception(20)
    assert error is not None
    served.thread.join(10)
    assert not served.thread.is_alive()
    assert served.broker.error is not None
    assert "licence" in str(served.broker.error)


@pytest.mark.parametrize("pid", [-1, 0, 2**22 + 1, 2**40, 2**63])
def test_a_client_with_an_impossible_pid_is_served(serve: Any, pid: int) -> None:
    peer = serve().peer
    peer.say(Hello(protocol.VERSION, ClientInfo(pid=pid), process_namespace()))
    assert isinstance(peer.hear(), Welcome)
    peer.say(Submit(named_request("a")))
    assert isinstance(peer.hear(), Finished)


_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
_number = st.just(1) | st.integers(-(2**63), 2**64 - 1) | st.none()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example({"level": {1: 2}}, (1, None, 1), None, Primitive.SAMPLER, 1)
@given(
    options=st.dictionaries(st.sampled_from(["level", "speed"]), _plain, max_size=2),
    numbers=st.tuples(_number, _number, _number),
    precision=st.none() | st.floats(),
    primitive=st.sampled_from(Primitive),
    cut=st.integers(0, 30),
)
def test_no_message_ends_the_server(
    served_once: Served,
    options: dict[str, Any],
    numbers: tuple[int | None, int | None, int | None],
    precision: float | None,
    primitive: Primitive,
    cut: int,
) -> None:
    shots, seed, circuits = numbers
    pub: dict[str, Any] = {"circuit": b"a", "shots": shots, "seed": seed}
    pub |= {"precision": precision, "observables": b"[]", "circuits": circuits}
    request = {"id": uuid.uuid4().hex, "primitive": primitive, "pubs": [pub], "options": options}
    data = msgspec.msgpack.encode({"type": "Submit", "request": request})
    peer = served_once.peer
    peer.say(data if cut else data[:-1])
    answer = peer.hear()
    assert isinstance(answer, Finished | Failed)
    assert isinstance(answer, Finished) or answer.error.kind != "InternalError"
    assert served_once.thread.is_alive()


def test_frames_of_a_pipe_may_come_in_pieces() -> None:
    data = protocol.frame(protocol.Drain(1.0)) + protocol.frame(protocol.Drain(2.0))
    buffer, found = bytearray(), []
    for byte in data:
        buffer.append(byte)
        found += protocol.frames(buffer)
    assert found == [protocol.Drain(1.0), protocol.Drain(2.0)]
    assert not buffer


def test_names_come_back_in_order(serve: Any, connections: Any, folder: Path) -> None:
    serve()
    ticket = connections(folder / "dev.sock").submit(named_request("a", "b", "c"))
    assert names(ticket.future) == ["a", "b", "c"]

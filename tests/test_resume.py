"""A run goes on after anything was killed; the vendor counts that nothing was paid for twice."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from emulated import bell, quieten, resource_of
from family import eventually
from ledger_child import Answers
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import environment, wire
from hybridflow.backends import open_backend
from hybridflow.broker.core import Broker
from hybridflow.broker.ledger.journal import LedgerJournal
from hybridflow.broker.ledger.owner import this_process
from hybridflow.broker.ledger.reader import Reader
from hybridflow.broker.ledger.steps import Intended, Started
from hybridflow.broker.protocol import Failed, Finished
from hybridflow.primitives.structure import structure
from hybridflow.records import ClientInfo, JobState, Primitive, Reply, Request, Resource
from hybridflow.testing import QpuEmulator, qpu_emulator

SHOTS = (11, 12, 13)
SECONDS = 120


@pytest.fixture(scope="module")
def emulator() -> Iterator[QpuEmulator]:
    with qpu_emulator("qpu", seconds_per_job=0.05) as running:
        yield running


@pytest.fixture(scope="module")
def untagged() -> Iterator[QpuEmulator]:
    with qpu_emulator("qpu", seconds_per_job=0.05, tags=False) as running:
        yield running


@pytest.fixture(scope="module")
def slow() -> Iterator[QpuEmulator]:
    with qpu_emulator("qpu", seconds_per_job=1.0) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_faults(emulator: QpuEmulator) -> Iterator[None]:
    yield
    quieten(emulator)


class Child:
    """See ``ledger_child.py``."""

    def __init__(
        self,
        run: Path,
        resource: Resource,
        requests: Sequence[Request],
        kill: tuple[str, int, str] = ("", 0, ""),
    ) -> None:
        self._killed = bool(kill[0])
        run.mkdir(exist_ok=True)
        script = str(Path(__file__).with_name("ledger_child.py"))
        self._log = (run / "child.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, script, str(run), *map(str, kill)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.msgpack.encode((resource, list(requests))))
        self._process.stdin.close()

    def answers(self) -> Answers:
        assert self._process.stdout is not None
        with self._process, self._log, killed_late(self._process):
            data = self._process.stdout.read()
            status = self._process.wait(SECONDS)
        assert status == (-signal.SIGKILL if self._killed else 0)
        return msgspec.msgpack.decode(data, type=Answers) if data else []


@contextlib.contextmanager
def killed_late(process: "subprocess.Popen[Any]") -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()


def request(shots: int, **options: Any) -> Request:
    client = ClientInfo(host=os.uname().nodename, pid=os.getpid(), attempt=uuid.uuid4().hex)
    return Request(
        id=uuid.uuid4().hex,
        primitive=Primitive.SAMPLER,
        pubs=wire.pack_pubs([SamplerPub.coerce(bell(), shots)], [None], structure),
        client=client,
        **options,
    )


def executed(emulator: QpuEmulator, run: Path) -> list[int]:
    """Return the shots of the vendor jobs of a run that were executed, as the vendor has them."""
    tags = {step.tag for step in steps_of(run, Intended)}
    return sorted(
        entry.shots
        for entry in emulator.log()
        if entry.tag in tags and entry.state is JobState.DONE
    )


def steps_of(run: Path, kind: type[Any]) -> list[Any]:
    return [step for _, step in Reader(run / "ledger").news() if isinstance(step, kind)]


def started(run: Path) -> list[Any]:
    return steps_of(run, Started)


@pytest.mark.parametrize(
    ("number", "steps"),
    [
        (1, ("admit", "intend", "started", "stored", "delivered", "close")),
        (2, ("intend", "started", "stored")),
    ],
)
def test_a_broker_killed_at_any_step_pays_for_nothing_twice(
    emulator: QpuEmulator, tmp_path: Path, number: int, steps: Sequence[str]
) -> None:
    resource = resource_of(emulator)
    kills = [(step, number, moment) for step in steps for moment in ("before", "after")]
    runs = [tmp_path / f"{step}-{moment}" for step, _, moment in kills]
    killed = [
        Child(run, resource, [*map(request, SHOTS)], kill)
        for run, kill in zip(runs, kills, strict=True)
    ]
    for child in killed:
        assert child.answers() == []
    resumed = [Child(run, resource, [*map(request, SHOTS)]) for run in runs]
    for child, run in zip(resumed, runs, strict=True):
        answers = child.answers()
        assert [type(answer) for answer in answers] == [Finished] * 3, run
        assert executed(emulator, run) == [*SHOTS], run
    # What is stored is not even asked for.
    assert len(Child(runs[0], resource, [*map(request, SHOTS)]).answers()) == 3
    assert executed(emulator, runs[0]) == [*SHOTS]


@pytest.mark.parametrize("rule", ["ask", "repeat"])
def test_without_tags_a_lost_id_is_uncertain(
    untagged: QpuEmulator, tmp_path: Path, rule: Any
) -> None:
    resource = msgspec.structs.replace(resource_of(untagged), on_uncertain=rule)
    killed = Child(tmp_path, resource, [request(21)], ("started", 1, "before"))
    assert killed.answers() == []
    (answer,) = Child(tmp_path, resource, [request(21)]).answers()
    if rule == "repeat":
        assert isinstance(answer, Finished)
        assert executed(untagged, tmp_path) == [21, 21]
        return
    assert isinstance(answer, Failed)
    assert answer.error.kind == "UncertainError"
    assert not answer.error.transient
    assert executed(untagged, tmp_path) == [21]


def test_a_run_folder_that_is_gone_for_a_while_costs_nothing_twice(
    slow: QpuEmulator, tmp_path: Path
) -> None:
    run, away = tmp_path / "run", tmp_path / "away"
    run.mkdir()
    with broker_of(run, resource_of(slow)) as ask:
        first = ask(request(31))
        eventually(lambda: len(started(run)) == 1)
        run.rename(away)
        assert isinstance(first.result(SECONDS), Reply)
        assert isinstance(ask(request(32)).result(SECONDS), Reply)  # its file is open
        away.rename(run)
    with broker_of(run, resource_of(slow)) as ask:
        for shots in (31, 32):
            assert isinstance(ask(request(shots)).result(SECONDS), Reply)
    assert executed(slow, run) == [31, 32]


@contextlib.contextmanager
def broker_of(run: Path, resource: Resource) -> "Iterator[Callable[[Request], Future[Any]]]":
    """Give what asks a broker in this process, which is a session of its own."""
    name = uuid.uuid4().hex
    journal = LedgerJournal(run, resource, this_process(name, name, {}))
    broker = Broker(resource, open_backend(resource, {}), journal=journal)
    broker.start()

    def ask(asked: Request) -> "Future[Any]":
        outcome: Future[Any] = Future()
        broker.submit(asked, outcome.set_result)
        return outcome

    yield ask
    broker.drain(10)
    assert broker.join(SECONDS)


PROGRAM = """
import sys
from retry_tasks import measure
print(*(measure(shots) for shots in (41, 42)), flush=True)
"""


@contextlib.contextmanager
def slot(run: Path, emulator: QpuEmulator) -> "Iterator[subprocess.Popen[str]]":
    """Start a program in a slot that samples twice and says which vendor jobs it was."""
    site = run / "site.toml"
    site.write_text(emulator.site)
    command = [sys.executable, "-m", "hybridflow", "slot", "run", "--site", str(site), "--"]
    variables = {environment.RUN: str(run), "PYTHONPATH": str(Path(__file__).parent)}
    with (
        subprocess.Popen(
            [*command, sys.executable, "-c", PROGRAM],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            text=True,
        ) as door,
        killed_late(door),
    ):
        yield door


def words_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):  # it has just ended
        return " ".join(process.cmdline())
    return ""


@pytest.mark.parametrize("victim", ["hybridflow.broker", "retry_tasks", "door"])
def test_a_slot_whose_processes_are_killed_pays_for_nothing_twice(
    slow: QpuEmulator, tmp_path: Path, victim: str
) -> None:
    already = len(slow.log())
    with slot(tmp_path, slow) as door:
        eventually(lambda: len(started(tmp_path)) == 1, SECONDS)
        everyone = psutil.Process(door.pid).children(recursive=True)
        if victim == "door":
            door.kill()
        else:  # of the reaper and its child, the child
            [each for each in everyone if victim in words_of(each)][-1].kill()
        output, _ = door.communicate(timeout=SECONDS)
    psutil.wait_procs(everyone, timeout=SECONDS)
    if victim != "hybridflow.broker":  # which its door starts again
        assert door.returncode != 0
        with slot(tmp_path, slow) as door:
            output, _ = door.communicate(timeout=SECONDS)
    assert door.returncode == 0
    assert output.split() == [entry.job for entry in slow.log()[already:]]
    assert [entry.shots for entry in slow.log()[already:]] == [41, 42]

"""A run goes on after anything was killed; the vendor counts that nothing was paid for twice."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from emulated import bell, quieten, resource_of
from ledger_child import Answers
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import wire
from hybridflow.broker.protocol import Failed, Finished
from hybridflow.primitives.structure import structure
from hybridflow.records import ClientInfo, JobState, Primitive, Request, Resource
from hybridflow.testing import QpuEmulator, qpu_emulator

SHOTS = (11, 12, 13)
STEPS = ("admit", "intend", "started", "stored", "delivered", "close")
KILLS = [(step, moment) for step in STEPS for moment in ("before", "after")]
SECONDS = 120


@pytest.fixture(scope="module")
def emulator() -> Iterator[QpuEmulator]:
    with qpu_emulator("qpu", seconds_per_job=0.05) as running:
        yield running


@pytest.fixture(scope="module")
def untagged() -> Iterator[QpuEmulator]:
    with qpu_emulator("qpu", seconds_per_job=0.05, tags=False) as running:
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
def killed_late(process: "subprocess.Popen[bytes]") -> Iterator[None]:
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
    tags = {job["tag"] for job in jobs(run)}
    return sorted(
        entry.shots
        for entry in emulator.log()
        if entry.tag in tags and entry.state is JobState.DONE
    )


def jobs(run: Path) -> list[dict[str, Any]]:
    from hybridflow.broker.ledger.reader import Reader
    from hybridflow.broker.ledger.steps import Intended

    found = [step for _, step in Reader(run / "ledger").news() if isinstance(step, Intended)]
    return [{"tag": step.tag} for step in found]


@pytest.mark.parametrize("number", [1, 2])
def test_a_broker_killed_at_any_step_pays_for_nothing_twice(
    emulator: QpuEmulator, tmp_path: Path, number: int
) -> None:
    resource = resource_of(emulator)
    runs = {kill: tmp_path / "-".join(kill) for kill in KILLS if number == 1 or kill[0] != "close"}
    killed = [
        Child(run, resource, [*map(request, SHOTS)], (step, number, moment))
        for (step, moment), run in runs.items()
    ]
    for child in killed:
        assert child.answers() == []
    resumed = [Child(run, resource, [*map(request, SHOTS)]) for run in runs.values()]
    for child, run in zip(resumed, runs.values(), strict=True):
        answers = child.answers()
        assert [type(answer) for answer in answers] == [Finished] * 3, run
        assert executed(emulator, run) == [*SHOTS], run
    # What is stored is not even asked for.
    again = [Child(run, resource, [*map(request, SHOTS)]) for run in runs.values()]
    for child, run in zip(again, runs.values(), strict=True):
        assert len(child.answers()) == 3
        assert executed(emulator, run) == [*SHOTS], run


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

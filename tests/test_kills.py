"""kill -9 of task, door and driver at each state of a request: nothing is lost or paid twice."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import kill_tasks
import msgspec
import pytest
from emulated import bell
from family import eventually
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import environment, wire
from hybridflow.backends import open_backend
from hybridflow.broker.core import Broker
from hybridflow.broker.ledger.book import Book
from hybridflow.broker.ledger.journal import LedgerJournal
from hybridflow.broker.ledger.owner import this_process
from hybridflow.errors import HybridflowError
from hybridflow.kernel import process_born
from hybridflow.primitives.structure import structure
from hybridflow.records import ClientInfo, JobState, PackedPub, Primitive, Reply, Request
from hybridflow.site import load_site
from hybridflow.testing import QpuEmulator, qpu_emulator

SECONDS = 100
STATES = {
    11: ("admit", "before"),
    12: ("admit", "after"),
    13: ("intend", "after"),
    14: ("started", "after"),
    15: ("stored", "after"),
    16: ("delivered", "after"),
}
"""By the shots of the request that it happens to."""


@pytest.fixture(scope="module")
def emulator() -> Iterator[QpuEmulator]:
    with qpu_emulator("qpu", seconds_per_job=0.05) as running:
        yield running


def pub(shots: int) -> PackedPub:
    return wire.pack_pubs([SamplerPub.coerce(bell(), shots)], [None], structure)[0]


class Killed:
    """A run in which somebody is killed when requests come to their states."""

    def __init__(self, run: Path, emulator: QpuEmulator, victim: str, shots: list[int]) -> None:
        self.run = run
        self.emulator = emulator
        self.shots = shots
        self._victim = victim
        run.mkdir()
        (run / "site.toml").write_text(emulator.site)
        (run / "pubs").write_bytes(msgspec.msgpack.encode([*map(pub, shots)]))
        plan = {number: (victim, *STATES[number]) for number in shots}
        variables = {
            environment.RUN: str(run),
            "PYTHONPATH": str(Path(__file__).with_name("killer")),
            "KILL_AT": json.dumps(plan),
        }
        script = [sys.executable, kill_tasks.__file__, "drive", str(run)]
        command = script if victim == "driver" else kill_tasks.door(run)
        self._log = (run / "log").open("wb")
        self._process = subprocess.Popen(
            [*command, *map(str, shots)],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def output(self) -> str:
        """Return what the tasks have printed, when all processes have ended."""
        output, _ = self._process.communicate(timeout=SECONDS)
        self._log.close()
        eventually(lambda: all(map(has_ended, self.run.glob("*.pid"))), SECONDS)
        for number in self.shots:
            assert (self.run / f"killed-{number}").exists(), (STATES[number], self.log())
        return output

    def log(self) -> str:
        return (self.run / "log").read_text()

    def resume(self) -> list[Reply | HybridflowError]:
        """Ask for the same once more, as the run that goes on."""
        resource = load_site(self.run / "site.toml").resource("qpu")
        backend = open_backend(resource, {})
        name = uuid.uuid4().hex
        journal = LedgerJournal(self.run, resource, this_process(name, name, {}))
        broker = Broker(resource, backend, journal=journal)
        broker.start()
        outcomes: list[Future[Reply | HybridflowError]] = [Future() for _ in self.shots]
        for number, outcome in zip(self.shots, outcomes, strict=True):
            client = ClientInfo(host=os.uname().nodename, pid=os.getpid(), attempt=uuid.uuid4().hex)
            asked = Request(
                id=uuid.uuid4().hex, primitive=Primitive.SAMPLER, pubs=(pub(number),), client=client
            )
            broker.submit(asked, outcome.set_result)
        found = [outcome.result(SECONDS) for outcome in outcomes]
        broker.drain(10)
        assert broker.join(SECONDS)
        return found

    def executed(self) -> list[int]:
        """Return the shots of what was executed, and paid for, for this run."""
        book = Book(self.run)
        tags = set(book.state.jobs)
        return sorted(
            entry.shots
            for entry in self.emulator.log()
            if entry.tag in tags and entry.state is JobState.DONE
        )


def has_ended(file: Path) -> bool:
    return process_born(int(file.read_text())) is None


def test_tasks_that_are_killed_are_paid_for_once(emulator: QpuEmulator, tmp_path: Path) -> None:
    """Each is run once more at once, in the same slot, as an engine does."""
    killed = Killed(tmp_path / "run", emulator, "task", [*STATES])
    lines = [line.split() for line in killed.output().splitlines()]
    assert sorted(int(shots) for shots, _ in lines) == [*STATES], killed.log()
    assert sum(killed.executed()) == sum(STATES)
    assert [*Book(killed.run).flaws()] == []


@pytest.mark.parametrize("victim", ["door", "driver"])
def test_a_run_whose_door_or_driver_is_killed_is_paid_for_once(
    emulator: QpuEmulator, tmp_path: Path, victim: str
) -> None:
    runs = [Killed(tmp_path / str(shots), emulator, victim, [shots]) for shots in STATES]
    for run in runs:
        run.output()
        (found,) = run.resume()
        assert isinstance(found, Reply), (STATES[run.shots[0]], found, run.log())
        assert run.executed() == run.shots, STATES[run.shots[0]]
        assert [*Book(run.run).flaws()] == []

"""Events: written by many processes, read as one stream."""

import multiprocessing
import stat
from pathlib import Path

import msgspec
import pytest

from hybridflow.environment import Role
from hybridflow.events import (
    EventLog,
    Iteration,
    PhaseEnded,
    PhaseStarted,
    RunEnded,
    TaskStarted,
    event_log,
    read_events,
)


def test_what_is_written_is_read_in_order_of_time(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.emit(PhaseEnded(time=2.0, phase="sample"))
    log.emit(PhaseStarted(time=1.0, phase="sample"))
    log.emit(Iteration(time=3.0, number=1, values={"energy_hartree": -1.5}))
    log.close()
    assert [event.time for event in read_events(tmp_path)] == [1.0, 2.0, 3.0]
    assert read_events(tmp_path)[2] == Iteration(
        time=3.0, number=1, values={"energy_hartree": -1.5}
    )


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    log = EventLog(folder)
    log.emit(RunEnded())
    log.close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def _emit(log: EventLog, number: int) -> None:
    log.emit(Iteration(number=number, values={}))


def test_a_forked_child_writes_a_file_of_its_own(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    _emit(log, 0)
    child = multiprocessing.get_context("fork").Process(target=_emit, args=(log, 1))
    child.start()
    child.join(30)
    log.close()
    assert len(list(tmp_path.iterdir())) == 2
    assert len(read_events(tmp_path)) == 2


def test_without_a_run_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYBRIDFLOW_RUN", raising=False)
    event_log().emit(RunEnded())
    assert not list(tmp_path.iterdir())


def test_the_run_of_the_environment_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRIDFLOW_RUN", str(tmp_path / "r"))
    event = TaskStarted(task="1", kind=Role.QUANTUM, name="sample", worker="w0")
    event_log().emit(event)
    assert read_events(tmp_path / "r") == [event]


def test_what_cannot_be_written_is_said_once_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    log = EventLog(tmp_path / "file" / "run")
    _emit(log, 0)
    _emit(log, 1)
    (record,) = caplog.records
    assert "file/run are lost" in record.getMessage()


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    _emit(log, 1)
    log.close()
    (file,) = tmp_path.iterdir()
    with file.open("ab") as stream:
        stream.write(b'{"event":"iterat')
    assert len(read_events(tmp_path)) == 1


def test_damage_elsewhere_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "events-h-1.jsonl").write_bytes(b'{"event":"iterat\n{"event":"run_ended"}\n')
    with pytest.raises(msgspec.DecodeError):
        read_events(tmp_path)

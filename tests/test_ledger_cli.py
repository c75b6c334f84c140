"""``hybridflow ledger`` and ``hybridflow usage`` of runs: what a person sees, and may decide."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_ledger import Broker, by_a_process_that_dies, files, read, request

from hybridflow import environment
from hybridflow.broker.journal import Attached
from hybridflow.broker.ledger.known import JobPhase
from hybridflow.broker.ledger.results import results_file
from hybridflow.broker.work import VendorJob, Work
from hybridflow.cli import main
from hybridflow.errors import BackendLostError, UncertainError
from hybridflow.events import EventLog, TaskStarted
from hybridflow.records import Usage


def call(*words: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def figures(*words: Any) -> list[dict[str, Any]]:
    (found,) = lines(call("usage", *words, "--json"))
    usage: list[dict[str, Any]] = found["usage"]
    return [{name: value for name, value in row.items() if value is not None} for row in usage]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run of two executions, with a failed and an uncertain vendor job."""
    run = tmp_path / "h2o"
    run.mkdir()
    first = Broker(run, "a", "one")
    first.run(request(task="t1"), request("ghz", task="t2", attempt="other"), usage=3.0)
    bad, lost = request("bad", task="t1"), request("lost", task="t2")
    for asked in (bad, lost):
        first.ask(asked)
    first.journal.void(first.start(bad), BackendLostError("no"), Usage(qpu_seconds=0.5))
    first.journal.uncertain(first.send(lost))
    first.journal.close()
    again = Broker(run, "b", "two")
    again.ask(request(task="t3", attempt="new"))
    again.journal.close()
    log = EventLog(run)
    for task, name in {"t1": "sample", "t2": "estimate", "t3": "sample"}.items():
        log.emit(TaskStarted(task=task, kind=environment.Role.QUANTUM, name=name, worker="w"))
    log.close()
    return run


def test_show(run: Path) -> None:
    output = call("ledger", "show", run).output
    assert [line.split()[3] for line in output.splitlines()[1:-1]] == [
        "stored",
        "void",
        "uncertain",
    ]
    assert "5 requests: " in output
    assert "1 of them with results that were paid for before" in output


def test_show_as_json(run: Path) -> None:
    shown = json.loads(call("ledger", "show", run, "--json").output)
    assert [job["state"] for job in shown["vendor_jobs"]] == ["stored", "void", "uncertain"]
    assert shown["vendor_jobs"][0]["error"] is None
    assert (shown["requests"], shown["reused"]) == (5, 1)
    assert sum(shown["phases"].values()) == 5


def test_verify_a_whole_one(run: Path) -> None:
    done = call("ledger", "verify", run)
    assert done.exit_code == 0
    assert done.output == "3 vendor jobs, 5 requests: whole\n"


def test_verify_names_what_is_damaged(run: Path) -> None:
    stored = next(job for job in read(run).jobs.values() if job.phase is JobPhase.STORED)
    results_file(run / "ledger", stored.tag).unlink()
    file = files(run)[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with files(run)[1].open("ab") as other:
        other.write(b"\xf5hfl")
    done = call("ledger", "verify", run)
    assert done.exit_code == 3
    assert str(stored.id) in done.output
    assert f"{file}: damaged from byte" in done.output
    assert f"{files(run)[1]}: torn at byte" in done.output


def test_export(run: Path) -> None:
    found = lines(call("ledger", "export", run))
    jobs = [line for line in found if line["kind"] == "vendor job"]
    requests = [line for line in found if line["kind"] == "request"]
    assert [job["state"] for job in jobs] == ["stored", "void", "uncertain"]
    assert [job["qpu_seconds"] for job in jobs] == [3.0, 0.5, 0.0]
    assert [request["reused"] for request in requests] == [False] * 4 + [True]
    assert requests[4]["vendor_job"] == requests[0]["vendor_job"] == jobs[0]["id"]


def test_usage_by_task(run: Path) -> None:
    sample = {
        "task": "sample",
        "requests": 3,
        "reused": 1,
        "uncertain": 0,
        "vendor_jobs": 2,
        "requests_per_job": 1.5,
        "shots": 10,
        "qpu_seconds": 2.0,
    }
    estimate = sample | {
        "task": "estimate",
        "requests": 2,
        "reused": 0,
        "uncertain": 1,
        "qpu_seconds": 1.5,
    }
    assert figures(run, "--by", "task") == [estimate, sample]


def test_usage_of_several_runs(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "n2"
    other.mkdir()
    Broker(other).run(request())
    both = figures(run, other, "--by", "workflow,resource")
    assert [(row["workflow"], row["resource"], row["qpu_seconds"]) for row in both] == [
        ("h2o", "qpu", 3.5),
        ("n2", "qpu", 1.0),
    ]
    (total,) = figures(run, other)
    assert (total["requests"], total["qpu_seconds"]) == (6, 4.5)


def test_usage_of_this_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.RUN, str(run))
    assert len(figures("--by", "task")) == 2
    assert "QPU seconds" in call("usage", "--by", "task").output


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["usage", "--by", "task"], "RUN_DIR"),
        (["usage", ".", "--by", "account"], "for slots only"),
        (["usage", ".", "--user", "me"], "--user"),
        (["usage", "--by", "colour"], "not one of"),
        (["usage", "."], "no ledger"),
        (["ledger", "show", "nowhere"], "no ledger"),
        (["ledger", "resolve", ".", "x"], "either"),
    ],
)
def test_what_makes_no_sense(
    words: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(environment.RUN, raising=False)
    done = call(*words)
    assert done.exit_code == 2
    assert reason in done.output


def left_uncertain(run: Path) -> str:
    by_a_process_that_dies(run, "r = request(); broker.ask(r); broker.send(r)")
    broker = Broker(run, "b", "two")
    (left,) = broker.journal.left_behind()
    broker.journal.uncertain(VendorJob(Work([]), left.cuts, tag=left.tag))
    with pytest.raises(UncertainError) as failed:
        broker.ask(request(attempt="new"))
    assert f"hybridflow ledger resolve {run} {left.tag} --job-id ID" in str(failed.value)
    return left.tag


def test_a_person_has_found_the_vendor_job(tmp_path: Path) -> None:
    tag = left_uncertain(tmp_path)
    assert call("ledger", "resolve", tmp_path, tag[:6], "--job-id", "v7").exit_code == 0
    broker = Broker(tmp_path, "c", "three")
    (left,) = broker.journal.left_behind()
    assert (left.tag, left.id) == (tag, "v7")
    assert broker.ask(request(attempt="new")) == Attached(tag=tag)


def test_a_person_lets_it_be_repeated(tmp_path: Path) -> None:
    tag = left_uncertain(tmp_path)
    assert call("ledger", "resolve", tmp_path, tag, "--repeat").exit_code == 0
    broker = Broker(tmp_path, "c", "three")
    assert not broker.journal.left_behind()
    assert broker.ask(request(attempt="new")) is None
    assert figures(tmp_path)[0]["uncertain"] == 1
    again = call("ledger", "resolve", tmp_path, tag, "--repeat")
    assert again.exit_code == 2
    assert "nothing to decide" in again.output


def test_what_a_broker_is_at_work_on_is_not_decided(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    asked = request()
    broker.ask(asked)
    tag = broker.start(asked).tag
    done = call("ledger", "resolve", tmp_path, tag, "--repeat")
    assert done.exit_code == 2
    assert "at work" in done.output

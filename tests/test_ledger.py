"""The ledger of a run: what withstands crashes, who gets which result, what is never paid twice."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from family import eventually

from hybridflow import environment
from hybridflow.broker.entry import Entry
from hybridflow.broker.journal import Attached
from hybridflow.broker.ledger import compaction, notes, steps, unstored
from hybridflow.broker.ledger.appender import Appender
from hybridflow.broker.ledger.book import Book
from hybridflow.broker.ledger.frames import Damage, Frame, frame, frames
from hybridflow.broker.ledger.journal import LedgerJournal
from hybridflow.broker.ledger.known import JobPhase, RequestPhase
from hybridflow.broker.ledger.opening import open_journal
from hybridflow.broker.ledger.owner import Owner, has_ended, is_over, this_process
from hybridflow.broker.ledger.reader import Reader
from hybridflow.broker.ledger.results import read_replies, results_file
from hybridflow.broker.ledger.state import State
from hybridflow.broker.merging import merge
from hybridflow.broker.work import VendorJob, Work
from hybridflow.errors import LedgerError, UncertainError, VendorJobError
from hybridflow.events import EventLog, TaskEnded
from hybridflow.kernel import process_born, process_namespace
from hybridflow.records import (
    Capabilities,
    ClientInfo,
    PackedPub,
    PackedResult,
    Primitive,
    Provenance,
    Reply,
    Request,
    Resource,
    Usage,
)

QPU = Resource(name="qpu", backend="fake")
NOBODY: Any = lambda outcome: None  # noqa: E731


# --- frames --------------------------------------------------------------------------------------

PAYLOADS = [b"one", b"", b"\xf5hfl in the middle", bytes(1000)]


def test_frames_are_read_as_they_were_written() -> None:
    found = list(frames(b"".join(map(frame, PAYLOADS))))
    assert [part.payload for part in found if isinstance(part, Frame)] == PAYLOADS
    assert len(found) == len(PAYLOADS)


def test_a_file_cut_anywhere_loses_its_last_frame_alone() -> None:
    whole = frame(b"first") + frame(b"second")
    for cut in range(len(frame(b"first")) + 1, len(whole)):
        first, torn = frames(whole[:cut])
        assert isinstance(first, Frame)
        assert first.payload == b"first"
        assert torn == Damage(len(frame(b"first")), cut, torn=True)


def test_damage_in_the_middle_is_told_from_a_torn_end() -> None:
    parts = [frame(b"first"), frame(b"second"), frame(b"third")]
    for place in range(len(parts[1])):
        data = bytearray(b"".join(parts))
        data[len(parts[0]) + place] ^= 0xFF
        found = list(frames(bytes(data)))
        payloads = [part.payload for part in found if isinstance(part, Frame)]
        assert payloads == [b"first", b"third"]
        damage = [part for part in found if isinstance(part, Damage)]
        begin = len(parts[0])
        assert damage == [Damage(begin, begin + len(parts[1]), torn=False)]


def test_zeros_are_no_frames() -> None:
    assert list(frames(frame(b"x") + bytes(100)))[1:] == [
        Damage(len(frame(b"x")), len(frame(b"x")) + 100, torn=True)
    ]


# --- one broker ----------------------------------------------------------------------------------


class Broker:
    """A broker's journal, driven by hand as the dispatcher drives it."""

    def __init__(
        self,
        run: Path,
        name: str = "a",
        session: str = "one",
        resource: Resource = QPU,
        alive: bool = True,
        away: bool = False,
        **options: Any,
    ) -> None:
        self.owner = this_process(name, session, {})
        if away:
            self.owner = elsewhere(self.owner)
        if not alive:  # as others see it
            self.owner = msgspec.structs.replace(self.owner, born=0)
        self.journal = LedgerJournal(run, resource, self.owner, **options)

    def ask(self, request: Request) -> Any:
        return self.journal.admit(Entry(request, None, NOBODY))

    def send(self, *requests: Request, seconds: float = 0.0) -> VendorJob:
        """Intend a vendor job with requests that were admitted."""
        _, cuts = merge(requests, [1.0] * len(requests))
        job = VendorJob(Work([Entry(request, None, NOBODY) for request in requests]), cuts)
        self.journal.intend(job, seconds)
        return job

    def start(self, *requests: Request) -> VendorJob:
        job = self.send(*requests)
        job.id = f"vendor-{job.tag[:6]}"
        self.journal.started(job)
        return job

    def run(self, *requests: Request, usage: float = 1.0) -> list[Reply]:
        """Admit requests, run them as one vendor job and deliver."""
        for request in requests:
            assert self.ask(request) is None
        job = self.start(*requests)
        replies = replies_of(job)
        self.journal.stored(job, replies, Usage(qpu_seconds=usage, shots=10))
        for entry in job.work.entries:
            self.journal.delivered(entry)
        return replies


def replies_of(job: VendorJob) -> list[Reply]:
    assert job.id is not None
    return [
        Reply(
            results=(PackedResult(arrays={"meas": f"{job.id} {place}".encode()}),),
            provenance=Provenance(
                resource="qpu",
                backend="fake",
                simulator=False,
                vendor_job_id=job.id,
                batch_requests=len(job.cuts),
                batch_pubs=len(job.cuts),
                queue_seconds=0.0,
                run_seconds=1.0,
                qpu_seconds=1.0,
            ),
        )
        for place in range(len(job.cuts))
    ]


numbers = iter(range(10**6))


def request(content: str = "bell", **client: Any) -> Request:
    who: dict[str, Any] = {"host": os.uname().nodename, "pid": os.getpid(), "attempt": "first"}
    who |= client
    key = who.pop("key", None)
    return Request(
        id=f"r{next(numbers)}",
        primitive=Primitive.SAMPLER,
        pubs=(PackedPub(circuit=b"", structure=content.encode(), shots=10),),
        client=ClientInfo(**who),
        key=key,
    )


def files(run: Path) -> list[Path]:
    return sorted((run / "ledger").glob("*.log"))


def read(run: Path, session: str = "") -> Any:
    state = State(session)
    for opened, step in Reader(run / "ledger").news():
        state.apply(opened, step)
    return state


def test_a_run_that_is_resumed_claims_in_order_and_pays_for_the_rest(tmp_path: Path) -> None:
    dead = Broker(tmp_path, "a", "one", alive=False)
    first = dead.run(request(), request(attempt="other"), request("ghz"))
    again = Broker(tmp_path, "b", "two")
    assert again.ask(request(attempt="new")) == first[0]
    assert again.ask(request(attempt="new")) == first[1]
    assert again.ask(request(attempt="new")) is None
    assert again.ask(request("ghz", attempt="new")) == first[2]
    assert again.ask(request("other", attempt="new")) is None


def test_two_repetitions_stay_two_samples(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    broker.run(request(attempt="first", task="t1"))
    assert broker.ask(request(attempt="first", task="t1")) is None
    assert broker.ask(request(attempt="second", task="t2")) is None


def test_a_failed_attempts_results_are_claimed_by_the_next_equal_request(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    (reply,) = broker.run(request(attempt="first", task="t1"))
    assert broker.ask(request(attempt="second", task="t2")) is None
    end_task(tmp_path, "first", "ValueError: no")
    assert broker.ask(request(attempt="third", task="t3")) == reply
    assert broker.ask(request(attempt="fourth", task="t4")) is None


def end_task(run: Path, attempt: str, error: str = "", task: str = "t") -> None:
    log = EventLog(run)
    log.emit(TaskEnded(task=task, worker="w", error=error, attempt=attempt))
    log.close()


def test_what_a_task_that_ended_well_was_given_stays_its_own(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    (reply,) = broker.run(request(attempt="first", task="t1", engine_task="key-1"))
    end_task(tmp_path, "first")
    assert broker.ask(request(attempt="second", task="t2", engine_task="key-2")) is None
    # Its engine has lost what it returned, and runs it once more.
    assert broker.ask(request(attempt="third", task="t3", engine_task="key-1")) == reply
    assert broker.ask(request(attempt="third", task="t3", engine_task="key-1")) is None


def test_a_dead_process_lets_go_of_what_it_was_given(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    end_task_of(tmp_path, 2, "well")
    mine, yours = request(pid=1, attempt="dead"), request("ghz", pid=2, attempt="well", task="t2")
    replies = broker.run(mine, yours)
    for client in (mine.client, yours.client):
        broker.journal.gone(client)
    assert broker.ask(request(attempt="new")) == replies[0]
    assert broker.ask(request("ghz", attempt="new")) is None  # that task had ended well


def end_task_of(run: Path, pid: int, attempt: str) -> None:
    event = TaskEnded(task="t", worker="w", attempt=attempt)
    file = run / f"events-{os.uname().nodename}-{pid}.jsonl"
    file.write_bytes(msgspec.json.encode(event) + b"\n")


def test_a_restarted_broker_knows_which_clients_have_died(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    replies = Broker(tmp_path, "a").run(request(pid=ended.pid, attempt="dead"), request("ghz"))
    again = Broker(tmp_path, "b")
    assert again.ask(request(attempt="new")) == replies[0]
    assert again.ask(request("ghz", attempt="new")) is None


def test_a_key_names_one_sample_for_everybody(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    (reply,) = broker.run(request("bell", key="mine"))
    assert broker.ask(request("another circuit", key="mine")) == reply
    assert broker.ask(request("another circuit", key="mine")) == reply
    assert broker.ask(request("bell", key="yours")) is None
    assert broker.ask(request("bell")) is None


def test_a_request_that_comes_again_after_its_broker_died_gets_its_own(tmp_path: Path) -> None:
    same, other = request(), request()
    replies = Broker(tmp_path, "a").run(same, other)
    again = Broker(tmp_path, "b")
    assert again.ask(other) == replies[1]
    assert again.ask(same) == replies[0]


def test_a_retry_attaches_to_the_vendor_job_that_runs(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    lost, retry = request(attempt="first", task="t1"), request(attempt="second", task="t2")
    assert broker.ask(lost) is None
    job = broker.start(lost)
    end_task(tmp_path, "first", "killed")
    assert broker.ask(retry) == Attached(tag=job.tag)
    (reply,) = replies_of(job)
    broker.journal.stored(job, [reply], Usage())
    assert broker.ask(retry) == reply
    assert broker.ask(request(attempt="third", task="t3")) is None


def test_a_failed_vendor_jobs_requests_start_anew(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    asked = request()
    assert broker.ask(asked) is None
    job = broker.start(asked)
    broker.journal.void(job, VendorJobError("bad"), Usage(qpu_seconds=0.5))
    assert broker.ask(asked) is None
    assert broker.journal.booked() == 0.0
    assert Broker(tmp_path, "b").journal.booked() == 0.5


def test_a_retry_that_was_attached_starts_anew_when_the_vendor_job_fails(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    lost, retry = request(attempt="first", task="t"), request(attempt="second", task="t")
    assert broker.ask(lost) is None
    job = broker.start(lost)
    broker.journal.abandoned(job.work.entries[0])
    assert broker.ask(retry) == Attached(tag=job.tag)
    broker.journal.void(job, VendorJobError("bad"), Usage())
    assert broker.ask(retry) is None
    assert not broker.journal.awaits
    (reply,) = replies_of(again := broker.start(retry))
    broker.journal.stored(again, [reply], Usage())
    assert broker.ask(retry) == reply


@pytest.mark.parametrize("error", ["ValueError: no", ""])
def test_an_attempt_at_the_same_task_gets_each_sample_once(tmp_path: Path, error: str) -> None:
    broker = Broker(tmp_path)
    (reply,) = broker.run(request(attempt="first", task="t", engine_task="k"))
    end_task(tmp_path, "first", error)
    assert broker.ask(request(attempt="second", task="t", engine_task="k")) == reply
    assert broker.ask(request(attempt="second", task="t", engine_task="k")) is None


def test_two_executions_at_the_same_time_never_get_the_same(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as driver:
        born, namespace = process_born(driver.pid), process_namespace()
        first = Broker(tmp_path, "a", f"one-{driver.pid}-{born}-{namespace}")
        (reply,) = first.run(request())
        other = Broker(tmp_path, "b", "two")
        assert other.ask(request(attempt="other")) is None
        first.journal.close()
        assert other.ask(request(attempt="other")) is None
    # Its driver has ended, though what that had started may be at work.
    assert other.ask(request(attempt="newer")) == reply
    assert other.ask(request(attempt="newest")) is None


@pytest.mark.parametrize("end", ["closed", "silent"])
def test_executions_on_two_machines_never_get_the_same_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Nobody can say whether the other is over: it is not, as long as it writes."""
    earlier = Broker(tmp_path, "earlier", "ours-1-2-3", away=True)
    (first,) = earlier.run(request())
    here = Broker(tmp_path, "here", "two")
    assert here.ask(request(attempt="other")) == first  # it may be the run that goes on
    (second,) = earlier.run(request())
    there = Broker(tmp_path, "there", "theirs-1-2-3", away=True)
    (third,) = there.run(request("ghz"))
    assert here.ask(request(attempt="newer")) is None
    assert here.ask(request("ghz", attempt="newer")) is None
    if end == "closed":
        earlier.journal.close()
        there.journal.close()
    else:
        monkeypatch.setattr(notes, "PATIENCE_SECONDS", 0.0)
    assert here.ask(request(attempt="newer")) == second
    assert here.ask(request("ghz", attempt="newer")) == third


def test_who_begins_an_execution_is_in_its_name() -> None:
    here = this_process("x", environment.session({}), {})
    assert is_over(here, here) is False
    assert is_over(msgspec.structs.replace(here, boot="before"), here) is None
    for name in ("named", "named-by-a-user"):
        assert is_over(msgspec.structs.replace(here, session=name), here) is None


def test_a_broker_that_is_older_takes_over_and_later_readers_know(tmp_path: Path) -> None:
    older = Broker(tmp_path, "older")
    older.run(request("warm"))
    lost = Broker(tmp_path, "lost", alive=False)
    mine, retry = request(task="t"), request(attempt="second", task="t")
    assert lost.ask(mine) is None
    lost.start(mine)
    end_task(tmp_path, "first", "killed")
    assert isinstance(older.ask(retry), Attached)
    left = taken_over(older)
    (reply,) = replies_of(left)
    assert read(tmp_path).jobs[left.tag].phase is JobPhase.STARTED
    third = Broker(tmp_path, "third")
    assert not third.journal.left_behind()  # whoever has it is at work
    older.journal.stored(left, [reply], Usage(qpu_seconds=5.0))
    assert older.ask(retry) == reply
    older.journal.delivered(Entry(retry, None, NOBODY))
    older.journal.close()
    found = read(tmp_path)
    assert found.jobs[left.tag].phase is JobPhase.STORED
    assert found.requests[retry.id].phase is RequestPhase.DELIVERED
    assert found.requests[retry.id].reused
    assert not Broker(tmp_path, "new", "two").journal.left_behind()


def taken_over(broker: Broker) -> VendorJob:
    (left,) = broker.journal.left_behind()
    job = VendorJob(Work([]), left.cuts, tag=left.tag, id=left.id)
    broker.journal.started(job)
    return job


def test_a_clock_that_was_set_back_between_two_brokers_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request()
    first = Broker(tmp_path, "a", alive=False)
    assert first.ask(asked) is None
    first.journal.close()
    monkeypatch.setattr("time.time", lambda: 0.0)
    second = Broker(tmp_path, "b", alive=False)
    assert second.ask(asked) is None
    job = second.start(asked)
    (reply,) = replies_of(job)
    second.journal.stored(job, [reply], Usage())
    assert Broker(tmp_path, "c", "two").ask(request(attempt="new")) == reply


def test_files_may_be_read_in_any_order(tmp_path: Path) -> None:
    first = Broker(tmp_path, "a", "one", alive=False)
    asked, retry = request(), request(attempt="second")
    assert first.ask(asked) is None
    job = first.start(asked)
    first.journal.abandoned(job.work.entries[0])
    first.journal.gone(asked.client)
    first.journal.close()
    second = Broker(tmp_path, "b", "one", alive=False)
    (reply,) = replies_of(left := taken_over(second))
    second.journal.stored(left, [reply], Usage(qpu_seconds=2.0))
    assert second.ask(retry) == reply
    second.journal.delivered(Entry(retry, None, NOBODY))
    second.journal.close()
    for order in (("a", "b"), ("b", "a")):
        state = State("one")
        news = list(Reader(tmp_path / "ledger").news())
        for opened, step in sorted(news, key=lambda item: order.index(item[0].owner.name)):
            state.apply(opened, step)
        assert state.jobs[job.tag].phase is JobPhase.STORED
        assert state.booked == {"qpu": {"a": 0.0, "b": 2.0}}
        assert state.requests[retry.id].place is state.requests[asked.id].place
        (pool,) = state.pools.values()
        assert not list(pool.offers(request(attempt="third").client))


# --- what a broker that has ended leaves behind --------------------------------------------------

AND_DIE = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_ledger import Broker, request
broker = Broker(Path(sys.argv[1]), "dead", "one")
{}
os._exit(0)
"""


def by_a_process_that_dies(run: Path, code: str) -> None:
    script = AND_DIE.format(code)
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", script, str(run), here], check=True, timeout=60)


def test_a_started_job_of_a_dead_broker_is_taken_over(tmp_path: Path) -> None:
    by_a_process_that_dies(tmp_path, "r = request(); broker.ask(r); broker.start(r)")
    broker = Broker(tmp_path, "b", "two")
    (left,) = broker.journal.left_behind()
    assert left.id is not None
    asked = request(attempt="new")
    assert broker.ask(asked) == Attached(tag=left.tag)
    job = VendorJob(Work([]), left.cuts, tag=left.tag, id=left.id)
    broker.journal.started(job)
    (reply,) = replies_of(job)
    broker.journal.stored(job, [reply], Usage(qpu_seconds=2.0))
    assert broker.ask(asked) == reply
    assert broker.journal.booked() == 0.0  # it has booked that itself
    assert not Broker(tmp_path, "c", "three").journal.left_behind()


def test_an_intended_job_of_a_dead_broker_is_looked_for(tmp_path: Path) -> None:
    by_a_process_that_dies(tmp_path, "r = request(); broker.ask(r); broker.send(r)")
    (left,) = Broker(tmp_path, "b", "two").journal.left_behind()
    assert left.id is None


@pytest.mark.parametrize("rule", ["ask", "fail", "repeat"])
def test_on_uncertain_decides_where_nobody_can_look(tmp_path: Path, rule: Any) -> None:
    by_a_process_that_dies(tmp_path, "r = request(); broker.ask(r); broker.send(r)")
    resource = msgspec.structs.replace(QPU, on_uncertain=rule)
    broker = Broker(tmp_path, "b", "two", resource)
    (left,) = broker.journal.left_behind()
    broker.journal.uncertain(VendorJob(Work([]), left.cuts, tag=left.tag))
    if rule == "repeat":
        assert broker.ask(request(attempt="new")) is None
        broker.journal.close()
        assert read(tmp_path).jobs[left.tag].phase is JobPhase.RESOLVED
        return
    with pytest.raises(UncertainError) as failed:
        broker.ask(request(attempt="new"))
    assert ("ledger resolve" in str(failed.value)) == (rule == "ask")
    assert not failed.value.transient
    assert broker.ask(request("ghz", attempt="new")) is None


def test_free_jobs_die_with_their_broker(tmp_path: Path) -> None:
    by_a_process_that_dies(tmp_path, "r = request(); broker.ask(r); broker.start(r)")
    broker = Broker(tmp_path, "b", "two", free=True)
    assert not broker.journal.left_behind()
    assert broker.ask(request(attempt="new")) is None


# --- who has ended -------------------------------------------------------------------------------


def elsewhere(owner: Owner, **changes: Any) -> Owner:
    away = {"host": "node9", "machine": "m9", "boot": "b9"}
    return msgspec.structs.replace(owner, **(away | changes))


def test_this_machine_knows_its_processes() -> None:
    here = this_process("x", "s", {})
    assert has_ended(here, here) is False
    assert has_ended(msgspec.structs.replace(here, born=here.born - 1), here) is True
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert has_ended(msgspec.structs.replace(here, pid=ended.pid), here) is True
    assert has_ended(msgspec.structs.replace(here, boot="before"), here) is True
    assert has_ended(msgspec.structs.replace(here, namespace=1), here) is None


def test_a_zombie_has_ended() -> None:
    here = this_process("x", "s", {})
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(msgspec.structs.replace(here, pid=child.pid), here) is True


def test_slurm_knows_the_jobs_of_other_machines() -> None:
    here = this_process("x", "s", {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"})

    def ended(job: str) -> bool | None:
        return {"5": True, "6": False, "7": False}.get(job)

    assert has_ended(elsewhere(here, slurm_job=""), here, ended) is None
    assert has_ended(elsewhere(here, slurm_job="5"), here, ended) is True
    assert has_ended(elsewhere(here, slurm_job="6"), here, ended) is False
    assert has_ended(elsewhere(here, slurm_job="8"), here, ended) is None
    # The same job, before it was requeued, and on another of its nodes.
    assert has_ended(elsewhere(here, slurm_restarts=0), here, ended) is True
    assert has_ended(elsewhere(here), here, ended) is None


# --- faults --------------------------------------------------------------------------------------


def test_a_torn_last_record_is_tolerated(tmp_path: Path) -> None:
    broker = Broker(tmp_path, "a", alive=False)
    (first,) = broker.run(request())
    broker.run(request("ghz"))
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:-5])
    again = Broker(tmp_path, "b", "two")
    assert again.ask(request(attempt="new")) == first
    assert [job.phase for job in read(tmp_path).jobs.values()] == [
        JobPhase.STORED,
        JobPhase.STARTED,
    ]


def test_damage_costs_what_it_hits_and_no_more(tmp_path: Path) -> None:
    broker = Broker(tmp_path, "a", alive=False)
    (first,) = broker.run(request())
    before = files(tmp_path)[0].stat().st_size
    (second,) = broker.run(request("ghz"))
    (file,) = files(tmp_path)
    data = bytearray(file.read_bytes())
    data[before + 40] ^= 0xFF
    file.write_bytes(data)
    again = Broker(tmp_path, "b", "two")
    assert again.ask(request(attempt="new")) == first
    assert again.ask(request("ghz", attempt="new")) in (None, second)


@pytest.mark.parametrize("harm", ["damaged", "lost"])
def test_results_that_cannot_be_read_are_said_and_paid_again(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    (reply,) = Broker(tmp_path, "a", alive=False).run(request())
    tag = next(iter(read(tmp_path).jobs))
    file = results_file(tmp_path / "ledger", tag)
    if harm == "lost":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert Broker(tmp_path, "b", "two").ask(request(attempt="new")) is None
    assert reply.provenance.vendor_job_id in caplog.text


def test_no_job_is_intended_that_cannot_be_recorded(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    broker = Broker(run)
    broker.run(request())
    hidden = tmp_path / "hidden"
    run.rename(hidden)
    for file in files(hidden):
        file.unlink()
    asked = request("ghz")
    assert broker.ask(asked) is None
    with pytest.raises(LedgerError) as failed:
        broker.send(asked)
    assert failed.value.transient
    hidden.rename(run)
    broker.run(request("again"))
    found = read(run)
    assert [job.phase for job in found.jobs.values()] == [JobPhase.VOID, JobPhase.STORED]


def test_a_paid_result_is_delivered_though_it_cannot_be_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    broker = Broker(run)
    asked = request(attempt="first", task="t1")
    broker.ask(asked)
    job = broker.start(asked)
    run.rename(tmp_path / "hidden")
    (reply,) = replies_of(job)
    broker.journal.stored(job, [reply], Usage())
    assert str(job.id) in caplog.text
    (tmp_path / "hidden").rename(run)
    end_task(run, "first", "killed")
    assert broker.ask(request(attempt="second", task="t2")) == reply
    # The next broker can ask the vendor for it,
    assert read(run).jobs[job.tag].phase is JobPhase.STARTED
    # or has it, since it is stored as soon as that can be.
    broker.run(request("another"))
    assert read(run).jobs[job.tag].phase is JobPhase.STORED
    assert read_replies(run / "ledger", job.tag) == [reply]


def test_of_what_cannot_be_stored_only_so_much_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unstored, "_MOST_BYTES", 10)
    broker = Broker(tmp_path)
    asked = [request(key=name) for name in "abc"]
    jobs = []
    for one in asked:
        broker.ask(one)
        jobs.append(broker.start(one))
    (tmp_path / "ledger" / "results").touch()  # where a folder should be
    replies = [replies_of(job)[0] for job in jobs]
    for job, reply in zip(jobs, replies, strict=True):
        broker.journal.stored(job, [reply], Usage())
    assert f"{jobs[0].id} are let go" in caplog.text
    assert [broker.ask(request(key=name)) for name in "abc"] == [None, None, replies[2]]
    (tmp_path / "ledger" / "results").unlink()
    broker.journal.close()
    assert Broker(tmp_path, "b", "two").ask(request(key="c")) == replies[2]


def test_a_free_job_runs_without_a_ledger(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "no" / "where", free=True)
    broker.run(request())


def test_a_full_disk_loses_nothing_that_was_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker(tmp_path, alive=False)
    (first,) = broker.run(request())
    asked = request("ghz")
    assert broker.ask(asked) is None
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) < 8:
            raise OSError(28, "No space left on device")
        return write(descriptor, bytes(data)[: len(data) // 2])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(LedgerError, match="No space"):
            broker.send(asked)
    (third,) = broker.run(request("third"))
    again = Broker(tmp_path, "b", "two")
    assert again.ask(request(attempt="new")) == first
    assert again.ask(request("third", attempt="new")) == third
    assert again.ask(request("ghz", attempt="new")) is None
    assert not again.journal.left_behind()


def test_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    owner = this_process("new", "one", {})
    opened = steps.Opened(version=99, owner=owner, resource="qpu", backend="fake")
    Appender(tmp_path / "ledger", opened).commit(durable=True)
    with pytest.raises(LedgerError, match="newer"):
        Broker(tmp_path)


def test_nothing_depends_on_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Broker(tmp_path, "a", alive=False).run(request(), request())
    monkeypatch.setattr("time.time", lambda: 0.0)
    again = Broker(tmp_path, "b", "two")
    replies: Sequence[Any] = [again.ask(request(attempt="new")) for _ in range(2)]
    assert replies == first


def test_steps_that_come_twice_count_once(tmp_path: Path) -> None:
    Broker(tmp_path, "a", alive=False).run(request(), usage=2.0)
    (file,) = files(tmp_path)
    file.with_name("copy.1.log").write_bytes(file.read_bytes())
    broker = Broker(tmp_path, "b", "two")
    assert broker.journal.booked() == 2.0
    assert broker.ask(request(attempt="new")) is not None
    assert broker.ask(request(attempt="new")) is None


def test_what_has_become_of_requests_can_be_read(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    done, failed, cancelled = request(), request("b"), request("c")
    broker.run(done)
    for other in (failed, cancelled):
        broker.ask(other)
    broker.journal.failed(Entry(failed, None, NOBODY), VendorJobError("no"))
    broker.journal.cancelled(Entry(cancelled, None, NOBODY))
    broker.journal.close()
    found = read(tmp_path).requests
    assert found[done.id].phase is RequestPhase.DELIVERED
    assert found[failed.id].phase is RequestPhase.FAILED
    assert found[failed.id].error.message == "no"
    assert found[cancelled.id].phase is RequestPhase.CANCELLED


def test_results_may_be_longer_than_any_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridflow.broker.ledger.frames._LONGEST", 2000)
    broker = Broker(tmp_path, alive=False)
    asked = request()
    broker.ask(asked)
    job = broker.start(asked)
    reply = msgspec.structs.replace(
        replies_of(job)[0], results=(PackedResult(arrays={"meas": bytes(4000)}),)
    )
    broker.journal.stored(job, [reply], Usage())
    assert Broker(tmp_path, "b", "two").ask(request(attempt="new")) == reply


def test_results_that_have_no_form_are_delivered_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        def encode(self, replies: Any) -> bytes:
            raise ValueError("too long")

    monkeypatch.setattr("hybridflow.broker.ledger.results._encoder", Full())
    broker = Broker(tmp_path)
    (reply,) = broker.run(asked := request())
    assert "too long" in caplog.text
    assert broker.ask(asked) == reply


@pytest.mark.parametrize(
    "changes", [{"backend": "other"}, {"options": {"device": "other"}}, {"name": "other"}]
)
def test_results_of_another_device_are_not_replayed(tmp_path: Path, changes: Any) -> None:
    Broker(tmp_path, "a", alive=False).run(request())
    other = Broker(tmp_path, "b", "two", msgspec.structs.replace(QPU, **changes))
    assert other.ask(request(attempt="new")) is None


def test_a_vendor_job_of_another_backend_is_not_taken_over(tmp_path: Path) -> None:
    broker = Broker(tmp_path, "a", alive=False)
    asked = request()
    broker.ask(asked)
    broker.start(asked)
    other = msgspec.structs.replace(QPU, backend="other")
    assert not Broker(tmp_path, "b", "two", other).journal.left_behind()
    assert Broker(tmp_path, "c", "two").journal.left_behind()


def test_a_file_that_cannot_be_read_for_now_costs_no_other_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Broker(tmp_path, "reading")
    broken, paying = Broker(tmp_path, "broken"), Broker(tmp_path, "paying", alive=False)
    replies = [*broken.run(request("a", key="a")), *paying.run(request("b", key="b"))]
    open_file = Path.open

    def stale(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name.startswith("broken"):
            raise OSError(116, "Stale file handle")
        return open_file(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", stale)
        assert reading.ask(request("b", key="b")) == replies[1]
        assert reading.ask(request("a", key="a")) is None
    assert reading.ask(request("a", key="a", attempt="later")) == replies[0]


def test_what_was_let_go_of_stays_free_when_files_are_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "LEAST_BYTES", 1)
    monkeypatch.setattr(compaction, "_GAIN", 10)
    first = Broker(tmp_path, "a")
    (reply,) = first.run(asked := request(host="node9"))
    first.journal.gone(asked.client)
    first.journal.close()
    again = Broker(tmp_path, "b")
    assert [file.name for file in files(tmp_path)] == ["a.0.log"]
    assert again.ask(request(attempt="new")) == reply


def test_all_that_is_new_in_a_folder_is_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: Counter[str] = Counter()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced[str(path.relative_to(tmp_path))] += 1
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    device = Capabilities(primitives=(Primitive.SAMPLER,), simulator=False, durable_jobs=True)
    run = tmp_path / "runs" / "mine"
    open_journal(QPU, device, environ={environment.RUN: str(run)})
    assert synced == {".": 1, "runs": 1}
    Broker(run).run(request())
    assert synced["runs/mine"] == 1
    assert synced["runs/mine/ledger"] == 2  # for the broker's file, and for the results' folder
    assert synced["runs/mine/ledger/results"] == 1


@pytest.mark.parametrize("harm", ["link", "others"])
@pytest.mark.parametrize("folder", ["ledger", "ledger/results"])
def test_a_folder_that_is_not_the_users_alone_is_not_used(
    tmp_path: Path, harm: str, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    real = tmp_path / "elsewhere"
    real.mkdir(mode=0o700)
    run = tmp_path / "run"
    (run / folder).parent.mkdir(parents=True, mode=0o700)
    if harm == "link":
        (run / folder).symlink_to(real)
    else:
        (run / folder).mkdir()
        (run / folder).chmod(0o777)
    if folder == "ledger":
        with pytest.raises(LedgerError, match="cannot be trusted"):
            Broker(run)
    else:
        (run / "ledger").chmod(0o700)
        Broker(run).run(request())
        assert "results" in caplog.text
    assert not list(real.iterdir())


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    Broker(tmp_path).run(request())
    for path in (tmp_path / "ledger").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_what_another_broker_has_under_way_is_waited_for(tmp_path: Path) -> None:
    first, second = Broker(tmp_path, "a", "one"), Broker(tmp_path, "b", "one")
    mine, asked = request(), request(attempt="new")
    first.ask(mine)
    job = first.start(mine)
    assert not second.journal.left_behind()
    end_task(tmp_path, "first", "killed")
    assert second.ask(asked) == Attached(tag=job.tag)
    assert second.journal.awaits
    assert not second.journal.elsewhere()
    (reply,) = replies_of(job)
    first.journal.stored(job, [reply], Usage())
    eventually(lambda: [*second.journal.elsewhere()] == [job.tag])
    assert not second.journal.awaits
    assert second.ask(asked) == reply


def test_what_nobody_can_say_is_waited_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_a_process_that_dies(tmp_path, "r = request(key='mine'); broker.ask(r); broker.start(r)")
    far_away(tmp_path)
    broker = Broker(tmp_path, "b", "two")
    asked = request(key="mine")
    assert not broker.journal.left_behind()
    waits = broker.ask(asked)
    assert isinstance(waits, Attached)
    assert not broker.journal.elsewhere()
    monkeypatch.setattr(notes, "PATIENCE_SECONDS", 0.0)
    eventually(lambda: [*broker.journal.elsewhere()] == [waits.tag])
    with pytest.raises(UncertainError, match="has ended"):
        broker.ask(asked)
    known = Broker(tmp_path, "c", "two", job_ended={"77": True}.get)
    (left,) = known.journal.left_behind()
    assert left.id is not None


def test_a_live_broker_of_which_nobody_can_say_so_delivers_all_the_same(tmp_path: Path) -> None:
    rule = msgspec.structs.replace(QPU, on_uncertain="repeat")
    first, second = Broker(tmp_path, "a"), Broker(tmp_path, "b", resource=rule)
    second.journal._notes.has_ended = lambda owner: None  # type: ignore[method-assign]
    mine, asked = request(key="mine"), request(key="mine")
    assert first.ask(mine) is None
    job = first.start(mine)
    assert second.ask(asked) == Attached(tag=job.tag)
    (reply,) = replies_of(job)
    first.journal.stored(job, [reply], Usage())
    eventually(lambda: [*second.journal.elsewhere()] == [job.tag])
    assert second.ask(asked) == reply


def test_a_person_who_has_found_the_job_lets_it_be_taken_over(tmp_path: Path) -> None:
    by_a_process_that_dies(tmp_path, "r = request(); broker.ask(r); broker.send(r)")
    far_away(tmp_path)
    broker = Broker(tmp_path, "b", "two")
    asked = request(attempt="new")
    waits = broker.ask(asked)
    assert isinstance(waits, Attached)
    Book(tmp_path).resolve(waits.tag, "found")
    left: list[Any] = []
    eventually(lambda: left.extend(broker.journal.elsewhere()) or left)
    assert (left[0].tag, left[0].id) == (waits.tag, "found")


def test_what_was_given_up_and_comes_after_all_is_kept(tmp_path: Path) -> None:
    first = Broker(tmp_path, "a")
    asked = request()
    first.ask(asked)
    job = first.start(asked)
    first.journal._notes.note(steps.Resolved(tag=job.tag))
    (reply,) = replies_of(job)
    first.journal.stored(job, [reply], Usage())
    first.journal.close()
    assert Broker(tmp_path, "b", "two").ask(request(attempt="new")) == reply


def test_what_others_may_use_counts_as_estimated_until_it_is_known(tmp_path: Path) -> None:
    first, second = Broker(tmp_path, "a"), Broker(tmp_path, "b")
    asked = [request("x"), request("y")]
    jobs = []
    for one in asked:
        first.ask(one)
        jobs.append(first.send(one, seconds=3.0))
    assert second.journal.booked() == 6.0
    assert first.journal.booked() == 0.0
    jobs[0].id = "vendor-1"
    first.journal.started(jobs[0])
    first.journal.stored(jobs[0], replies_of(jobs[0]), Usage(qpu_seconds=2.0))
    first.journal.uncertain(jobs[1])
    assert second.journal.booked() == 5.0
    first.journal.close()
    Book(tmp_path).resolve(jobs[1].tag, None)  # a person has looked: it is not there
    assert second.journal.booked() == 2.0


def test_a_process_is_not_taken_for_another_with_its_id(tmp_path: Path) -> None:
    here = this_process("x", "", {})
    old = {"attempt": "", "namespace": here.namespace, "born": here.born - 1}
    broker = Broker(tmp_path, "a")
    (reply,) = broker.run(request(**old))
    me = old | {"born": here.born}
    assert broker.ask(request(**me)) is None
    again = Broker(tmp_path, "b")
    assert again.ask(request(**me)) == reply


def test_a_file_says_more_than_once_whose_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker(tmp_path, alive=False)
    (reply,) = broker.run(request())
    for _ in range(10):
        broker.run(request("other"))
    damage(tmp_path, 20)
    assert Broker(tmp_path, "b", "two").ask(request(attempt="new")) == reply
    assert "damaged" in caplog.text


def test_a_file_of_nobody_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Broker(tmp_path, alive=False).run(request())
    damage(tmp_path, 20)
    assert Broker(tmp_path, "b", "two").ask(request(attempt="new")) is None
    assert "nobody can read whose" in caplog.text


def damage(run: Path, place: int) -> None:
    (file,) = files(run)
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(data)


def far_away(run: Path) -> None:
    """Let a ledger's only file be of another machine."""
    (file,) = files(run)
    payloads = [found.payload for found in frames(file.read_bytes()) if isinstance(found, Frame)]
    opened = steps.decode(payloads[0])
    assert isinstance(opened, steps.Opened)
    away = msgspec.structs.replace(opened, owner=elsewhere(opened.owner, slurm_job="77"))
    file.write_bytes(b"".join(map(frame, [steps.encode(away), *payloads[1:]])))


def test_files_of_brokers_that_have_ended_are_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "LEAST_BYTES", 1)
    first = Broker(tmp_path, "a", "one")
    reader = Reader(tmp_path / "ledger")
    mine = request()
    replies = first.run(mine)
    for _ in range(20):
        refused = request("refused")
        first.ask(refused)
        first.journal.failed(Entry(refused, None, NOBODY), VendorJobError("no"))
    living = Broker(tmp_path, "living", "one")
    living.run(request("ghz"))
    first.journal.close()
    before = list(reader.news())
    size = sum(file.stat().st_size for file in files(tmp_path))
    broker = Broker(tmp_path, "b", "two")
    assert [file.name for file in files(tmp_path)] == ["a.0.log", "living.1.log"]
    assert sum(file.stat().st_size for file in files(tmp_path)) < size / 2
    assert broker.ask(request(attempt="new")) == replies[0]
    found = read(tmp_path)
    assert found.requests[mine.id].phase is RequestPhase.DELIVERED
    # Who was reading goes on, and knows no more than before.
    state = State("")
    for opened, step in [*before, *reader.news()]:
        state.apply(opened, step)
    assert list(state.jobs) == list(found.jobs)
    assert len(state.requests) == 1 + 20 + 1 + 1


def test_two_brokers_that_claim_at_the_same_time_never_get_the_same(tmp_path: Path) -> None:
    first = Broker(tmp_path, "old", "one")
    replies = first.run(request(), request())
    first.journal.close()
    one, other = Broker(tmp_path, "a", "two"), Broker(tmp_path, "b", "two")
    for broker in (one, other):  # each has a file, and knows of the other
        broker.run(request("own"))
    assert other.ask(request("look")) is None
    assert one.ask(request(attempt="new")) == replies[0]
    late = Entry(request(attempt="newer"), None, NOBODY)
    late.arrived = 0.0  # as if it had come before that was written
    assert other.journal.admit(late) == replies[1]
    assert one.ask(request(attempt="newest")) is None

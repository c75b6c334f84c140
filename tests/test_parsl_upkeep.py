"""What Parsl's executors do about their blocks: give back, replace, give up, name."""

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

import pytest
from parsl.executors.high_throughput.errors import ManagerLost
from parsl.executors.high_throughput.executor import HTEXFuture
from parsl.jobs.states import JobState, JobStatus

from hybridflow.environment import Role
from hybridflow.errors import DeadlineError, JobFailedError, WorkerLostError
from hybridflow.slurm import BlockJobs, JobInfo, SlurmState
from hybridflow_parsl.blocks import block_error, handle_failed_blocks
from hybridflow_parsl.closing import closing_time, drain_seconds
from hybridflow_parsl.losses import Losses
from hybridflow_parsl.providers import BlockStatus
from hybridflow_parsl.upkeep import Upkeep


def test_the_margin_is_a_minute_or_a_quarter() -> None:
    now = int(time.time())
    for left, taken in ((4000, 3940), (100, 75)):
        end = closing_time({"SLURM_JOB_ID": "1", "SLURM_JOB_END_TIME": str(now + left)})
        assert end == pytest.approx(now + taken, abs=1)
    assert closing_time({}) is None
    with pytest.raises(DeadlineError):
        drain_seconds(now)


@pytest.mark.parametrize(
    ("state", "transient", "gives_up"),
    [(SlurmState.PREEMPTED, True, False), (SlurmState.CANCELLED, False, True)],
)
def test_a_block_that_is_lost_before_its_workers_come(
    state: SlurmState, transient: bool, gives_up: bool
) -> None:
    problem = JobFailedError(f"Slurm job 3 was {state}", transient=transient)
    info = JobInfo(id="3", group="3", state=state)
    block = BlockStatus(JobState.MISSING, info, problem, "out")
    executor = _Executor()
    handle_failed_blocks(executor, {"0": block})  # type: ignore[arg-type]
    assert executor.bad_state_is_set == gives_up
    assert block_error(RuntimeError(), "qpu", Role.QUANTUM, {"0": block}) is problem


@pytest.mark.parametrize(("pool", "named"), [("known", True), ("unknown", False)])
def test_a_loss_has_its_reason(pool: str, named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, problem = BlockJobs("never-made"), JobFailedError("Slurm job 3 was preempted")
    monkeypatch.setattr(jobs, "problem", {"3": problem}.get)
    losses = Losses(_Executor(), SimpleNamespace(jobs=jobs))  # type: ignore[arg-type]
    losses.note([{"manager": "known", "block_id": "0"}])
    tasks = [HTEXFuture(number) for number in range(3)]
    ends = [losses.named(task) for task in tasks]
    tasks[0].set_result(5)
    tasks[1].set_exception(ValueError("own"))
    tasks[2].set_exception(ManagerLost(pool.encode(), "q1"))
    assert ends[0].result() == 5
    assert isinstance(ends[1].exception(), ValueError)
    error = ends[2].exception()
    assert isinstance(error, WorkerLostError if named else ManagerLost)
    assert ("on q1: Slurm job 3 was preempted" in str(error)) == named


@dataclass
class Upkept:
    """An executor with blocks, for `Upkeep`, which writes down what is done to them."""

    label = "qpu"
    status_facade: dict[str, JobStatus]
    managers: list[dict[str, object]]
    done: list[object] = field(default_factory=list)
    tasks_in_between: int = 0

    def outstanding(self) -> int:
        return 0

    def connected_managers(self) -> list[dict[str, object]]:
        return self.managers

    def hold(self, blocks: list[str]) -> None:
        self.done.append(("hold", blocks))
        self.managers = [each | {"tasks": self.tasks_in_between} for each in self.managers]

    def give_back(self, blocks: list[str]) -> None:
        self.done.append(("give back", blocks))

    def postpone(self, seconds: float) -> None:
        self.done.append(("postpone", seconds))


def upkeep_of(executor: Upkept, *, least: int = 0) -> Upkeep:
    jobs = SimpleNamespace(look_soon=lambda: executor.done.append("look soon"))
    provider = SimpleNamespace(idle=30.0, min_blocks=least, jobs=jobs)
    return Upkeep(executor, provider)  # type: ignore[arg-type]


def look(upkeep: Upkeep) -> None:
    upkeep._next = 0.0
    upkeep.poll()


def pool(block: str, idle: float) -> dict[str, object]:
    return {"manager": f"m{block}", "block_id": block, "tasks": 0, "idle_duration": idle}


def running(*blocks: str) -> dict[str, JobStatus]:
    return {block: JobStatus(JobState.RUNNING) for block in blocks}


@pytest.mark.parametrize(
    ("least", "given"), [(0, [("hold", ["0"]), ("give back", ["0"])]), (2, [])]
)
def test_each_block_is_given_back_by_itself(least: int, given: list[object]) -> None:
    executor = Upkept(running("0", "1"), [pool("0", 31), pool("1", 29)])
    look(upkeep_of(executor, least=least))
    assert executor.done == given


def test_a_block_that_got_a_task_before_it_was_held_may_end_it() -> None:
    executor = Upkept(running("0"), [pool("0", 31)], tasks_in_between=1)
    upkeep = upkeep_of(executor)
    look(upkeep)
    assert executor.done == [("hold", ["0"])]
    executor.tasks_in_between = 0
    look(upkeep)
    assert executor.done[1:] == [("hold", []), ("give back", ["0"])]


def test_blocks_that_fail_in_a_row_are_asked_for_ever_more_seldom() -> None:
    executor = Upkept({}, [])
    upkeep = upkeep_of(executor)
    for number in range(3):
        info = JobInfo(id=str(number), group=str(number), state=SlurmState.FAILED)
        problem = JobFailedError(f"Slurm job {number} failed")
        status = BlockStatus(JobState.FAILED, info, problem, "out")
        executor.status_facade = executor.status_facade | {str(number): status}
        look(upkeep)
    assert executor.done == [("postpone", 0.0), ("postpone", 5.0), ("postpone", 10.0)]
    executor.status_facade, executor.managers = running("3"), [pool("3", 0)]
    look(upkeep)
    executor.managers = []
    look(upkeep)
    assert executor.done[3:] == ["look soon"]


class _Executor:
    bad_state_is_set = False
    blocks_to_job_id: ClassVar = {"0": "3"}

    def set_bad_state_and_fail_all(self, error: Exception) -> None:
        self.bad_state_is_set = True

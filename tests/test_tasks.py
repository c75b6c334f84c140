"""The quantum mark: a plain function that knows where it may run."""

import functools
import inspect
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dill
import pytest

import hybridflow as hf
from hybridflow import environment
from hybridflow.environment import Role
from hybridflow.errors import NoSlotError, TaskError, TaskExitError
from hybridflow.events import TaskEnded, TaskStarted, read_events
from hybridflow.tasks import (
    as_task,
    current_task,
    guarded,
    is_quantum_task,
    quantum_task,
    task_name,
)


@quantum_task
def sample(shots: int, *, double: bool = False) -> int:
    """Sample."""
    return shots * (2 if double else 1)


@quantum_task()
def with_parentheses(value: int) -> int:
    return value


def plain(value: int) -> int:
    return value


def leave(status: object) -> None:
    sys.exit(status)


def interrupt() -> None:
    raise KeyboardInterrupt


def fail(text: str) -> None:
    raise ValueError(text)


class Device:
    @quantum_task
    def shoot(self, value: int) -> int:
        return value + 1


class Shooter:
    @quantum_task
    def __call__(self, value: int) -> int:
        return value + 2


# --- the mark ------------------------------------------------------------------------------------


def test_a_marked_function_stays_what_it_was() -> None:
    assert sample(3) == 3
    assert sample(3, double=True) == 6
    assert with_parentheses(4) == 4
    assert sample.__name__ == "sample"
    assert sample.__doc__ == "Sample."
    assert sample.__module__ == __name__
    assert list(inspect.signature(sample).parameters) == ["shots", "double"]
    assert Device().shoot(1) == 2
    assert Shooter()(1) == 3


def wrapping(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class App:
    """Keeps the function as Parsl's apps do."""

    def __init__(self, function: Any) -> None:
        self.func = function


MARKED: list[Any] = [
    sample,
    with_parentheses,
    functools.partial(sample, 3),
    functools.partial(functools.partial(sample, 3), double=True),
    wrapping(sample),
    wrapping(wrapping(sample)),
    wrapping(functools.partial(sample, 3)),
    Device().shoot,
    Device.shoot,
    Shooter(),
    App(sample),
    guarded(sample),
    as_task(sample, Role.QUANTUM),
    quantum_task(functools.partial(plain, 3)),
]


@pytest.mark.parametrize("function", MARKED)
def test_the_mark_is_found(function: Any) -> None:
    assert is_quantum_task(function)


@pytest.mark.parametrize(
    "function",
    [plain, functools.partial(plain, 3), wrapping(plain), guarded(plain), print, int, None, 7],
)
def test_no_mark_is_made_up(function: Any) -> None:
    assert not is_quantum_task(function)


def test_task_names() -> None:
    assert task_name(functools.partial(wrapping(sample), 3)) == "sample"
    assert task_name(as_task(plain, Role.CLASSICAL)) == "plain"
    assert task_name(Shooter()) == "Shooter"


# --- crossing processes --------------------------------------------------------------------------


@pytest.mark.parametrize("pickler", [pickle, dill])
@pytest.mark.parametrize(
    "function", [sample, functools.partial(sample), guarded(sample), as_task(sample, Role.QUANTUM)]
)
def test_pickles_by_reference(pickler: Any, function: Any) -> None:
    data = pickler.dumps(function)
    copy = pickler.loads(data)
    assert is_quantum_task(copy)
    assert copy(5) == 5
    assert len(data) < 400, "more than names was written"


def test_dill_pickles_a_local_function_by_value() -> None:
    factor = 3

    @quantum_task
    def local(value: int) -> int:
        return value * factor

    copy = dill.loads(dill.dumps(local))
    assert copy is not local
    assert copy(2) == 6
    assert is_quantum_task(copy)


MAIN = """
import pickle, sys
from pathlib import Path
import dill
from hybridflow.tasks import as_task, quantum_task
from hybridflow.environment import Role

@quantum_task
def sample(value):
    return value + 40

if __name__ == "__main__":
    assert pickle.loads(pickle.dumps(sample)) is sample
    data = dill.dumps(as_task(sample, Role.QUANTUM))
    assert len(data) < 5000, len(data)
    Path(sys.argv[1]).write_bytes(data)
"""

LOAD = """
import sys
from pathlib import Path
import dill
from hybridflow.tasks import is_quantum_task
sample = dill.loads(Path(sys.argv[1]).read_bytes())
assert is_quantum_task(sample)
print(sample(2))
"""


def test_a_function_of_a_script_crosses_to_a_process_that_has_not_got_it(tmp_path: Path) -> None:
    """What Parsl does with a script's functions."""
    (tmp_path / "main.py").write_text(MAIN)
    file = str(tmp_path / "task.bin")
    subprocess.run([sys.executable, str(tmp_path / "main.py"), file], check=True, timeout=60)
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, file], check=True, timeout=60, capture_output=True, text=True
    )
    assert loaded.stdout == "42\n"


# --- where a task may run ------------------------------------------------------------------------


def test_a_plain_script_may_call_it() -> None:
    assert sample(1) == 1


def test_a_classical_worker_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.ROLE, Role.CLASSICAL)
    with pytest.raises(TaskError, match=r"'sample'.*classical worker") as raised:
        sample(1)
    assert not raised.value.transient


@pytest.mark.parametrize("variable", [environment.ROLE, *environment.ENGINE_WORKER_MARKERS])
def test_an_engines_worker_needs_a_slot(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "quantum")
    with pytest.raises(NoSlotError, match=r"'sample'.*hybridflow slot run"):
        sample(1)
    monkeypatch.setenv(environment.BROKER, "/run/slot")
    assert sample(1) == 1


def test_nothing_is_done_before_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setenv(environment.ROLE, Role.CLASSICAL)
    with pytest.raises(TaskError):
        quantum_task(done.append)(1)
    assert not done


def test_a_classical_task_never_runs_in_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    task = as_task(plain, Role.CLASSICAL)
    assert task(1) == 1
    monkeypatch.setenv(environment.BROKER, "/run/slot")
    with pytest.raises(TaskError, match=r"'plain'.*inside a QPU slot"):
        task(1)


# --- how a task may end --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        (leave, (3,), r"'leave' called sys.exit\(\) with SystemExit\(3\)"),
        (leave, (None,), r"'leave' called sys.exit"),
        (interrupt, (), "'interrupt' ended with KeyboardInterrupt"),
    ],
)
@pytest.mark.parametrize("wrap", [guarded, lambda function: as_task(function, Role.CLASSICAL)])
def test_no_task_ends_in_a_way_that_engines_hang_on(
    function: Any, args: tuple[Any, ...], message: str, wrap: Any
) -> None:
    with pytest.raises(TaskExitError, match=message) as raised:
        wrap(function)(*args)
    assert isinstance(pickle.loads(pickle.dumps(raised.value)), TaskExitError)


def test_guarded_leaves_exceptions_and_values_alone() -> None:
    assert guarded(plain)(4) == 4
    with pytest.raises(ValueError, match=r"^mine$"):
        guarded(fail)("mine")


# --- events --------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(environment.RUN, str(tmp_path))
    return tmp_path


def test_a_call_is_recorded(run: Path) -> None:
    sample(1)
    started, ended = read_events(run)
    assert isinstance(started, TaskStarted)
    assert isinstance(ended, TaskEnded)
    assert (started.name, started.kind) == ("sample", Role.QUANTUM)
    assert started.task == ended.task != ""
    assert started.worker == ended.worker
    assert ended.error == ""
    assert ended.time >= started.time


def test_only_the_outermost_call_is_recorded(run: Path) -> None:
    @quantum_task
    def outer() -> str:
        sample(1)
        return current_task()

    assert as_task(outer, Role.QUANTUM, task="t-1", worker="w-1")() == "t-1"
    events = read_events(run)
    assert [(type(event), event.task, event.worker) for event in events] == [  # type: ignore[attr-defined]
        (TaskStarted, "t-1", "w-1"),
        (TaskEnded, "t-1", "w-1"),
    ]
    assert current_task() == ""


def test_errors_are_recorded(run: Path) -> None:
    with pytest.raises(ValueError, match="mine"):
        as_task(fail, Role.CLASSICAL)("mine")
    with pytest.raises(TaskExitError):
        as_task(leave, Role.CLASSICAL)(3)
    errors = [event.error for event in read_events(run) if isinstance(event, TaskEnded)]
    assert errors[0] == "ValueError: mine"
    assert errors[1].startswith("TaskExitError: the task 'leave'")


def test_a_record_that_cannot_be_written_does_not_cost_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(environment.RUN, str(tmp_path / "file" / "run"))
    assert sample(3) == 3


def test_threads_have_tasks_and_workers_of_their_own(run: Path) -> None:
    found: set[str] = set()
    barrier = threading.Barrier(3, timeout=30)

    def work() -> None:
        barrier.wait()
        found.add(current_task())

    threads = [threading.Thread(target=as_task(work, Role.QUANTUM)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    events = [event for event in read_events(run) if isinstance(event, TaskStarted)]
    assert len({event.worker for event in events}) == 3


def test_it_is_public() -> None:
    assert hf.quantum_task is quantum_task

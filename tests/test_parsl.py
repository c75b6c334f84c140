"""Parsl: executors under the door and keepers, with a real broker and a fake QPU behind it."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parsl
import parsl_tasks as tasks
import psutil
import pytest
from parsl import DataFlowKernel, bash_app, python_app
from parsl.config import Config
from parsl.executors.errors import InvalidResourceSpecification
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost
from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import SrunLauncher
from parsl.providers import LocalProvider
from parsl.utils import RepresentationMixin
from qiskit import QuantumCircuit
from qiskit.circuit import Delay, Gate, Parameter
from qiskit.circuit.library import get_standard_gate_name_mapping

import hybridflow as hf
from hybridflow import environment
from hybridflow.circuits import survives_qpy
from hybridflow.environment import Role
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    BrokerLostError,
    CircuitError,
    InputError,
    NoSlotError,
    ResourceError,
    SiteError,
    TaskError,
    TaskExitError,
    UnmarkedTaskError,
    WorkerLostError,
)
from hybridflow.events import TaskEnded, read_events
from hybridflow_parsl import (
    ClassicalExecutor,
    QPUExecutor,
    classical_app,
    hybrid_config,
    quantum_app,
    retry_handler,
)
from hybridflow_parsl.blocks import block_error, handle_failed_blocks
from hybridflow_parsl.circuits import CircuitSerializer
from hybridflow_parsl.functions import FunctionSerializer
from hybridflow_parsl.marks import is_marked

SECONDS = 60

FAKE = """
[qpu.fake]
backend = "fake"
tasks_per_slot = 2

[classical]
workers = 1
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("site") / "fake.toml"
    file.write_text(FAKE)
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def kernel(site: Path, run: Path) -> Iterator[DataFlowKernel]:
    """One Parsl for most tests: its start takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv(environment.RUN, str(run))
        patch.setenv("SLURM_NTASKS", "4")
        patch.setenv("fake_QRMI_TOKEN", "secret")
        with parsl.load(hybrid_config(site)) as loaded:
            # The variables must be there until the blocks are.
            assert python_app(tasks.slot_process, executors=["qpu"])().result(SECONDS)
            assert python_app(tasks.process, executors=["classical"])().result(SECONDS)
            patch.undo()
            yield loaded


def on_qpu(
    function: Callable[..., Any], kernel: DataFlowKernel | None = None
) -> Callable[..., Any]:
    return python_app(function, executors=["qpu"], data_flow_kernel=kernel)  # type: ignore[no-any-return]


def on_classical(
    function: Callable[..., Any], kernel: DataFlowKernel | None = None
) -> Callable[..., Any]:
    return python_app(function, executors=["classical"], data_flow_kernel=kernel)  # type: ignore[no-any-return]


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def block(executor: QPUExecutor | ClassicalExecutor) -> list[psutil.Process]:
    """All processes of an executor's block."""
    found = []
    for job in executor.provider.resources.values():
        if psutil.pid_exists(job["remote_pid"]):
            found += psutil.Process(job["remote_pid"]).children(recursive=True)
    return found


# --- tasks ---------------------------------------------------------------------------------------


def test_a_quantum_task_samples_on_the_slot(kernel: DataFlowKernel) -> None:
    counts = on_qpu(tasks.sample)(bell(), 1000).result(SECONDS)
    assert set(counts) == {"00", "11"}
    assert sum(counts.values()) == 1000


def test_short_forms_pin_apps_to_their_executors(kernel: DataFlowKernel) -> None:
    counts = quantum_app(tasks.sample)(bell(), 10)
    assert classical_app(cache=False)(tasks.total)(counts).result(SECONDS) == 10


def test_workers_have_the_run_the_site_and_a_clean_environment(
    kernel: DataFlowKernel, site: Path, run: Path
) -> None:
    quantum = on_qpu(tasks.slot_environment)().result(SECONDS)
    classical = on_classical(tasks.environment)().result(SECONDS)
    for variables in (quantum, classical):
        assert variables[environment.RUN] == str(run)
        assert variables[environment.SITE] == str(site)
        assert not {"SLURM_NTASKS", "fake_QRMI_TOKEN"} & variables.keys()
    assert Path(quantum[environment.BROKER]).is_dir()
    assert quantum[environment.ROLE] == Role.QUANTUM
    assert environment.BROKER not in classical
    assert classical[environment.ROLE] == Role.CLASSICAL
    assert {classical[name] for name in environment.THREAD_LIMITS} == {"1"}


def test_tasks_are_recorded_in_the_run(kernel: DataFlowKernel, run: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        on_classical(divmod)(1, 0).result(SECONDS)
    errors = [event.error for event in read_events(run) if isinstance(event, TaskEnded)]
    assert any("ZeroDivisionError" in error for error in errors)
    assert "" in errors


# --- the mark ------------------------------------------------------------------------------------


def test_a_function_without_the_mark_is_refused(kernel: DataFlowKernel) -> None:
    with pytest.raises(UnmarkedTaskError, match=r"'process'.*quantum_task"):
        on_qpu(tasks.process)().result(SECONDS)


def test_a_marked_function_is_refused_by_classical_workers(kernel: DataFlowKernel) -> None:
    with pytest.raises(TaskError, match=r"slot_process.*classical worker"):
        on_classical(tasks.slot_process)().result(SECONDS)


def test_the_mark_is_seen_through_what_parsl_wraps(kernel: DataFlowKernel) -> None:
    @bash_app(executors=["qpu"])  # type: ignore[untyped-decorator]
    @hf.quantum_task
    def shell() -> str:
        return "true"

    assert shell().result(SECONDS) == 0
    assert on_qpu(tasks.timed)(3).result(SECONDS) == 3


def test_using_a_quantum_task_does_not_mark_a_function() -> None:
    def classical() -> Any:
        return tasks.sample(bell(), 1)

    assert is_marked(tasks.sample)
    assert not is_marked(classical)
    assert not is_marked(python_app(classical).func)


# --- failures of tasks ---------------------------------------------------------------------------


def test_errors_arrive_typed(kernel: DataFlowKernel) -> None:
    with pytest.raises(CircuitError, match="measure"):
        on_qpu(tasks.sample)(QuantumCircuit(1), 10).result(SECONDS)


@pytest.mark.parametrize("place", ["qpu", "classical"])
def test_a_task_that_exits_does_not_hang(kernel: DataFlowKernel, place: str) -> None:
    function = tasks.exits if place == "qpu" else tasks.interrupts
    with pytest.raises(TaskExitError, match=function.__name__):
        python_app(function, executors=[place])().result(SECONDS)


def test_an_exception_that_cannot_be_pickled_does_not_cost_the_worker(
    kernel: DataFlowKernel,
) -> None:
    before = on_classical(tasks.process)().result(SECONDS)
    with pytest.raises(Exception, match="not today"):
        on_classical(tasks.raises_unpicklable)().result(SECONDS)
    assert on_classical(tasks.process)().result(SECONDS) == before


@pytest.mark.parametrize("error", [KeyError("x"), CircuitError("y"), TaskError("z")])
def test_permanent_errors_are_not_tried_again(
    kernel: DataFlowKernel, tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(type(error)):
        on_qpu(tasks.raises)(tmp_path / "tries", error, 1).result(SECONDS)
    assert (tmp_path / "tries").read_text() == "x"


def test_transient_errors_are_tried_again_as_often_as_allowed(
    kernel: DataFlowKernel, tmp_path: Path
) -> None:
    error = BackendLostError("gone")
    assert on_qpu(tasks.raises)(tmp_path / "once", error, 1).result(SECONDS) == 2
    with pytest.raises(BackendLostError):
        on_qpu(tasks.raises)(tmp_path / "twice", error, 2).result(SECONDS)


@pytest.mark.parametrize("place", ["qpu", "classical"])
def test_an_unknown_resource_specification_is_refused_once(
    kernel: DataFlowKernel, place: str
) -> None:
    def task(parsl_resource_specification: dict[str, int]) -> int:
        return 1

    function = hf.quantum_task(task) if place == "qpu" else task
    app = python_app(function, executors=[place])
    with pytest.raises(InvalidResourceSpecification, match="cores"):
        app(parsl_resource_specification={"cores": 1}).result(SECONDS)


def test_a_priority_is_accepted(kernel: DataFlowKernel) -> None:
    executor: QPUExecutor = kernel.executors["qpu"]
    assert executor.submit(tasks.same, {"priority": 1}, 5).result(SECONDS) == 5


# --- circuits on the wire ------------------------------------------------------------------------


class Own(Gate):  # type: ignore[misc]
    """A gate class that QPY does not know."""

    def __init__(self) -> None:
        super().__init__("own", 1, [])


def transpiled() -> QuantumCircuit:
    from qiskit import transpile

    circuit = QuantumCircuit(3, metadata={"a": [1, 2.5]})
    circuit.rx(Parameter("t"), 0)
    circuit.cx(0, 2)
    circuit.measure_all()
    return transpile(circuit, basis_gates=["rz", "sx", "cx"], coupling_map=[[0, 1], [1, 2]])


def test_circuits_travel_as_qpy_both_ways(kernel: DataFlowKernel) -> None:
    circuit = transpiled()
    assert b"QISKIT" in CircuitSerializer().serialize(((circuit,), {}))
    assert on_qpu(tasks.writes_qpy)(circuit).result(SECONDS)
    back = on_qpu(tasks.same)({"nested": [circuit]}).result(SECONDS)["nested"][0]
    assert back == circuit
    assert back.layout == circuit.layout
    assert back.metadata == circuit.metadata
    assert back.parameters == circuit.parameters


def with_own_gate(circuit: QuantumCircuit) -> None:
    circuit.append(Own(), [0])


def with_odd_metadata(circuit: QuantumCircuit) -> None:
    circuit.metadata = {"tuple": (1, 2)}


def with_attribute(circuit: QuantumCircuit) -> None:
    circuit.note = "mine"


def with_parametric_delay(circuit: QuantumCircuit) -> None:
    circuit.append(Delay(Parameter("d"), "dt"), [0])


@pytest.mark.parametrize(
    "change", [with_own_gate, with_odd_metadata, with_attribute, with_parametric_delay]
)
def test_circuits_that_qpy_would_change_are_pickled(
    change: Callable[[QuantumCircuit], None],
) -> None:
    circuit = QuantumCircuit(1)
    change(circuit)
    assert not survives_qpy(circuit)
    serializer = CircuitSerializer()
    message = serializer.serialize([circuit, circuit])
    one, other = serializer.deserialize(message)
    assert b"QISKIT" not in message
    assert one is other
    assert one == circuit
    assert one.metadata == circuit.metadata
    assert vars(one).get("note") == vars(circuit).get("note")
    assert [type(i.operation) for i in one.data] == [type(i.operation) for i in circuit.data]


class OfTheScript:
    """Stands for a class of the user's script, which no worker can import by name."""


@pytest.mark.parametrize("module", ["__main__", "__mp_main__"])
@pytest.mark.parametrize("make", [OfTheScript, lambda: [OfTheScript], lambda: {1: OfTheScript()}])
def test_classes_of_the_script_travel_by_value(
    monkeypatch: pytest.MonkeyPatch, module: str, make: Any
) -> None:
    data = make()
    monkeypatch.setattr(OfTheScript, "__module__", module)
    written = CircuitSerializer().serialize(data)
    assert b"Stands for a class" in written


@pytest.mark.parametrize("data", [{"0011": 3}, [1.5, None, b"x"], np.arange(3), ("a", {1, 2})])
def test_plain_data_is_a_pickle_of_its_own(data: Any) -> None:
    serializer = CircuitSerializer()
    written = serializer.serialize(data)
    assert b"dill" not in written
    np.testing.assert_equal(serializer.deserialize(written), data)


def test_every_standard_gate_survives() -> None:
    circuit = QuantumCircuit(5, 5)
    for gate in get_standard_gate_name_mapping().values():
        if not isinstance(gate, Delay):
            circuit.append(gate.copy(), range(gate.num_qubits), range(gate.num_clbits))
    assert survives_qpy(circuit)
    serializer = CircuitSerializer()
    assert serializer.deserialize(serializer.serialize(circuit)) == circuit


def test_equal_circuits_are_not_the_same_object() -> None:
    serializer = CircuitSerializer()
    message = serializer.serialize(bell())
    first, second = serializer.deserialize(message), serializer.deserialize(message)
    first.x(0)
    assert first != second


# --- processes that are killed -------------------------------------------------------------------


def test_a_worker_killed_at_work_costs_one_try(kernel: DataFlowKernel, tmp_path: Path) -> None:
    assert on_qpu(tasks.dies_once)(tmp_path / "tries").result(SECONDS) == 2


@pytest.mark.parametrize("place", ["qpu", "classical"])
def test_workers_killed_while_idle_are_replaced(kernel: DataFlowKernel, place: str) -> None:
    app = python_app(tasks.slot_process if place == "qpu" else tasks.process, executors=[place])
    seen: dict[int, psutil.Process] = {}
    while len(seen) < kernel.executors[place].workers_per_node:
        pid = app().result(SECONDS)
        seen[pid] = psutil.Process(pid)
    for process in seen.values():
        process.kill()
    # One of them had the queue's lock: with Parsl's own locks nobody would ever get a task again.
    assert app().result(SECONDS) not in seen


def test_a_pool_that_lost_its_books_is_replaced(
    kernel: DataFlowKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsl's own pool would go on, send heartbeats, and never start a task again."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    app = python_app(tasks.process, executors=["classical"])
    pool = psutil.Process(app().result(SECONDS)).parent()
    assert pool is not None
    spawned = [child for child in pool.children() if "spawn_main" in " ".join(child.cmdline())]
    books = min(spawned, key=psutil.Process.create_time)  # made before all workers
    books.kill()
    psutil.wait_procs([pool], timeout=SECONDS)
    after = psutil.Process(app().result(SECONDS)).parent()
    assert after is not None
    assert after != pool


def test_a_broker_killed_in_the_middle_of_a_task(kernel: DataFlowKernel, tmp_path: Path) -> None:
    between, go = tmp_path / "between", tmp_path / "go"
    future = on_qpu(tasks.sample_twice)(bell(), between, go)
    wait_for(between.exists)
    brokers = [p for p in block(kernel.executors["qpu"]) if "hybridflow.broker" in p.cmdline()]
    assert brokers
    for process in brokers:
        process.kill()
    psutil.wait_procs(brokers, timeout=5)
    go.touch()
    assert future.result(SECONDS) == 20


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- drivers that are killed ---------------------------------------------------------------------

DRIVER = """
import sys, time
import parsl
import hybridflow as hf
from hybridflow_parsl import classical_app, hybrid_config, quantum_app

SHOTS = 100

def twice(number):
    return 2 * number

@quantum_app
def sample(circuit):
    return hf.Sampler().run([circuit], shots=twice(SHOTS)).result()[0].data.meas.get_counts()

@classical_app
def wait():
    time.sleep(600)

def bell():
    from qiskit import QuantumCircuit
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit

if __name__ == "__main__":
    with parsl.load(hybrid_config(sys.argv[1])) as kernel:
        future = wait()
        print(sum(sample(bell()).result().values()), flush=True)
        SHOTS = 10
        print(sum(sample(bell()).result().values()), flush=True)
        blocks = [e.provider.resources for e in kernel.executors.values() if hasattr(e, "provider")]
        print(*[job["remote_pid"] for jobs in blocks for job in jobs.values()], flush=True)
        future.result()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_ended_leaves_nothing(
    site: Path, tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(site)],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "200\n"
        assert driver.stdout.readline() == "20\n"
        blocks = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
        started = psutil.Process(driver.pid).children(recursive=True)
        started += blocks + [child for each in blocks for child in each.children(recursive=True)]
        names = [" ".join(process.cmdline()) for process in started]
        for part in ("interchange", "hybridflow.broker", "hybridflow_parsl.pool", "spawn_main"):
            assert any(part in name for name in names)
        if number is signal.SIGINT:  # as the terminal does it
            os.killpg(driver.pid, number)
        else:
            driver.send_signal(number)
        assert driver.wait(SECONDS) != 0
    _, alive = psutil.wait_procs(started, timeout=SECONDS)
    assert alive == []
    assert list(tmp_path.glob("hybridflow-*")) == []


# --- executors that have no workers --------------------------------------------------------------


def no_blocks() -> LocalProvider:
    return LocalProvider(init_blocks=0, max_blocks=0)


def test_submit_returns_at_once_and_shutdown_fails_what_is_pending(
    site: Path, tmp_path: Path
) -> None:
    config = hybrid_config(
        site,
        run_dir=tmp_path / "parsl",
        exit_mode="cleanup",
        qpu_provider=no_blocks(),
        classical_provider=no_blocks(),
    )
    with DataFlowKernel(config) as own:
        executors = [own.executors["qpu"], own.executors["classical"]]
        pending = [on_qpu(tasks.same, own)(1), on_classical(tasks.process, own)()]
        dependent = on_classical(abs, own)(pending[0])
        wait_for(lambda: all(executor.outstanding() for executor in executors))
    for future in pending:
        with pytest.raises(TaskError, match="shut down"):
            future.result(SECONDS)
    assert isinstance(dependent.exception(SECONDS), Exception)
    with pytest.raises(TaskError, match="shut down"):
        executors[0].submit(tasks.same, {}, 1)


def test_a_slot_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[qpu.fake]\nbackend = "fake"\nrefuse_acquires = 99\n')
    config = hybrid_config(file, run_dir=tmp_path / "parsl", classical_provider=no_blocks())
    with DataFlowKernel(config) as own:
        with pytest.raises(ResourceError, match=r"no QPU slot.*refused") as caught:
            on_qpu(tasks.same, own)(1).result(SECONDS)
        with pytest.raises(type(caught.value)):
            on_qpu(tasks.same, own)(1).result(SECONDS)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))


def test_an_interchange_that_dies_is_noticed(site: Path, tmp_path: Path) -> None:
    config = hybrid_config(site, run_dir=tmp_path, classical_provider=no_blocks())
    with DataFlowKernel(config) as own:
        executor = own.executors["classical"]
        pending = on_classical(tasks.process, own)()
        wait_for(lambda: executor.outstanding() == 1)
        interchange = psutil.Process(executor.interchange_proc.pid).children(recursive=True)[-1]
        interchange.kill()
        with pytest.raises(ResourceError, match="interchange"):
            pending.result(SECONDS)


@pytest.mark.parametrize(
    ("role", "state", "status", "kind", "transient"),
    [
        (Role.QUANTUM, JobState.MISSING, 2, NoSlotError, False),
        (Role.QUANTUM, JobState.MISSING, 3, AcquireError, False),
        (Role.QUANTUM, JobState.MISSING, 75, AcquireError, True),
        (Role.QUANTUM, JobState.FAILED, 75, BrokerLostError, True),
        (Role.CLASSICAL, JobState.MISSING, 1, WorkerLostError, False),
    ],
)
def test_the_doors_exit_status_decides_the_error(
    tmp_path: Path,
    role: Role,
    state: JobState,
    status: int,
    kind: type[Exception],
    transient: bool,
) -> None:
    stderr = tmp_path / "err"
    stderr.write_text("noise\nhybridflow: hint\nerror: the reason\n")
    failed = JobStatus(state, exit_code=status, stderr_path=str(stderr))
    error = block_error(RuntimeError("Parsl's"), "x", role, {"0": failed})
    assert type(error) is kind
    assert error.transient is transient
    assert "hint; the reason" in str(error)
    assert "noise" not in str(error)
    assert str(stderr) in str(error)


RUNNING = (JobState.RUNNING, None)
DONE = (JobState.COMPLETED, 0)
GIVEN_BACK = (JobState.SCALED_IN, None)
LOST = (JobState.FAILED, 137)
BUSY = (JobState.MISSING, 75)
NO_SLOT = (JobState.MISSING, 2)


@pytest.mark.parametrize(
    ("blocks", "hopeless"),
    [
        ([], False),
        ([RUNNING], False),
        ([DONE], False),
        ([NO_SLOT], True),
        ([NO_SLOT, RUNNING], False),
        ([GIVEN_BACK, NO_SLOT], True),
        ([NO_SLOT, GIVEN_BACK], True),
        ([LOST], False),
        ([BUSY, LOST], False),
        ([BUSY, LOST, BUSY], True),
        ([LOST, LOST, DONE, LOST], False),
    ],
)
def test_an_executor_is_given_up_when_blocks_do_not_come_up(
    site: Path, blocks: list[tuple[JobState, int | None]], hopeless: bool
) -> None:
    executor = QPUExecutor(site=site)
    states = {str(n): JobStatus(state, exit_code=code) for n, (state, code) in enumerate(blocks)}
    handle_failed_blocks(executor, states)
    assert executor.bad_state_is_set is hopeless


# --- functions on the wire -----------------------------------------------------------------------


def of_script(code: str) -> dict[str, Any]:
    """Run a script's text as if it were the main module's, in which nothing can be imported."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(code, space)
    return space


def test_functions_bring_the_globals_that_they_use() -> None:
    script = of_script("""
import math
ROOT = 2.0
NOTES = []
def helper(x):
    return math.sqrt(x) * ROOT
def task(x):
    return helper(x) + len(NOTES)
""")
    serializer = FunctionSerializer()

    def call() -> float:
        sent: float = serializer.deserialize(serializer.serialize(script["task"]))(9.0)
        return sent

    assert call() == 6.0
    script["ROOT"] = 3.0
    assert call() == 9.0
    script["NOTES"].append("changed in place")
    assert call() == 10.0


def test_a_function_is_written_once_while_nothing_changes() -> None:
    script = of_script("SCALE = 2\ndef task(x):\n    return SCALE * x\n")
    serializer = FunctionSerializer()
    first = serializer.serialize(script["task"])
    assert serializer.serialize(script["task"]) is first
    script["SCALE"] = 3
    assert serializer.serialize(script["task"]) is not first


def test_a_global_that_cannot_be_sent_is_named() -> None:
    script = of_script("""
scale = 2
generator = (n for n in ())
def helper():
    return next(generator)
def task(x):
    return scale * x if x else helper()
""")
    with pytest.raises(TaskError, match=r"'task'.*'generator'"):
        FunctionSerializer().serialize(script["task"])


# --- configuration -------------------------------------------------------------------------------


def test_constructors_keep_what_they_were_given(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RepresentationMixin, "_validate_repr", True)
    executor = QPUExecutor("mine", site, "fake", 5, False, worker_debug=True)
    for part in ("label='mine'", "resource='fake'", "tasks_per_slot=5", "require_mark=False"):
        assert part in repr(executor)
    assert executor.workers_per_node == 5
    assert executor.monitor_resources() is False
    classical = ClassicalExecutor(site=site, workers=3)
    assert "workers=3" in repr(classical)
    assert classical.workers_per_node == 3
    assert classical.monitor_resources() is True


def test_the_site_decides_what_is_not_given(site: Path) -> None:
    assert QPUExecutor(site=site).workers_per_node == 2
    assert ClassicalExecutor(site=site).workers_per_node == 1
    assert QPUExecutor().workers_per_node == hf.load_site().resource().tasks_per_slot


@pytest.mark.parametrize(
    ("provider", "reason"),
    [
        (LocalProvider(nodes_per_block=2), "nodes_per_block=2"),
        (LocalProvider(launcher=SrunLauncher()), "SrunLauncher"),
    ],
)
def test_a_provider_that_would_enter_the_slot_twice_is_refused(
    site: Path, provider: LocalProvider, reason: str
) -> None:
    with pytest.raises(SiteError, match=reason):
        QPUExecutor(site=site, provider=provider)


def test_bad_input_is_refused(site: Path, tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="no resource 'nope'"):
        hybrid_config(site, resource="nope")
    with pytest.raises(InputError, match="workers"):
        hybrid_config(site, workers=0)
    with pytest.raises(InputError, match="tasks_per_slot"):
        hybrid_config(site, tasks_per_slot=-1)
    with pytest.raises(InputError, match="tasks_per_slot"):
        QPUExecutor(site=site, tasks_per_slot=0)
    with pytest.raises(InputError, match="threads"):
        ClassicalExecutor(site=site, threads=0)
    with pytest.raises(InputError, match="two words"):
        hybrid_config(site, run_dir=tmp_path / "two words")


def test_parsls_files_go_to_the_run(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.RUN, str(tmp_path))
    assert hybrid_config(site).run_dir == str(tmp_path / "parsl")


def test_options_of_parsls_own_are_passed_on(site: Path) -> None:
    config = hybrid_config(site, retries=3, strategy="none", exit_mode="cleanup")
    assert isinstance(config, Config)
    assert (config.retries, config.strategy, config.exit_mode) == (3, "none", "cleanup")


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (WorkerLost(1, "here"), True),
        (ManagerLost(b"m", "here"), True),
        (BackendLostError("x"), True),
        (AcquireError("x"), False),
        (CircuitError("x"), False),
        (TaskExitError("x"), False),
        (ValueError("the user's"), False),
        (InvalidResourceSpecification({"x"}), False),
    ],
)
def test_what_is_worth_another_try(error: Exception, again: bool) -> None:
    assert (retry_handler(error, {}) <= 1) is again

"""Routes: which resource a request goes to, when it goes elsewhere, and what its result says."""

import json
import os
import pickle
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emulated import bell
from pool_tasks import where_it_ran
from qiskit import QuantumCircuit
from qiskit.circuit.library import CXGate, Measure, SXGate
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.transpiler import InstructionProperties, Target

import hybridflow as hf
from hybridflow import environment, slot
from hybridflow.broker.outlook import Outlook
from hybridflow.errors import (
    CircuitError,
    InputError,
    NoSlotError,
    RequestCancelledError,
    ResourceError,
    RouteWarning,
    SiteError,
    TooLargeError,
    VendorJobError,
)
from hybridflow.primitives import candidates
from hybridflow.primitives.merit import log_fidelity
from hybridflow.records import Capabilities, Description
from hybridflow.report import write_report
from hybridflow.route import Route
from hybridflow.site import load_site
from hybridflow.slot import Origin, find_slots
from hybridflow.slurm import coscheduled_job
from hybridflow.targets import snapshot_of
from hybridflow.testing import QpuEmulator, qpu_emulator

SECONDS = 60


def table(name: str, **keys: Any) -> str:
    return _table(f"qpu.{name}", {"backend": "fake"} | keys)


def route(called: str = "r", **keys: Any) -> str:
    return _table(f"route.{called}", keys)


def _table(heading: str, keys: dict[str, Any]) -> str:
    lines = (f"{key} = {json.dumps(value)}" for key, value in keys.items())
    return "\n".join([f"[{heading}]", *lines, ""])


Open = Callable[..., Path]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Write a site file of tables, and make it the default one."""
    monkeypatch.setattr(candidates, "_ABSENT_SECONDS", 0.0)
    candidates._absent.clear()

    def write(*tables: str) -> Path:
        slot.close_all()
        file = tmp_path / "site.toml"
        file.write_text("\n".join(tables))
        monkeypatch.setenv(environment.SITE, str(file))
        return file

    yield write
    slot.close_all()


def origin(job: Any) -> dict[str, Any]:
    found: dict[str, Any] = job.result(timeout=SECONDS).metadata["hybridflow"]
    return found


def wide(qubits: int) -> QuantumCircuit:
    circuit = QuantumCircuit(qubits)
    circuit.h(0)
    circuit.measure_all()
    return circuit


def run(circuit: QuantumCircuit | None = None, **options: Any) -> Any:
    return hf.Sampler(resource="r", **options).run([circuit or bell()], shots=10)


# --- the site file -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "missing required field `any_of`"),
        ({"any_of": []}, "`any_of` must name at least one resource"),
        ({"any_of": ["a", "a"]}, "name each resource once"),
        ({"any_of": ["a"], "fall_back": "a"}, "name each resource once"),
        ({"any_of": ["a", "c"]}, "names 'c', which is no resource"),
        ({"any_of": ["a"], "fall_back": "r"}, "names 'r', which is no resource"),
        ({"any_of": ["a"], "prefer": "price"}, "'shortest_wait', 'calibration', 'order'"),
        ({"any_of": ["a"], "mix": "always"}, "route.r.mix"),
        ({"any_of": ["a"], "max_wait": 5}, "`fall_back` must say where to go"),
        ({"any_of": ["a"], "fall_back": "b", "max_wait": -1}, "at least 0"),
        ({"any_of": ["a"], "any": 1}, "unknown key `any`"),
        ({"any_of": ["a"], "name": "b"}, "unknown key `name`"),
    ],
)
def test_a_wrong_route_is_explained(site: Open, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(SiteError) as caught:
        load_site(site(table("a"), table("b"), route(**keys)))
    assert words in str(caught.value)
    assert "route" in str(caught.value)


def test_names_of_routes_and_resources_do_not_collide(site: Open) -> None:
    with pytest.raises(SiteError, match="a resource of that name"):
        load_site(site(table("a"), route("a", any_of=["a"])))


def test_an_unknown_name_is_answered_with_all_names(site: Open) -> None:
    found = load_site(site(table("a"), route(any_of=["a"])))
    with pytest.raises(SiteError, match="it has: a; its routes: r"):
        found.resource("b")
    with pytest.raises(SiteError, match=r"'r' is a route .* must be named: a"):
        found.resource("r")


def test_a_target_is_one_resources(site: Open) -> None:
    site(table("a", num_qubits=3), table("b"), route(any_of=["a", "b"]))
    assert hf.target("a").num_qubits == 3
    with pytest.raises(SiteError, match="'r' is a route, and each of its resources has a target"):
        hf.transpile(bell(), "r")
    site('default = "r"', table("a"), table("b"), route(any_of=["a", "b"]))
    with pytest.raises(SiteError, match="'r' is a route"):
        hf.target()
    assert origin(hf.Sampler().run([bell()], shots=5))["route"] == "r"


# --- which resource ------------------------------------------------------------------------------


def test_capability_comes_first(site: Open) -> None:
    site(
        table("small", num_qubits=3, basis_gates=["h", "cx"]),
        table("large", num_qubits=6, basis_gates=["sx", "rz", "cz"], max_shots=5),
        route(any_of=["small", "large"], prefer="order"),
    )
    assert origin(run())["resource"] == "small"
    assert origin(run())["route"] == "r"
    large = hf.Sampler(resource="r", transpile=True).run([wide(5)], shots=5)
    assert origin(large)["resource"] == "large"
    with pytest.raises(CircuitError, match=r"no resource of the route 'r'.*'small'.*'large'"):
        hf.Sampler(resource="r").run([swap()], shots=5)  # not without transpiling
    with pytest.raises(TooLargeError, match=r"no resource of the route 'r'.*'small'.*'large'"):
        run(wide(7), transpile=True)


def swap() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.iswap(0, 1)
    circuit.measure_all()
    return circuit


def test_requests_spread_to_where_they_are_done_first(site: Open) -> None:
    site(
        table("slow", seconds_per_job=0.12, max_pubs=1),
        table("fast", seconds_per_job=0.03, max_pubs=1),
        route(any_of=["slow", "fast"]),
    )
    jobs = [run() for _ in range(20)]
    spread = Counter(origin(job)["resource"] for job in jobs)
    assert 0 < spread["slow"] < spread["fast"]


def test_a_result_never_mixes_resources(site: Open) -> None:
    site(table("a"), table("b"), route(any_of=["a", "b"]))
    job = hf.Sampler(resource="r").run([bell()] * 5, shots=3)
    assert origin(job)["batch_pubs"] == 5
    assert (
        hf.Sampler(resource="r").run([]).result(SECONDS).metadata["hybridflow"]["resource"] == "a"
    )


def test_a_job_is_picklable_and_has_a_state(site: Open) -> None:
    site(table("a"), table("b"), route(any_of=["a", "b"]))
    job = run(seed=5)
    again = pickle.loads(pickle.dumps(job))
    assert again.done()
    assert origin(again) == origin(job)
    assert again.job_id() == job.job_id()


# --- calibration ---------------------------------------------------------------------------------


def device(cx_error: float | None, readout: float | None) -> Target:
    target = Target(num_qubits=2)
    target.add_instruction(SXGate(), {(0,): InstructionProperties(error=cx_error and 1e-4)})
    target.add_instruction(CXGate(), {(0, 1): InstructionProperties(error=cx_error)})
    places = {(qubit,): InstructionProperties(error=readout) for qubit in (0, 1)}
    target.add_instruction(Measure(), places)
    return target


def native() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.sx(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def test_the_figure_of_merit_is_the_product_of_fidelities() -> None:
    merit = log_fidelity(native(), device(0.1, 0.2))
    assert 2.718281828459045**merit == pytest.approx((1 - 1e-4) * 0.9 * 0.8 * 0.8)
    unknown = log_fidelity(native(), device(None, None))
    assert unknown == log_fidelity(native(), device(1.0, 0.1)) == float("-inf")


def candidate(
    name: str, target: Target, wait: float = 0.0, *, simulator: bool = True
) -> candidates.Candidate:
    capabilities = Capabilities(simulator=simulator)
    return candidates.Candidate(
        name=name,
        connection=None,  # type: ignore[arg-type]  # not asked
        description=Description(
            resource=name, backend="x", capabilities=capabilities, target=snapshot_of(target)
        ),
        outlook=Outlook(wait_seconds=wait),
        pubs=[SamplerPub(native(), shots=10)],
    )


def test_the_best_calibrated_comes_first() -> None:
    found = [
        candidate("unknown", device(None, None), 0),
        candidate("bad", device(0.2, 0.1), 1),
        candidate("good", device(0.01, 0.1), 2),
    ]
    names = [one.name for one in candidates.ranked("calibration", found)]
    assert names == ["good", "bad", "unknown"]
    assert [one.name for one in candidates.ranked("shortest_wait", found[::-1])] == names[::-1]


def test_qpus_and_simulators_do_not_stand_side_by_side() -> None:
    both = [candidate("qpu", device(0.1, 0.1), simulator=False), candidate("sim", device(0, 0))]
    with pytest.raises(SiteError, match="would mix samples of a QPU"):
        candidates._refuse_mixture(Route(name="r", any_of=("qpu", "sim")), both)
    candidates._refuse_mixture(Route(name="r", any_of=("qpu",), fall_back="sim"), both)


# --- elsewhere -----------------------------------------------------------------------------------


def test_a_wait_over_the_limit_falls_back_and_says_so(site: Open) -> None:
    site(
        table("busy", seconds_per_job=SECONDS),
        table("spare"),
        route(any_of=["busy"], fall_back="spare", max_wait=10),
    )
    first = run()
    with pytest.warns(RouteWarning, match="'r' falls back to 'spare', a simulator: busy: the wait"):
        second = run()
    assert origin(second)["resource"] == "spare"
    assert "the limit 10 s" in origin(second)["fallback"]
    assert not first.done()
    assert first.cancel()
    with pytest.raises(RequestCancelledError):
        first.result(SECONDS)
    assert first.cancelled()


def test_in_a_slot_of_the_spare_one_alone_it_is_a_fallback(
    site: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    site(table("spare"))
    monkeypatch.setattr(
        slot, "route_here", lambda name: Route(name="r", any_of=(), fall_back="spare")
    )
    with pytest.warns(RouteWarning, match="can be had in this slot"):
        found = origin(run())
    assert found["fallback"] == "none of the route's other resources can be had in this slot"


def test_one_that_cannot_be_had_is_done_without_until_it_can(site: Open) -> None:
    site(
        table("a", refuse_acquires=1),
        table("b"),
        route(any_of=["a", "b"], prefer="order"),
    )
    assert origin(run())["resource"] == "b"
    slot.close_all()  # a new backend would be refused anew
    site(table("a"), table("b"), route(any_of=["a", "b"], prefer="order"))
    assert origin(run())["resource"] == "a"


def test_without_any_resource_the_error_says_why(site: Open) -> None:
    site(
        table("a", refuse_acquires=9),
        table("b", num_qubits=3),
        route(any_of=["a", "b"]),
    )
    with pytest.raises(ResourceError, match=r"a: .*is refused.*b: .*5 qubits") as caught:
        run(wide(5))
    assert caught.value.transient


def test_what_a_device_does_not_take_goes_elsewhere(site: Open) -> None:
    site(
        table("a", fail_jobs=[1, 2, 3], fail_transient=True),
        table("b"),
        route(any_of=["a", "b"], prefer="order"),
    )
    assert origin(run())["resource"] == "b"


def test_at_the_last_resource_a_request_waits(site: Open) -> None:
    site(table("a", fail_jobs=[1, 2], fail_transient=True), route(any_of=["a"]))
    assert origin(run())["resource"] == "a"


def test_what_failed_for_good_is_not_run_elsewhere(site: Open) -> None:
    site(
        table("a", fail_jobs=[1]),
        table("b"),
        route(any_of=["a", "b"], prefer="order"),
    )
    with pytest.raises(VendorJobError):
        run().result(SECONDS)


# --- what is paid for ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulator() -> Iterator[QpuEmulator]:
    with qpu_emulator("a", "b", seconds_per_job=0.02) as running:
        yield running


def routed(emulator: QpuEmulator, *order: str, **more: Any) -> tuple[str, str]:
    return emulator.site, route(any_of=list(order), prefer="order", **more)


def test_a_resumed_run_claims_what_was_paid_for_wherever_that_was(
    site: Open, emulator: QpuEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.RUN, str(tmp_path / "run"))
    before = len(emulator.log())

    def session(name: str, *order: str, samples: int) -> list[dict[str, Any]]:
        monkeypatch.setenv(environment.SESSION, f"{name}-1-0-0")
        site(*routed(emulator, *order))
        found = [origin(run(seed=number)) for number in range(samples)]
        slot.close_all()
        return found

    first = session("first", "a", "b", samples=2)
    again = session("again", "b", "a", samples=3)
    assert [one["resource"] for one in (*first, *again)] == ["a", "a", "a", "a", "b"]
    assert again[0]["vendor_job_id"] == first[0]["vendor_job_id"]
    assert [entry.resource for entry in emulator.log()[before:]] == ["a", "a", "b"]
    page = write_report(tmp_path / "run").read_text()
    assert "QPU a" in page
    assert "QPU b" in page
    assert "requests by r" in page
    assert "a 4, b 1" in page


def test_what_cannot_be_claimed_now_is_not_paid_for_again_unsaid(
    site: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.RUN, str(tmp_path / "run"))
    both = route(any_of=["one", "two"], prefer="order")
    site(table("one"), table("two"), both)
    assert origin(run())["resource"] == "one"
    site(table("one", refuse_acquires=9), table("two"), both)
    with pytest.warns(RouteWarning, match=r"'one', which cannot be had now.* paid for again"):
        assert origin(run())["resource"] == "two"


def test_a_device_that_goes_offline_is_replaced_and_the_result_says_so(
    site: Open, emulator: QpuEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.RUN, str(tmp_path / "run"))
    site(*routed(emulator, "a", "b", fall_back="sim"), table("sim"))
    assert origin(run())["resource"] == "a"
    before = len(emulator.log())
    emulator.faults(away_seconds=600.0)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = origin(run())
        assert any(one.category is RouteWarning for one in caught)
    finally:
        emulator.faults()
    assert (found["resource"], found["simulator"]) == ("sim", True)
    assert "503" in found["fallback"]
    assert len(emulator.log()) == before
    page = write_report(tmp_path / "run").read_text()
    assert "1 request of the route r fell back to sim, a simulator: a: " in page


# --- through the door ----------------------------------------------------------------------------

SCRIPT = """
import hybridflow as hf
from emulated import bell
from hybridflow.errors import HybridflowError

def origin(**options):
    try:
        found = hf.Sampler(**options).run([bell()], shots=5).result().metadata["hybridflow"]
        print(found["resource"], found["route"] or "-")
    except HybridflowError as error:
        print(type(error).__name__)

print(hf.current_slot().resource, hf.current_slot().route.name)
origin()
origin(resource="r")
origin(resource="b")
origin(resource="gone")
origin(resource="other")
print(hf.target("b").num_qubits)
"""


def through_the_door(file: Path, *, name: str = "r") -> subprocess.CompletedProcess[str]:
    script = file.with_name("script.py")
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "hybridflow", "slot", "run", "--resource", name, "--"]
    path = os.fspath(Path(__file__).parent)
    return subprocess.run(
        [*command, sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_the_door_opens_a_broker_for_each_resource_that_can_be_had(site: Open) -> None:
    file = site(
        table("gone", refuse_acquires=9),
        table("a"),
        table("b", num_qubits=4),
        table("elsewhere"),
        route(any_of=["gone", "a", "b"], prefer="order"),
        route("other", any_of=["elsewhere"]),
    )
    ended = through_the_door(file)
    assert ended.returncode == 0, ended.stderr
    assert "the route does without 'gone' in this slot" in ended.stderr
    lines = ["a r", "a r", "a r", "b -", "NoSlotError", "NoSlotError", "4"]
    assert ended.stdout.splitlines() == lines


def test_the_door_stays_closed_where_nothing_can_be_had(site: Open) -> None:
    tables = (table(name, refuse_acquires=9) for name in ("a", "b"))
    ended = through_the_door(site(*tables, route(any_of=["a", "b"])))
    assert ended.returncode == 75
    assert "is refused, as its options say" in ended.stderr


# --- inside a Slurm job --------------------------------------------------------------------------

JOB = {"SLURM_JOB_ID": "7"}


def acquired(*names: str) -> dict[str, str]:
    types = ",".join("fake" for _ in names)
    return {**JOB, "QRMI_JOB_QPU_RESOURCES": ",".join(names), "QRMI_JOB_QPU_TYPES": types}


def test_in_a_job_a_route_has_the_slots_that_were_granted(site: Open) -> None:
    keys = {"any_of": ["a", "b", "c"], "fall_back": "sim"}
    found = load_site(site(*map(table, "abc"), table("sim"), route(**keys)))
    slots = find_slots(found, "r", acquired("a", "c"))
    assert [(one.resource, one.origin) for one in slots] == [
        ("a", Origin.SLURM),
        ("c", Origin.SLURM),
        ("sim", Origin.SITE),
    ]
    for granted in (acquired("sim"), JOB):
        with pytest.raises(NoSlotError, match=r"no slot of the route 'r'.*--qpu=a,b,c"):
            find_slots(found, "r", granted)


def test_a_submitted_job_asks_for_all_slots_of_a_route(site: Open) -> None:
    slots = '[slurm.slots.b]\nqpu = false\ngres = "qpu:b:1"\n'
    tables = (table("a"), table("b"), table("sim"), route(any_of=["a", "b"], fall_back="sim"))
    job = coscheduled_job(["true"], load_site(site(*tables, slots)), resource="r", nodes=0)
    assert (job.components[0].qpu, job.components[0].gres) == (("a",), ("qpu:b:1",))


def test_a_device_to_fall_back_to_needs_a_slot_of_its_own(
    site: Open, emulator: QpuEmulator
) -> None:
    keys = {"any_of": ["one"], "fall_back": "b"}
    found = load_site(site(emulator.site, table("one"), route(**keys)))
    slots = find_slots(found, "r", acquired("one"))
    assert [one.resource for one in slots] == ["one"]


def test_a_route_is_left_with_what_is_here() -> None:
    whole = Route(name="r", any_of=("a", "b"), fall_back="c", max_wait=1)
    assert whole.within(frozenset("bx")).resources == ("b",)
    assert whole.within(frozenset("ac")).resources == ("a", "c")


# --- on an engine's workers ----------------------------------------------------------------------


@pytest.fixture
def two(site: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.fspath(Path(__file__).parent))
    return site(
        table("few", num_qubits=1, tasks_per_slot=1),
        table("many", tasks_per_slot=1),
        route(any_of=["few", "many"], prefer="order"),
    )


def test_local_pools_have_the_whole_route(two: Path) -> None:
    with hf.open_pools(two, resource="r", workers=1) as pools:
        assert pools.quantum.submit(where_it_ran).result(SECONDS) == ("many", "r")


def test_parsls_quantum_worker_has_the_whole_route(two: Path) -> None:
    import parsl
    from parsl.config import Config

    from hybridflow_parsl import QPUExecutor

    executor = QPUExecutor(site=two, resource="r")
    assert executor.tasks_per_slot == 2
    config = Config([executor], strategy_period=0.2, initialize_logging=False, usage_tracking=0)
    with parsl.load(config):
        assert parsl.python_app(where_it_ran)().result(SECONDS) == ("many", "r")


def test_dasks_quantum_worker_has_the_whole_route(two: Path) -> None:
    from dask.distributed import Client

    from hybridflow_dask import HybridCluster

    with HybridCluster(two, resources="r", workers=0) as cluster, Client(cluster) as client:
        assert client.submit(where_it_ran).result(SECONDS) == ("many", "r")


def test_a_route_is_refused_where_slurm_gives_the_workers(site: Open) -> None:
    from hybridflow_parsl import hybrid_config

    blocks = '[slurm.blocks]\nkind = "elastic"\n'
    file = site(table("a"), route(any_of=["a"]), blocks)
    with pytest.raises(SiteError, match=r"'r' is a route .* must be named: a"):
        hybrid_config(file, resource="r")


def test_a_resource_is_not_entered_twice(site: Open) -> None:
    from hybridflow_dask import HybridCluster

    with pytest.raises(InputError, match="names one of a, b, a twice"):
        HybridCluster(site(table("a"), table("b"), route(any_of=["a", "b"])), resources=["r", "a"])

"""Sampler and Estimator: Qiskit's interface in full, typed errors, before anything is sent."""

import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from desk import Desk
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Clbit, Parameter, ParameterVector
from qiskit.primitives import (
    BaseEstimatorV2,
    BasePrimitiveJob,
    BaseSamplerV2,
    PrimitiveResult,
    PubResult,
    SamplerPubResult,
    StatevectorEstimator,
    StatevectorSampler,
)
from qiskit.providers import JobStatus
from qiskit.quantum_info import Pauli, SparsePauliOp

import hybridflow as hf
from hybridflow import environment, slot
from hybridflow.errors import (
    CircuitError,
    NoSlotError,
    RequestCancelledError,
    RequestError,
    SiteError,
    TooLargeError,
    VendorJobError,
)
from hybridflow.records import JobState, Primitive, TargetOperation
from hybridflow.tasks import as_task
from hybridflow.testing.fake_qpu import FakeOptions
from hybridflow.wire import circuit_from_qpy


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2, name="bell", metadata={"kind": "bell"})
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def two_registers() -> QuantumCircuit:
    """A three-qubit sweep into registers of 2 and 9 bits, as in Qiskit's own documentation."""
    alpha, beta = ClassicalRegister(2, "alpha"), ClassicalRegister(9, "beta")
    circuit = QuantumCircuit(QuantumRegister(3), alpha, beta)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.ry(Parameter("a"), 1)
    circuit.rz(Parameter("b"), 0)
    circuit.cx(1, 2)
    circuit.h(0)
    circuit.measure([0, 1], alpha)
    circuit.measure(2, beta[8])
    return circuit


def ansatz() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    theta = ParameterVector("t", 3)
    circuit.ry(theta[0], 0)
    circuit.cx(0, 1)
    circuit.ry(theta[1], 1)
    circuit.rz(2 * theta[2] + theta[0], 0)
    return circuit


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk()
    monkeypatch.setattr(slot, "connect", lambda resource=None: made)
    yield made
    made.close()


@pytest.fixture
def desk_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(fake: FakeOptions | None = None, **capabilities: Any) -> Desk:
        made.append(Desk(fake, **capabilities))
        monkeypatch.setattr(slot, "connect", lambda resource=None: made[-1])
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=["fake", "aer"])
def embedded(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A real broker in this process, over the fake QPU and over Aer."""
    site = tmp_path / "site.toml"
    site.write_text(f"[qpu.{request.param}]\nbackend = '{request.param}'\n")
    monkeypatch.setenv(environment.SITE, str(site))
    return str(request.param)


# --- the yardstick: Qiskit's own primitives ------------------------------------------------------


def same_shapes(ours: PubResult, theirs: PubResult) -> None:
    assert type(ours) is type(theirs)
    assert ours.data.shape == theirs.data.shape
    assert list(ours.data) == list(theirs.data)
    # A backend may tell more, never less.
    assert set(ours.metadata) >= set(theirs.metadata)
    assert ours.metadata["circuit_metadata"] == theirs.metadata["circuit_metadata"]
    for name in theirs.data:
        assert ours.data[name].shape == theirs.data[name].shape


def alike(ours: Any, theirs: Any) -> bool:
    """Whether two bit arrays are samples of one distribution: chi-square within five sigma."""
    for index in np.ndindex(theirs.shape):
        a, b = ours.get_int_counts(index), theirs.get_int_counts(index)
        outcomes = sorted({*a, *b})
        x = np.array([[a.get(key, 0), b.get(key, 0)] for key in outcomes], dtype=float)
        x = x[x.sum(axis=1) >= 10]
        expected = x.sum(axis=1, keepdims=True) * x.sum(axis=0) / x.sum()
        freedom = max(1, len(x) - 1)
        chi2 = ((x - expected) ** 2 / expected).sum()
        if chi2 > freedom + 5 * np.sqrt(2 * freedom) + 10:
            return False
    return True


@pytest.mark.parametrize(
    "pub",
    [
        (bell(),),
        (bell(), None, 300),
        (two_registers(), [0.3, 0.7]),
        (two_registers(), np.linspace(0, 2, 12).reshape(2, 3, 2)),
        (two_registers(), {"b": [0.1, 0.2], "a": [1.1, 0.4]}, 500),
        (bell(), np.empty((3, 0))),
    ],
    ids=["plain", "shots", "one set", "array", "by name", "shape without parameters"],
)
def test_sampler_is_qiskits(embedded: str, pub: Any) -> None:
    ours = hf.Sampler(seed=5).run([pub], shots=4000).result()
    theirs = StatevectorSampler(seed=6).run([pub], shots=4000).result()

    assert isinstance(ours, PrimitiveResult)
    assert set(ours.metadata) >= set(theirs.metadata)
    same_shapes(ours[0], theirs[0])
    assert ours[0].metadata["shots"] == theirs[0].metadata["shots"]
    for name in theirs[0].data:
        assert ours[0].data[name].num_bits == theirs[0].data[name].num_bits
        assert ours[0].data[name].num_shots == theirs[0].data[name].num_shots
        assert alike(ours[0].data[name], theirs[0].data[name])


def test_alike_tells_distributions_apart() -> None:
    """The comparison that the tests above rest on can fail."""
    circuit = two_registers()
    run = StatevectorSampler(seed=1).run([(circuit, [0.3, 0.7]), (circuit, [0.5, 0.7])], shots=4000)
    one, other = run.result()
    assert not alike(one.data.alpha, other.data.alpha)


OBSERVABLES: list[Any] = [
    "ZZ",
    Pauli("XX"),
    SparsePauliOp(["ZI", "XY"], [0.5, -1.5]),
    ["ZZ", "XI"],
    [["ZZ"], ["IX"], ["YY"]],
    {"ZZ": 2.0, "II": -1.0},
]


@pytest.mark.parametrize("observables", OBSERVABLES, ids=str)
@pytest.mark.parametrize("values", [[0.1, 0.2, 0.3], np.linspace(0, 3, 6).reshape(2, 3)], ids=str)
def test_estimator_is_qiskits(embedded: str, observables: Any, values: Any) -> None:
    pub = (ansatz(), observables, values)
    ours = hf.Estimator(seed=5).run([pub], precision=0).result()
    theirs = StatevectorEstimator(seed=6).run([pub], precision=0).result()

    assert set(ours.metadata) >= set(theirs.metadata)
    same_shapes(ours[0], theirs[0])
    assert ours[0].metadata["target_precision"] == 0
    np.testing.assert_allclose(ours[0].data.evs, theirs[0].data.evs, atol=1e-10)


def test_estimator_with_a_precision(embedded: str) -> None:
    pub = (ansatz(), "ZZ", np.linspace(0, 3, 60).reshape(20, 3))
    exact = StatevectorEstimator().run([pub]).result()[0].data.evs
    result = hf.Estimator(seed=3, default_precision=0.02).run([pub, (*pub, 0.1)]).result()
    for part, precision in zip(result, (0.02, 0.1), strict=True):
        assert part.metadata["target_precision"] == precision
        off = (part.data.evs - exact) / precision
        assert np.abs(off).max() < 5
        assert off.std() > 0.05  # sampled, not computed


def test_many_pubs_keep_their_order_and_their_shots(embedded: str) -> None:
    flips = []
    for number in range(5):
        circuit = QuantumCircuit(3, name=f"flip-{number}")
        for qubit in range(3):
            if number >> qubit & 1:
                circuit.x(qubit)
        circuit.measure_all()
        flips.append(circuit)
    pubs = [(circuit, None, 10 + number) for number, circuit in enumerate(flips)]
    result = hf.Sampler().run(pubs).result()
    counts = [part.data.meas.get_int_counts() for part in result]
    assert counts == [{number: 10 + number} for number in range(5)]


def test_they_are_qiskits_classes(desk: Desk) -> None:
    job = hf.Sampler().run([bell()])
    assert isinstance(hf.Sampler(), BaseSamplerV2)
    assert isinstance(hf.Estimator(), BaseEstimatorV2)
    assert isinstance(job, BasePrimitiveJob)
    assert isinstance(job.result()[0], SamplerPubResult)
    assert len(hf.Sampler().run([]).result()) == 0
    assert len(desk.requests) == 1  # a call without PUBs costs nothing


# --- repeatability -------------------------------------------------------------------------------


def counts_of(job: Any) -> list[dict[str, int]]:
    return [part.data.meas.get_counts() for part in job.result()]


def uniform() -> QuantumCircuit:
    circuit = QuantumCircuit(4)
    circuit.h(range(4))
    circuit.measure_all()
    return circuit


def test_a_seed_repeats_a_call_and_tells_equal_pubs_apart(embedded: str) -> None:
    sampler = hf.Sampler(seed=11)
    first, second = counts_of(sampler.run([uniform(), uniform()]))
    assert first != second
    assert counts_of(sampler.run([uniform(), uniform()])) == [first, second]
    assert counts_of(sampler.run([uniform()])) == [first]
    assert counts_of(hf.Sampler(seed=12).run([uniform()])) != [first]


def test_no_seed_is_sent_without_one(desk: Desk) -> None:
    hf.Sampler().run([bell()])
    assert desk.requests[0].pubs[0].seed is None


@pytest.mark.parametrize("seed", [-1, 1.5, "7", True, np.random.default_rng()])
def test_a_wrong_seed(seed: Any) -> None:
    with pytest.raises(RequestError, match="seed"):
        hf.Sampler(seed=seed)
    with pytest.raises(RequestError, match="seed"):
        hf.Estimator(seed=seed)


@pytest.mark.parametrize("priority", [11, -11, 0.5, "high"])
def test_a_wrong_priority(priority: Any) -> None:
    with pytest.raises(RequestError, match="a priority must be an integer from -10 to 10"):
        hf.Sampler(priority=priority)


def test_priority_and_weight_are_sent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    hf.Sampler(priority=3).run([circuit])
    monkeypatch.setenv(environment.WEIGHT, "2.5")
    hf.Sampler().run([circuit])
    sent = [(one.priority, one.client.weight) for one in desk.requests]
    assert sent == [(3, 1.0), (0, 2.5)]
    monkeypatch.setenv(environment.WEIGHT, "much")
    with pytest.raises(SiteError, match="HYBRIDFLOW_WEIGHT is 'much'"):
        hf.Sampler().run([circuit])


def test_a_numpy_integer_is_a_seed(desk: Desk) -> None:
    assert counts_of(hf.Sampler(seed=np.int64(3)).run([bell()])) == counts_of(
        hf.Sampler(seed=3).run([bell()])
    )


# --- admission -----------------------------------------------------------------------------------


def no_register() -> QuantumCircuit:
    return QuantumCircuit(1)


def measures_nothing() -> QuantumCircuit:
    return QuantumCircuit(1, 1, name="idle")


def measures_into_no_register() -> QuantumCircuit:
    circuit = QuantumCircuit(QuantumRegister(1), [Clbit()], ClassicalRegister(1), name="loose")
    circuit.measure(0, 0)
    return circuit


def unbound() -> QuantumCircuit:
    circuit = QuantumCircuit(1)
    circuit.rx(Parameter("angle"), 0)
    circuit.measure_all()
    return circuit


def wide() -> QuantumCircuit:
    circuit = QuantumCircuit(13)
    circuit.measure_all()
    return circuit


REFUSED: list[tuple[Any, type[RequestError], str]] = [
    ([no_register()], CircuitError, "PUB 0: circuit .* has no classical register.*measure_all"),
    ([bell(), measures_nothing()], CircuitError, "PUB 1: circuit 'idle' measures nothing"),
    ([measures_into_no_register()], CircuitError, "PUB 0: circuit 'loose' measures nothing into"),
    ([unbound()], CircuitError, "PUB 0: .* unbound parameters: angle"),
    (
        [(unbound(), {("angle", "x"): [0.1, 0.2]})],
        RequestError,
        r"PUB 0: The number of values \(2\) .* parameters \(1\)",
    ),
    ([(unbound(), {"other": 0.3})], RequestError, "other"),
    ([(unbound(), [float("nan")])], RequestError, "PUB 0: .* finite"),
    ([(unbound(), np.empty((0, 1)))], RequestError, "PUB 0: .* empty"),
    ([wide()], TooLargeError, "13 qubits; resource 'desk' has 12"),
    ([(bell(), None, 0)], RequestError, "PUB 0: shots must be positive"),
    ([(bell(), None, -5)], RequestError, "PUB 0: shots must be positive"),
    ([(bell(), None, 2.5)], RequestError, "PUB 0: shots must be an integer"),
    ([(bell(), None, 10**9)], TooLargeError, "PUB 0: 1000000000 shots are over the limit of 5000"),
    ([bell()] * 5, TooLargeError, "5 PUBs are over the limit of 4"),
    (bell(), RequestError, r"run\(\[circuit\]\)"),
    (["bell"], RequestError, "PUB 0"),
    ([7], RequestError, "PUB 0"),
    ([()], RequestError, "PUB 0"),
]


@pytest.mark.parametrize(
    ("pubs", "kind", "message"), REFUSED, ids=[message for _, _, message in REFUSED]
)
def test_the_sampler_refuses(
    desk_with: Callable[..., Desk], pubs: Any, kind: type[RequestError], message: str
) -> None:
    desk = desk_with(max_shots=5000, max_pubs=4)
    with pytest.raises(kind, match=message) as raised:
        hf.Sampler().run(pubs)
    assert type(raised.value) is kind
    assert not raised.value.transient
    assert not desk.requests, "something was sent"


def test_shots_that_no_number_on_the_wire_can_hold(desk: Desk) -> None:
    with pytest.raises(TooLargeError, match="shots are over the limit"):
        hf.Sampler().run([bell()], shots=10**30)


@pytest.mark.parametrize("shots", [0, -1, 2.5, "many"])
def test_wrong_shots_of_a_call(desk: Desk, shots: Any) -> None:
    with pytest.raises(RequestError, match="shots"):
        hf.Sampler().run([bell()], shots=shots)


@pytest.mark.parametrize(
    ("pub", "message"),
    [
        ((ansatz(), "ZZ"), "unbound parameters: t\\[0\\], t\\[1\\], t\\[2\\]"),
        ((ansatz(), "ZZZ", [0, 0, 0]), "number of qubits"),
        ((ansatz(), "QQ", [0, 0, 0]), "PUB 0"),
        ((ansatz(), ["ZZ", "XX"], np.zeros((3, 3))), "not broadcastable"),
        ((ansatz(), "ZZ", [0, 0, 0], -0.1), "non-negative"),
        ((ansatz(), "ZZ", [0, 0, 0], float("nan")), "finite"),
        (ansatz(), "PUB 0"),
    ],
)
def test_the_estimator_refuses(desk: Desk, pub: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        hf.Estimator().run([pub])
    assert not desk.requests


def test_what_the_backend_cannot_do_is_refused(desk_with: Callable[..., Desk]) -> None:
    desk_with(seeds=False)
    with pytest.raises(RequestError, match=r"desk.*seed"):
        hf.Sampler(seed=1).run([bell()])
    desk_with(exact=False)
    with pytest.raises(RequestError, match=r"precision 0.*desk"):
        hf.Estimator().run([(QuantumCircuit(1), "Z")], precision=0)
    desk_with(primitives=(Primitive.SAMPLER,))
    with pytest.raises(
        RequestError, match="does not run the estimator primitive; it runs: sampler"
    ):
        hf.Estimator().run([(QuantumCircuit(1), "Z")])


def test_options_are_checked_and_passed_on(desk_with: Callable[..., Desk]) -> None:
    desk = desk_with(options={Primitive.SAMPLER: ("twirling", "dynamical_decoupling")})
    hf.Sampler(options={"twirling": True}).run([bell()])
    assert desk.requests[0].options == {"twirling": True}
    with pytest.raises(
        RequestError, match="'twirlin'; allowed are: twirling, dynamical_decoupling"
    ):
        hf.Sampler(options={"twirlin": True}).run([bell()])
    with pytest.raises(RequestError, match="allowed are: none"):
        hf.Estimator(options={"twirling": True}).run([(QuantumCircuit(1), "Z")])


DEVICE = FakeOptions(num_qubits=3, basis_gates=("rz", "sx", "x", "cz"), coupling=((0, 1), (1, 2)))


def in_a_branch() -> QuantumCircuit:
    circuit = QuantumCircuit(3, 1)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.cz(2, 0)
    return circuit


def wrong_edge() -> QuantumCircuit:
    circuit = QuantumCircuit(3)
    circuit.cz(0, 2)
    circuit.measure_all()
    return circuit


@pytest.mark.parametrize(
    ("circuit", "culprit"),
    [
        (bell(), r"instruction 0, 'h' on qubits \(0,\)"),
        (wrong_edge(), r"instruction 0, 'cz' on qubits \(0, 2\)"),
        (in_a_branch(), r"instruction 0, 'cz' on qubits \([02], [02]\)"),
    ],
    ids=["gate", "edge", "branch"],
)
def test_a_circuit_that_is_not_isa_is_refused_with_the_culprit(
    desk_with: Callable[..., Desk], circuit: QuantumCircuit, culprit: str
) -> None:
    desk = desk_with(DEVICE)
    branch = TargetOperation(name="if_else", num_qubits=0)
    desk.snapshot = msgspec.structs.replace(
        desk.snapshot, operations=(*desk.snapshot.operations, branch)
    )
    with pytest.raises(CircuitError, match=f"{culprit}.*transpile=True"):
        hf.Sampler().run([circuit])
    assert not desk.requests


def test_the_isa_check_is_a_small_part_of_a_call(desk: Desk) -> None:
    """A 10-qubit circuit of 400 instructions is checked in well under a millisecond."""
    from hybridflow.primitives.isa import is_isa, qiskit_target

    circuit = QuantumCircuit(10)
    for layer in range(20):
        for qubit in range(10):
            circuit.rz(0.1 * layer, qubit)
        for qubit in range(9):
            circuit.cx(qubit, qubit + 1)
    circuit.measure_all()
    target = qiskit_target(desk.snapshot)
    assert target is qiskit_target(desk.snapshot)
    best = min(timed(lambda: is_isa(circuit, target)) for _ in range(20))
    assert is_isa(circuit, target)
    assert best < 1e-3


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


# --- transpile=True ------------------------------------------------------------------------------


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_own_cache")
def test_the_sampler_transpiles(desk_with: Callable[..., Desk]) -> None:
    desk_with(DEVICE)
    pub = (two_registers(), np.linspace(0, 2, 4).reshape(2, 2))
    for _ in range(2):  # the second from the cache
        ours = hf.Sampler(seed=1, transpile=True).run([pub, bell()], shots=4000).result()
        theirs = StatevectorSampler(seed=2).run([pub, bell()], shots=4000).result()
        for mine, other in zip(ours, theirs, strict=True):
            same_shapes(mine, other)
            assert all(alike(mine.data[name], other.data[name]) for name in other.data)


@pytest.mark.usefixtures("_own_cache")
def test_the_estimators_observables_follow_their_qubits(desk_with: Callable[..., Desk]) -> None:
    desk_with(DEVICE)
    pub = (ansatz(), ["ZI", "IZ", "XY"], np.array([[0.3], [1.1], [2.0]]).T)
    expected = StatevectorEstimator().run([pub]).result()[0].data.evs
    for _ in range(2):
        found = hf.Estimator(transpile=True).run([pub], precision=0).result()[0].data.evs
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.usefixtures("_own_cache")
def test_a_parameter_that_transpiling_drops_is_no_longer_given(
    desk_with: Callable[..., Desk],
) -> None:
    desk = desk_with(DEVICE)
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.rz(Parameter("phase"), 0)  # invisible to the measurement
    circuit.measure_all()
    result = hf.Sampler(transpile=True, seed=1).run([(circuit, [[0.1], [0.2]])]).result()
    assert result[0].data.meas.shape == (2,)
    assert desk.requests[0].pubs[0].circuits == 2


def test_an_isa_circuit_stays_as_it_is(desk_with: Callable[..., Desk]) -> None:
    desk = desk_with(DEVICE)
    circuit = QuantumCircuit(2)
    circuit.sx(0)
    circuit.sx(0)  # an optimiser would make one X of it
    circuit.measure_all()
    hf.Sampler(transpile=True).run([circuit])
    sent = circuit_from_qpy(desk.requests[0].pubs[0].circuit)
    assert sent.count_ops() == circuit.count_ops()


@pytest.mark.usefixtures("_own_cache")
def test_transpiling_a_circuit_that_is_too_wide(desk_with: Callable[..., Desk]) -> None:
    desk_with(DEVICE)
    with pytest.raises(TooLargeError, match="13 qubits"):
        hf.Sampler(transpile=True).run([wide()])


# --- the job -------------------------------------------------------------------------------------


def test_run_returns_at_once_and_the_result_can_be_waited_for_again(desk: Desk) -> None:
    with desk.holding():
        job = hf.Sampler().run([bell()])
    ticket, request = desk.tickets[0], desk.requests[0]
    assert job.job_id() == request.id
    assert job.status() is JobStatus.QUEUED
    assert not job.in_final_state()
    with pytest.raises(TimeoutError, match=r"no result after 0\.01 s; it is queued"):
        job.result(timeout=0.01)
    ticket.now = JobState.RUNNING
    assert job.running()
    assert job.status() is JobStatus.RUNNING
    desk.answer(ticket, request)
    assert job.done()
    assert job.in_final_state()
    assert job.status() is JobStatus.DONE
    assert job.result(timeout=0) is job.result()
    assert not job.cancel()


def test_cancel(desk: Desk) -> None:
    with desk.holding():
        job = hf.Sampler().run([bell()])
    assert job.cancel()
    assert job.cancelled()
    assert job.status() is JobStatus.CANCELLED
    assert job.in_final_state()
    with pytest.raises(RequestCancelledError):
        job.result()


def test_a_failed_job_raises_its_error_each_time(desk: Desk) -> None:
    with desk.holding():
        job = hf.Sampler().run([bell()])
    desk.fail(desk.tickets[0], VendorJobError("the fridge is warm", transient=True))
    assert job.status() is JobStatus.ERROR
    assert job.in_final_state()
    assert not job.done()
    for _ in range(2):
        with pytest.raises(VendorJobError, match="the fridge is warm"):
            job.result()


def test_two_threads_may_wait_for_one_job(desk: Desk) -> None:
    with desk.holding():
        job = hf.Sampler().run([bell()])
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(job.result(30))) for _ in range(4)]
    for thread in threads:
        thread.start()
    desk.answer(desk.tickets[0], desk.requests[0])
    for thread in threads:
        thread.join()
    assert len({id(result) for result in found}) == 1
    assert len(found) == 4


def test_a_result_says_where_it_came_from(embedded: str) -> None:
    job = hf.Sampler().run([bell(), bell()])
    origin = job.result().metadata["hybridflow"]
    assert origin["resource"] == embedded
    assert origin["backend"] == embedded
    assert origin["simulator"] is True
    assert origin["vendor_job_id"]
    assert origin["batch_requests"] == 1
    assert origin["batch_pubs"] == 2
    assert origin["queue_seconds"] >= 0
    assert origin["run_seconds"] > 0
    assert job.provenance().vendor_job_id == origin["vendor_job_id"]


def test_a_job_can_be_pickled_when_it_has_ended(desk: Desk) -> None:
    job = hf.Sampler().run([bell()])
    copy = pickle.loads(pickle.dumps(job))
    assert copy.job_id() == job.job_id()
    assert copy.done()
    assert counts_of(copy) == counts_of(job)
    assert copy.provenance() == job.provenance()


def test_it_says_who_asks(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(environment.RUN, str(tmp_path))

    def sample() -> None:
        hf.Sampler().run([bell()])

    as_task(hf.quantum_task(sample), environment.Role.QUANTUM, task="t-17")()
    client = desk.requests[0].client
    assert client.task == "t-17"
    assert client.pid == os.getpid()
    assert client.workflow == str(tmp_path)
    assert client.user
    assert client.host


# --- other processes, other places ---------------------------------------------------------------


def test_a_pickled_primitive_works(desk: Desk) -> None:
    sampler = pickle.loads(pickle.dumps(hf.Sampler(seed=4, default_shots=77, options={})))
    result = sampler.run([bell()]).result()
    assert result[0].data.meas.num_shots == 77
    estimator = pickle.loads(pickle.dumps(hf.Estimator(seed=4, default_precision=0.5)))
    assert estimator.run([(QuantumCircuit(1), "Z")]).result()[0].metadata["target_precision"] == 0.5


def test_a_sampler_works_in_a_forked_child(embedded: str) -> None:
    """The child has the parent's sampler, but opens a broker of its own."""
    sampler = hf.Sampler(seed=21)
    here = counts_of(sampler.run([uniform()]))
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child() -> None:
        theirs.send(counts_of(sampler.run([uniform()])))
        slot.close_all()

    process = context.Process(target=child)
    process.start()
    assert ours.poll(60), "the forked child gave no answer"
    assert ours.recv() == here
    process.join(30)
    assert process.exitcode == 0
    assert counts_of(sampler.run([uniform()])) == here


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "PARSL_WORKER_POOL_ID", environment.ROLE])
def test_no_slot_is_no_silent_simulation(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(NoSlotError):
        hf.Sampler().run([bell()])

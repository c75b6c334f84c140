"""The Aer backend: right counts whichever form Aer is used in, seeds, noise, limits, latency."""

import functools
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, transpile
from qiskit.circuit import Clbit, Parameter
from qiskit.circuit.library import efficient_su2
from qiskit.primitives import DataBin, StatevectorEstimator
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.quantum_info import SparsePauliOp, Statevector

from hybridflow import wire
from hybridflow.backends.aer import AerBackend, AerOptions
from hybridflow.backends.aer.bits import memory_from_hex, pack, select, unpack
from hybridflow.errors import (
    CircuitError,
    HybridflowError,
    MissingExtraError,
    RequestError,
    ResourceError,
    SiteError,
    TooLargeError,
)
from hybridflow.records import Batch, JobState, PackedPub, Primitive, Usage
from hybridflow.targets import target_of

SAMPLER, ESTIMATOR = Primitive.SAMPLER, Primitive.ESTIMATOR


class Bench:
    """An acquired backend, and short ways to ask it."""

    def __init__(self, backend: AerBackend) -> None:
        self.backend = backend
        self.metadata: list[dict[str, Any]] = []
        self.usage = Usage()

    def run(self, primitive: Primitive, pubs: Sequence[PackedPub], **options: Any) -> list[DataBin]:
        batch = Batch(primitive=primitive, pubs=tuple(pubs), options=options)
        job_id = self.backend.start(batch, tag="test")
        assert self.backend.status(job_id, wait=100).state.final
        unpacked = [wire.unpack_result(result) for result in self.backend.result(job_id)]
        self.usage = self.backend.usage(job_id)
        self.metadata = [metadata for _, metadata in unpacked]
        return [data for data, _ in unpacked]

    def sample(self, *pubs: PackedPub, **options: Any) -> list[DataBin]:
        return self.run(SAMPLER, pubs, **options)

    def estimate(self, *pubs: PackedPub, **options: Any) -> list[DataBin]:
        return self.run(ESTIMATOR, pubs, **options)


def sampled(
    circuit: QuantumCircuit, values: Any = None, *, shots: int = 1000, seed: int | None = None
) -> PackedPub:
    return wire.pack_pubs([SamplerPub.coerce((circuit, values), shots)], [seed])[0]


def estimated(
    circuit: QuantumCircuit,
    observables: Any,
    values: Any = None,
    *,
    precision: float = 0.0,
    seed: int | None = None,
) -> PackedPub:
    pub = EstimatorPub.coerce((circuit, observables, values), precision)
    return wire.pack_pubs([pub], [seed])[0]


@functools.cache
def _bench(options: AerOptions) -> Bench:
    return Bench(AerBackend("aer", options))


@pytest.fixture(name="bench")
def _fixture() -> Iterator[Any]:
    opened: set[Bench] = set()

    def bench(**options: Any) -> Bench:
        # Engines are kept between tests: a device's noise model takes a second to make.
        found = _bench(AerOptions(**options))
        found.backend.acquire()
        opened.add(found)
        return found

    yield bench
    for found in opened:
        found.backend.release()


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2, name="bell")
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def turned(angle: Any = None) -> QuantumCircuit:
    circuit = QuantumCircuit(1, name="turned")
    circuit.ry(Parameter("angle") if angle is None else angle, 0)
    circuit.measure_all()
    return circuit


def dynamic(start: str = "h") -> QuantumCircuit:
    """Copies a measured qubit to another by feed-forward."""
    circuit = QuantumCircuit(QuantumRegister(2), ClassicalRegister(2, "c"), name="dynamic")
    getattr(circuit, start)(0)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.x(1)
    circuit.measure(1, 1)
    return circuit


def assert_distribution(found: dict[int, int], circuit: QuantumCircuit) -> None:
    """Compare counts with the exact probabilities by a chi-squared bound (six sigma)."""
    exact = Statevector(circuit.remove_final_measurements(inplace=False)).probabilities()
    shots = sum(found.values())
    assert all(exact[outcome] > 1e-9 for outcome in found), "an impossible outcome came"
    likely = np.flatnonzero(exact * shots > 1)
    counts = np.array([found.get(int(outcome), 0) for outcome in likely])
    expected = exact[likely] * shots
    chi2 = float(np.sum((counts - expected) ** 2 / expected))
    assert chi2 < len(likely) + 6 * math.sqrt(2 * len(likely)) + 10


# Sampling


def test_counts_follow_the_exact_distribution_whatever_is_in_the_batch(bench: Any) -> None:
    rng = np.random.default_rng(5)
    ansatz = efficient_su2(5, reps=1)
    circuits = []
    for _ in range(6):
        # The same structure with other numbers: simulated as one circuit.
        bound = ansatz.assign_parameters(rng.uniform(0, 6, ansatz.num_parameters))
        bound.measure_all()
        circuits.append(bound)
    other = QuantumCircuit(4)
    other.h(0)
    other.barrier()
    other.cx(0, 3)
    other.t(3)
    other.ry(0.3, 1)
    other.measure_all()
    circuits += [other, circuits[0], bell()]
    found = bench().sample(*[sampled(item, shots=2000, seed=n) for n, item in enumerate(circuits)])
    for data, circuit in zip(found, circuits, strict=True):
        assert data.meas.num_shots == 2000
        assert_distribution(data.meas.get_int_counts(), circuit)
    assert bench().metadata[0] == {"shots": 2000, "circuit_metadata": {}}


@pytest.mark.parametrize("method", ["automatic", "matrix_product_state"])
def test_parameter_arrays_keep_their_shape_and_order(bench: Any, method: str) -> None:
    wanted = np.array([[0, 1, 1], [1, 0, 1]])
    pub = sampled(turned(), (math.pi * wanted)[..., np.newaxis], shots=30)
    data = bench().sample(pub, method=method)[0]
    assert data.shape == data.meas.shape == (2, 3)
    for place in np.ndindex(2, 3):
        assert data.meas[place].get_int_counts() == {int(wanted[place]): 30}


def test_an_empty_array_of_parameters_gives_an_empty_result(bench: Any) -> None:
    empty, full = bench().sample(sampled(turned(), np.zeros((0, 1))), sampled(turned(), [math.pi]))
    assert empty.meas.shape == (0,)
    assert full.meas.get_int_counts() == {1: 1000}


def test_values_of_vectors_are_bound_in_the_order_of_the_circuit(bench: Any) -> None:
    circuit = QuantumCircuit(3)
    circuit.ry(Parameter("z"), 0)
    circuit.ry(2 * Parameter("a") + 0.0, 1)
    circuit.global_phase = Parameter("phase")
    circuit.measure_all()
    names = [parameter.name for parameter in circuit.parameters]
    values = {"z": math.pi, "a": 0.0, "phase": 1.0}
    data = bench().sample(sampled(circuit, [values[name] for name in names], shots=10))[0]
    assert data.meas.get_int_counts() == {0b001: 10}


@pytest.mark.parametrize("method", ["automatic", "stabilizer"])
def test_several_registers_keep_their_bits(bench: Any, method: str) -> None:
    first, second = ClassicalRegister(9, "first"), ClassicalRegister(2, "second")
    circuit = QuantumCircuit(QuantumRegister(4), first, second)
    circuit.x([0, 3])
    circuit.measure([0, 1, 3, 3], [8, 0, 10, 2])  # one qubit twice, bits out of order
    data = bench().sample(sampled(circuit, shots=20), method=method)[0]
    assert data.first.get_bitstrings() == ["100000100"] * 20
    assert data.second.get_bitstrings() == ["10"] * 20


def test_registers_may_share_bits(bench: Any) -> None:
    bits = [Clbit() for _ in range(3)]
    circuit = QuantumCircuit(QuantumRegister(2), bits)
    circuit.add_register(ClassicalRegister(bits=bits[:2], name="low"))
    circuit.add_register(ClassicalRegister(bits=bits[1:], name="high"))
    circuit.x(1)
    circuit.measure([0, 1], [0, 1])
    data = bench().sample(sampled(circuit, shots=5))[0]
    assert data.low.get_bitstrings() == ["10"] * 5
    assert data.high.get_bitstrings() == ["01"] * 5


def test_dynamic_circuits_feed_forward(bench: Any) -> None:
    data = bench().sample(sampled(dynamic(), shots=400), sampled(dynamic("x"), shots=7))
    counts = data[0].c.get_int_counts()
    assert set(counts) == {0b00, 0b11}
    assert min(counts.values()) > 120
    assert data[1].c.get_int_counts() == {0b11: 7}


def test_a_parameter_inside_control_flow_is_bound(bench: Any) -> None:
    angle = Parameter("angle")
    circuit = QuantumCircuit(QuantumRegister(2), ClassicalRegister(2, "c"))
    circuit.x(0)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.ry(angle, 1)
    circuit.measure(1, 1)
    data = bench().sample(sampled(circuit, [[0.0], [math.pi]], shots=10))[0]
    assert data.c[0].get_int_counts() == {0b01: 10}
    assert data.c[1].get_int_counts() == {0b11: 10}


def test_mid_circuit_measurement_and_reset(bench: Any) -> None:
    circuit = QuantumCircuit(1, 2)
    circuit.reset(0)  # does nothing: a qubit starts in zero
    circuit.x(0)
    circuit.measure(0, 0)
    circuit.reset(0)
    circuit.measure(0, 1)
    data = bench().sample(sampled(circuit, shots=11))[0]
    assert data.c.get_int_counts() == {0b01: 11}


def test_more_than_64_bits(bench: Any) -> None:
    circuit = QuantumCircuit(70)
    circuit.x([0, 69])
    circuit.measure_all()
    data = bench().sample(sampled(circuit, shots=3))[0]
    assert data.meas.get_bitstrings() == ["1" + "0" * 68 + "1"] * 3


def test_large_circuits_are_shot_by_aer_and_repeat_their_seeds(bench: Any) -> None:
    circuit = QuantumCircuit(21)
    circuit.ry(Parameter("angle"), 20)
    circuit.t(range(20))
    circuit.x(0)
    circuit.measure_all()
    pub = sampled(circuit, [[0.0], [math.pi / 2]], shots=200, seed=6)
    alone = bench().sample(pub)[0].meas
    merged = bench().sample(sampled(circuit, [1.0], shots=200), pub)[1].meas
    assert np.array_equal(alone.array, merged.array)
    assert alone[0].get_int_counts() == {1: 200}
    assert set(alone[1].get_int_counts()) == {1, 2**20 + 1}


def test_a_batch_is_cut_into_runs_of_bounded_size(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hybridflow.backends.aer import engine

    monkeypatch.setattr(engine, "_PROBABILITIES_PER_RUN", 8)
    monkeypatch.setattr(engine, "_SHOTS_PER_RUN", 50)
    wanted = np.array([n % 2 for n in range(11)])
    pubs = [sampled(turned(), (math.pi * wanted)[:, np.newaxis], shots=20)]
    pubs += [sampled(turned(math.pi * value), shots=20) for value in wanted]
    pubs += [sampled(bell(), shots=20), sampled(dynamic("x"), shots=20)] * 5
    found = bench().sample(*pubs)
    for number, value in enumerate(wanted.tolist()):
        assert found[0].meas[number].get_int_counts() == {value: 20}
        assert found[1 + number].meas.get_int_counts() == {value: 20}
    for number in range(5):
        assert set(found[12 + 2 * number].meas.get_int_counts()) <= {0, 3}
        assert found[13 + 2 * number].c.get_int_counts() == {3: 20}


def test_many_shots_are_drawn_in_parts_and_are_the_same(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hybridflow.backends.aer import engine

    pub = sampled(bell(), shots=1000, seed=5)
    (whole,) = bench().sample(pub)
    monkeypatch.setattr(engine, "_SHOTS_PER_DRAW", 300)
    (parts,) = bench().sample(pub)
    assert np.array_equal(whole.meas.array, parts.meas.array)


def test_bits_are_packed_as_qiskit_packs_them() -> None:
    memory = memory_from_hex(["0x1", "0x102", "0x0"], 9)
    assert memory.tolist() == [[0, 1], [1, 2], [0, 0]]
    assert unpack(memory, 9)[1].tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert np.array_equal(pack(unpack(memory, 9)), memory)
    assert select(memory, 9, [8, 1]).tolist() == [[0], [3], [0]]
    assert memory_from_hex(["0x" + "f" * 25], 100).tolist() == [[15] + [255] * 12]


# Seeds


@pytest.mark.parametrize(
    "options",
    [{}, {"depolarizing": 0.1, "readout_flip": 0.1}, {"device": "FakeManilaV2"}],
    ids=["ideal", "cheap", "device"],
)
def test_a_seed_gives_the_same_shots_wherever_the_pub_stands(
    bench: Any, options: dict[str, Any]
) -> None:
    tested = bench(**options)
    target = target_of(tested.backend.target())
    isa = functools.partial(transpile, target=target, seed_transpiler=1, optimization_level=1)
    circuits = [isa(bell()), isa(dynamic()), isa(turned())]
    pubs = [
        sampled(circuits[0], shots=200, seed=3),
        sampled(circuits[1], shots=200, seed=3),
        sampled(circuits[2], np.full((3, 1), 1.5), shots=200, seed=3),
    ]
    alone = [tested.sample(pub)[0] for pub in pubs]
    merged = tested.sample(
        sampled(circuits[0], shots=10), pubs[2], sampled(circuits[0], shots=200, seed=4), *pubs[:2]
    )
    for before, after in zip(alone, [merged[3], merged[4], merged[1]], strict=True):
        name = next(iter(before))
        assert np.array_equal(before[name].array, after[name].array)
    assert not np.array_equal(merged[2].meas.array, merged[3].meas.array)
    rows = alone[2].meas.array
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[1], rows[2])


def test_without_a_seed_samples_are_fresh_unless_the_site_sets_one() -> None:
    def counts(**options: Any) -> list[bytes]:
        backend = AerBackend("aer", AerOptions(**options))
        backend.acquire()
        try:
            pubs = [sampled(bell(), shots=100)] * 2
            return [data.meas.array.tobytes() for data in Bench(backend).sample(*pubs)]
        finally:
            backend.release()

    first, second = counts(), counts()
    assert len({*first, *second}) == 4
    assert counts(seed=9) == counts(seed=9)
    assert len(set(counts(seed=9))) == 2


def test_an_estimator_pub_repeats_its_seed(bench: Any) -> None:
    circuit = efficient_su2(3, reps=1)
    values = np.linspace(0, 1, 2 * circuit.num_parameters).reshape(2, -1)
    pub = estimated(circuit, ["XXZ", "ZZY"], values, precision=0.1, seed=5)
    alone = bench().estimate(pub)[0].evs
    other = estimated(circuit, "ZZZ", values[0], precision=0.1)
    assert np.array_equal(bench().estimate(other, pub)[1].evs, alone)


# Estimating


def observables() -> list[list[SparsePauliOp]]:
    sums = [("ZZI", 1.0), ("XXI", 0.5), ("IYY", -0.2), ("III", 2.0)]
    return [[SparsePauliOp.from_list(sums)], [SparsePauliOp("XIX")]]


def test_exact_values_are_those_of_a_state_vector(bench: Any) -> None:
    circuit = efficient_su2(3, reps=1)
    values = np.random.default_rng(1).uniform(0, 6, (4, circuit.num_parameters))
    wanted = StatevectorEstimator().run([(circuit, observables(), values)]).result()[0]
    found = bench().estimate(estimated(circuit, observables(), values))[0]
    assert found.evs == pytest.approx(wanted.data.evs, abs=1e-12)
    assert found.shape == wanted.data.shape == (2, 4)
    assert not found.stds.any()
    assert set(bench().metadata[0]) == set(wanted.metadata)
    assert bench().metadata[0]["target_precision"] == 0


def test_observables_and_parameters_broadcast_one_to_one(bench: Any) -> None:
    circuit = turned().remove_final_measurements(inplace=False)
    angles = np.array([[0.3], [0.8], [1.1]])
    for precision in (0.0, 0.02):
        pub = estimated(circuit, ["Z", "X", "Z"], angles, precision=precision)
        found = bench().estimate(pub)[0]
        wanted = [math.cos(0.3), math.sin(0.8), math.cos(1.1)]
        assert found.evs == pytest.approx(wanted, abs=7 * precision + 1e-12)


def test_sampled_values_scatter_as_their_standard_errors_say(bench: Any) -> None:
    circuit = efficient_su2(3, reps=1)
    values = np.random.default_rng(2).uniform(0, 6, (60, circuit.num_parameters))
    exact = bench().estimate(estimated(circuit, observables(), values))[0]
    pub = estimated(circuit, observables(), values, precision=0.05, seed=8)
    found = bench().estimate(pub)[0]
    deviations = (found.evs - exact.evs) / found.stds
    assert np.abs(deviations).max() < 6
    assert 0.7 < deviations.std() < 1.3
    assert found.stds[1].max() <= 0.0501
    assert bench().metadata[0]["shots"] == 400
    assert bench().usage.shots == 60 * 3 * 400  # three groups that are measured together


def test_grouping_changes_the_circuits_and_not_the_values(bench: Any) -> None:
    circuit = bell().remove_final_measurements(inplace=False)
    pub = estimated(circuit, ["ZZ", "ZI", "XX", "II"], precision=0.03, seed=1)
    for grouped in (True, False):
        found = bench().estimate(pub, abelian_grouping=grouped)[0]
        assert found.evs == pytest.approx([1, 0, 1, 1], abs=0.2)


def test_projectors_and_idle_qubits(bench: Any) -> None:
    circuit = QuantumCircuit(3)
    circuit.x(1)
    labels = ["I1I", "Z0Z", "XII", "+1r", "ZZZ"]
    wanted = [1, 0, 0, 0.25, -1]
    for precision in (0.0, 0.02):
        found = bench().estimate(estimated(circuit, labels, precision=precision))[0]
        assert found.evs == pytest.approx(wanted, abs=7 * precision + 1e-12)


def test_expectation_values_of_a_dynamic_circuit_are_sampled_only(bench: Any) -> None:
    found = bench().estimate(estimated(dynamic("x"), "ZI", precision=0.05))[0]
    assert found.evs == -1
    with pytest.raises(CircuitError, match="precision above 0"):
        bench().estimate(estimated(dynamic("x"), "ZI"))


# Noise


def test_many_evaluations_are_cut_back_to_their_pubs(bench: Any) -> None:
    free = turned().remove_final_measurements(inplace=False)
    idle = QuantumCircuit(2)
    phase = QuantumCircuit(1, global_phase=Parameter("phase"))
    phase.h(0)
    pubs = [
        estimated(free, ["Z", "X"], [[0.5]]),
        estimated(idle, ["XX", "ZZ"]),
        estimated(phase, "X", [[0.1], [0.2], [0.3]]),
        estimated(free, "Z", np.array([[0.1], [0.2]])),
        estimated(free, "Z", np.zeros((0, 1))),
    ]
    wanted: list[Any] = [
        [math.cos(0.5), math.sin(0.5)],
        [0, 1],
        [1, 1, 1],
        [math.cos(0.1), math.cos(0.2)],
        [],
    ]
    for options in ({}, {"method": "matrix_product_state"}):
        found = bench().estimate(*pubs, **options)
        for data, values in zip(found, wanted, strict=True):
            assert data.evs == pytest.approx(values, abs=1e-9)
    with pytest.raises(HybridflowError, match="Aer"):
        bench().estimate(pubs[0], method="stabilizer")


def test_cheap_noise_does_what_it_says(bench: Any) -> None:
    flipped = bench(readout_flip=0.25)
    idle = QuantumCircuit(2, 3)
    idle.x(0)
    idle.measure([0, 1], [0, 1])
    data = flipped.sample(sampled(idle, shots=20_000))[0].c
    bits = unpack(data.array, 3).mean(axis=0)
    assert bits == pytest.approx([0.75, 0.25, 0], abs=0.02)
    depolarized = bench(depolarizing=0.4)
    ones = QuantumCircuit(3)
    ones.x(range(3))
    ones.measure_all()
    counts = depolarized.sample(sampled(ones, shots=20_000))[0].meas.get_int_counts()
    assert counts[7] / 20_000 == pytest.approx(0.6 + 0.4 / 8, abs=0.02)
    assert counts[0] / 20_000 == pytest.approx(0.4 / 8, abs=0.01)


def test_cheap_noise_is_the_same_exactly_and_sampled(bench: Any) -> None:
    noisy = bench(depolarizing=0.2, readout_flip=0.05)
    circuit = bell().remove_final_measurements(inplace=False)
    labels = ["ZZ", "XX", "IZ", "II"]
    exact = noisy.estimate(estimated(circuit, labels))[0].evs
    assert exact == pytest.approx([0.8 * 0.9**2, 0.8 * 0.9**2, 0, 1])
    found = noisy.estimate(estimated(circuit, labels, precision=0.01))[0].evs
    assert found == pytest.approx(exact, abs=0.06)


def test_a_device_has_noise_and_its_target(bench: Any) -> None:
    noisy = bench(device="FakeManilaV2")
    assert noisy.backend.capabilities.num_qubits == 5
    assert not noisy.backend.capabilities.exact
    assert noisy.backend.metadata()["device"] == "FakeManilaV2"
    assert noisy.backend.target().calibration.startswith("2024")
    target = target_of(noisy.backend.target())
    isa = transpile(bell(), target=target, seed_transpiler=1)
    counts = noisy.sample(sampled(isa, shots=4000))[0].meas.get_int_counts()
    wrong = (counts.get(1, 0) + counts.get(2, 0)) / 4000
    assert 0.01 < wrong < 0.2
    with pytest.raises(CircuitError, match=r"unknown instruction: h\b"):
        noisy.sample(sampled(bell()))
    with pytest.raises(RequestError, match="precision above 0"):
        noisy.estimate(estimated(isa.remove_final_measurements(inplace=False), "ZZIII"))


def test_a_large_device_without_its_noise_is_fast(bench: Any) -> None:
    ideal = bench(device="FakeTorino", depolarizing=0.0)
    target = target_of(ideal.backend.target())
    isa = transpile(bell(), target=target, seed_transpiler=1, initial_layout=[100, 101])
    assert isa.num_qubits == 133
    assert set(ideal.sample(sampled(isa))[0].meas.get_int_counts()) == {0, 3}
    assert set(
        ideal.sample(sampled(isa, shots=50), method="matrix_product_state")[0].meas.get_int_counts()
    ) == {0, 3}


# Bad input


def test_options_are_checked() -> None:
    for wrong in (
        {"depolarizing": 1.5},
        {"readout_flip": -0.1},
        {"threads": -1},
        {"num_qubits": 0},
        {"seconds_per_shot": -1.0},
        {"seconds_per_job": math.inf},
        {"method": "guess"},
        {"metod": "statevector"},
    ):
        with pytest.raises(msgspec.ValidationError, match=next(iter(wrong))):
            msgspec.convert(wrong, AerOptions)


def test_an_unknown_device_is_answered_with_names() -> None:
    backend = AerBackend("aer", AerOptions(device="FakeTorin"))
    with pytest.raises(SiteError, match=r"did you mean FakeTorino.*FakeManilaV2") as caught:
        backend.acquire()
    assert "`qpu.aer.device`" in str(caught.value)


@pytest.mark.parametrize(
    ("package", "extra", "options"),
    [
        ("qiskit_aer", "aer", {}),
        ("qiskit_ibm_runtime", "runtime", {"device": "FakeManilaV2", "depolarizing": 0.0}),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, extra: str, options: dict[str, Any]
) -> None:
    from hybridflow import extras
    from hybridflow.backends.aer import devices

    devices.fake_device.cache_clear()
    real = extras.importlib.import_module

    def missing(name: str) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name)

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=rf"hybridflow\[{extra}\]"):
        AerBackend("aer", AerOptions(**options)).target()


def test_too_large_circuits_are_refused_before_they_run(bench: Any) -> None:
    large = QuantumCircuit(44, name="large")
    large.h(range(44))
    large.t(range(44))
    large.measure_all()
    with pytest.raises(TooLargeError, match=r"'large' acts on 44 qubits.*MiB"):
        bench().sample(sampled(large))
    with pytest.raises(TooLargeError, match="'large'"):
        bench().estimate(estimated(large.remove_final_measurements(inplace=False), "Z" * 44))
    tight = bench(memory_mib=1)
    wide = QuantumCircuit(17)
    wide.t(range(17))
    wide.measure_all()
    with pytest.raises(TooLargeError, match="memory_mib"):
        tight.sample(sampled(wide))
    with pytest.raises(TooLargeError, match="shots of this batch"):
        tight.sample(sampled(bell(), shots=2**21))
    with pytest.raises(TooLargeError, match="has 3"):
        bench(num_qubits=3).sample(sampled(wide))
    clifford = QuantumCircuit(60)
    clifford.h(0)
    for qubit in range(59):
        clifford.cx(qubit, qubit + 1)
    clifford.measure_all()
    assert set(tight.sample(sampled(clifford))[0].meas.get_int_counts()) == {0, 2**60 - 1}


def test_circuits_that_cannot_run_say_why(bench: Any) -> None:
    unmeasured = QuantumCircuit(1, 1, name="unmeasured")
    with pytest.raises(CircuitError, match="'unmeasured' measures nothing"):
        bench().sample(sampled(unmeasured))
    unbound = msgspec.structs.replace(sampled(turned(), [1.0]), parameters=None)
    with pytest.raises(CircuitError, match="unbound"):
        bench().sample(unbound)
    wrong = msgspec.structs.replace(
        sampled(turned(), [1.0]), parameters=wire.array_to_bytes(np.zeros((2, 3)))
    )
    with pytest.raises(RequestError, match="1 parameters"):
        bench().sample(wrong)
    with pytest.raises(RequestError, match="at least one shot"):
        bench().sample(msgspec.structs.replace(sampled(bell()), shots=0))
    with pytest.raises(RequestError, match="seed"):
        bench().sample(msgspec.structs.replace(sampled(bell()), seed=-1))
    with pytest.raises(RequestError, match="QPY"):
        bench().sample(msgspec.structs.replace(sampled(bell()), circuit=b"garbage"))
    unknown = QuantumCircuit(2, name="unknown")
    unknown.iswap(0, 1)
    unknown.measure_all()
    with pytest.raises(CircuitError, match="iswap"):
        bench().sample(sampled(unknown))


def test_options_of_a_request_are_checked(bench: Any) -> None:
    for options, message in (
        ({"metod": "statevector"}, "it has: method"),
        ({"method": "guess"}, "not one of automatic"),
        ({"abelian_grouping": True}, "no option 'abelian_grouping' for the sampler"),
    ):
        with pytest.raises(RequestError, match=message):
            bench().sample(sampled(bell()), **options)
    with pytest.raises(RequestError, match="true or false"):
        bench().estimate(estimated(bell(), "ZZ"), abelian_grouping="yes")


# Jobs


def test_a_timing_profile_is_waited_for_and_billed(bench: Any) -> None:
    slow = bench(seconds_per_job=0.2, seconds_per_circuit=0.01, seconds_per_shot=0.0001)
    assert slow.backend.capabilities.fixed_seconds == 0.2
    batch = Batch(
        primitive=SAMPLER, pubs=(sampled(turned(), np.zeros((5, 1)), shots=100),), options={}
    )
    job_id = slow.backend.start(batch, tag="t")
    assert not slow.backend.status(job_id).state.final
    assert slow.backend.find("t") == job_id
    assert slow.backend.status(job_id, wait=30).state is JobState.DONE
    assert slow.backend.usage(job_id) == Usage(qpu_seconds=pytest.approx(0.3), shots=500)


def test_an_estimator_is_billed_for_the_shots_of_each_group_of_observables(bench: Any) -> None:
    opened = bench()
    pub = estimated(
        bell().remove_final_measurements(inplace=False), ["ZZ", "ZI", "XX"], precision=0.1
    )
    job_id = opened.backend.start(Batch(primitive=ESTIMATOR, pubs=(pub,)), tag="t")
    assert opened.backend.status(job_id, wait=30).state is JobState.DONE
    assert opened.backend.usage(job_id).shots == 2 * 100  # ZZ and ZI are measured together


def test_a_job_is_stopped_and_the_next_one_runs(bench: Any) -> None:
    slow = bench(seconds_per_job=60.0)
    batch = Batch(primitive=SAMPLER, pubs=(sampled(bell()),))
    running, waiting = (slow.backend.start(batch, tag=tag) for tag in ("a", "b"))
    for job_id in (waiting, running):
        slow.backend.stop(job_id)
        slow.backend.stop(job_id)
    for job_id in (running, waiting):
        assert slow.backend.status(job_id, wait=30).state is JobState.CANCELLED
        with pytest.raises(ResourceError, match="stopped"):
            slow.backend.result(job_id)


def test_release_ends_jobs_and_the_thread(bench: Any) -> None:
    slow = bench(seconds_per_job=60.0)
    job_id = slow.backend.start(Batch(primitive=SAMPLER, pubs=(sampled(bell()),)), tag="t")
    slow.backend.release()
    assert slow.backend.status(job_id).state is JobState.CANCELLED
    assert not [item for item in threading.enumerate() if item.name.startswith("aer-")]
    with pytest.raises(ResourceError, match="acquire"):
        slow.backend.start(Batch(primitive=SAMPLER, pubs=(sampled(bell()),)), tag="t")


def test_a_waiting_thread_is_woken_by_the_end_and_told_by_subscription(bench: Any) -> None:
    quick = bench()
    told: list[str] = []
    heard = threading.Event()

    def listen(job_id: str) -> None:
        told.append(job_id)
        heard.set()

    quick.backend.subscribe(listen)
    job_id = quick.backend.start(Batch(primitive=SAMPLER, pubs=(sampled(bell()),)), tag="t")
    assert heard.wait(30)
    assert told == [job_id]
    assert quick.backend.status(job_id).state is JobState.DONE


def test_results_are_kept_until_fetched_and_not_for_ever(bench: Any) -> None:
    quick = bench()
    batch = Batch(primitive=SAMPLER, pubs=(sampled(bell(), shots=1),))
    jobs = [quick.backend.start(batch, tag=str(number)) for number in range(70)]
    assert quick.backend.status(jobs[-1], wait=60).state is JobState.DONE
    assert len(quick.backend.result(jobs[-1])) == 1
    with pytest.raises(ResourceError, match="until it is fetched"):
        quick.backend.result(jobs[-1])
    with pytest.raises(HybridflowError, match="no job"):
        quick.backend.result(jobs[0])

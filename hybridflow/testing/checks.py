"""The conformance checks, one function a promise of :mod:`hybridflow.backends.base`.

Each takes the :class:`~hybridflow.testing.subject.Subject` and raises ``AssertionError`` with an
explanation. What a backend does not declare is not asked of it, but must be refused.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from hybridflow import wire
from hybridflow.broker.merging import merge, split
from hybridflow.errors import HybridflowError, RequestError
from hybridflow.records import (
    Capabilities,
    JobState,
    PackedPub,
    Primitive,
    Request,
    TargetSnapshot,
    Usage,
)
from hybridflow.testing.analog_checks import ANALOG_CHECKS, analog_pub, wide_pub
from hybridflow.testing.subject import Subject, typed

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["CHECKS", "any_pub"]

_SAMPLER, _ESTIMATOR, _ANALOG = Primitive


# Circuits


def _ones(num_qubits: int) -> "QuantumCircuit":
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(num_qubits, name="ones")
    circuit.x(range(num_qubits))
    circuit.measure_all()
    return circuit


def _bell(*, measured: bool = True) -> "QuantumCircuit":
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(2, name="bell")
    circuit.h(0)
    circuit.cx(0, 1)
    if measured:
        circuit.measure_all()
    return circuit


def _turned(*, measured: bool = True) -> "QuantumCircuit":
    # One qubit turned by an angle that is a parameter: 0 gives 0, pi gives 1. (Its name is a word
    # of no vendor's language, as `angle` is.)
    from qiskit import QuantumCircuit
    from qiskit.circuit import Parameter

    circuit = QuantumCircuit(1, name="turned")
    circuit.ry(Parameter("theta"), 0)
    if measured:
        circuit.measure_all()
    return circuit


def _coupled() -> "QuantumCircuit":
    # Two qubits coupled by an angle: even multiples of pi give 00, odd ones 11.
    from qiskit import QuantumCircuit
    from qiskit.circuit import Parameter

    circuit = QuantumCircuit(2, name="coupled")
    circuit.h([0, 1])
    circuit.rzz(Parameter("angle"), 0, 1)
    circuit.h([0, 1])
    circuit.measure_all()
    return circuit


def _registers() -> "QuantumCircuit":
    from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister

    circuit = QuantumCircuit(
        QuantumRegister(3, "q"),
        ClassicalRegister(2, "first"),
        ClassicalRegister(1, "second"),
        name="registers",
    )
    circuit.x(1)
    circuit.x(2)
    circuit.measure([0, 1, 2], [0, 1, 2])
    return circuit


# What it says of itself


def declarations(subject: Subject) -> None:
    """Check: capabilities and metadata are of the right types and survive the wire."""
    capabilities = subject.backend.capabilities
    assert isinstance(capabilities, Capabilities), f"capabilities are {capabilities!r}"
    assert capabilities.primitives, "the backend declares no primitive at all"
    assert capabilities.lanes >= 1, f"`lanes` is {capabilities.lanes}: at least one job must start"
    assert capabilities.fixed_seconds >= 0, f"`fixed_seconds` is {capabilities.fixed_seconds}"
    again = wire.decode(wire.encode(capabilities), Capabilities)
    assert again == capabilities, "capabilities do not survive the wire"
    with typed("metadata()"):
        metadata = subject.backend.metadata()
    assert all(isinstance(text, str) for item in metadata.items() for text in item), (
        f"metadata() is not a dictionary of strings: {metadata!r}"
    )


def target(subject: Subject) -> None:
    """Check: the snapshot is sane, survives the wire, and Qiskit makes a target of it."""
    from hybridflow.targets import snapshot_of, target_of

    snapshot = subject.snapshot
    bound, declared = snapshot.num_qubits, subject.backend.capabilities.num_qubits
    assert bound == declared, (
        f"the target has {bound} qubits and the capabilities declare {declared}"
    )
    if subject.is_digital:
        assert snapshot.operations, "the target has no operations"
    names = [operation.name for operation in snapshot.operations]
    assert len(set(names)) == len(names), f"the target names an operation twice: {names}"
    assert "measure" in names or not subject.is_digital, "the target cannot measure"
    for operation in snapshot.operations:
        for qubits, duration, error in operation.places or ():
            place = f"{operation.name} on {qubits}"
            assert len(qubits) == operation.num_qubits, f"{place}: wrong number of qubits"
            assert bound is None or all(0 <= qubit < bound for qubit in qubits), (
                f"{place}: the target has {bound} qubits"
            )
            assert duration is None or duration >= 0, f"{place} lasts {duration} s"
            assert error is None or 0 <= error <= 1, f"{place} fails at a rate of {error}"
    assert wire.decode(wire.encode(snapshot), TargetSnapshot) == snapshot, (
        "the target does not survive the wire"
    )
    round_trip = snapshot_of(target_of(snapshot))
    assert {operation.name for operation in round_trip.operations} == set(names), (
        "Qiskit's target has other operations than the snapshot"
    )


# Sampler


def _share(array: Any, wanted: int) -> float:
    """Return the share of shots whose number is `wanted`."""
    counts = array.get_int_counts()
    return float(counts.get(wanted, 0) / sum(counts.values()))


def _assert_share(subject: Subject, array: Any, wanted: int, what: str) -> None:
    share = _share(array, wanted)
    assert share >= subject.fidelity, (
        f"{what}: {wanted:0{array.num_bits}b} should come in at least {subject.fidelity:.0%} of "
        f"the shots and comes in {share:.1%}; counts: {array.get_counts()}"
    )


def sampler_is_not_silent(subject: Subject) -> None:
    """Check: X on every qubit gives ones: an adapter that lost its samples gives zeros."""
    answer = subject.run(_SAMPLER, [subject.sampler_pub(subject.isa(_ones(3)), shots=200)])
    data = answer.data[0].meas
    assert (data.num_shots, data.num_bits) == (200, 3), (
        f"200 shots of 3 bits were asked for; there are {data.num_shots} of {data.num_bits}"
    )
    _assert_share(subject, data, 0b111, "X on three qubits")


def sampler_entangles(subject: Subject) -> None:
    """Check: a Bell pair gives both equal outcomes, about as often, and hardly any other."""
    pub = subject.sampler_pub(subject.isa(_bell()), shots=1000, seed=_seed(subject))
    data = subject.run(_SAMPLER, [pub]).data[0].meas
    low, high = _share(data, 0), _share(data, 3)
    assert low + high >= subject.fidelity, f"a Bell pair's bits differ: {data.get_counts()}"
    assert min(low, high) >= 0.35, f"a Bell pair's outcomes are not equally likely: {low}, {high}"


def _seed(subject: Subject) -> int | None:
    return 1234 if subject.backend.capabilities.seeds else None


def sampler_keeps_registers(subject: Subject) -> None:
    """Check: each classical register has its own bits, in Qiskit's order."""
    answer = subject.run(_SAMPLER, [subject.sampler_pub(subject.isa(_registers()), shots=200)])
    names = sorted(answer.packed[0].arrays)
    assert names == ["first", "second"], (
        f"the circuit has the registers first and second; the result has {names}"
    )
    _assert_share(subject, answer.data[0].first, 0b10, "register `first`, X on its second qubit")
    _assert_share(subject, answer.data[0].second, 0b1, "register `second`, X on its qubit")


def sampler_keeps_shapes(subject: Subject) -> None:
    """Check: an array of parameter values gives an array of results of the same shape and order."""
    wanted = np.array([[0, 1, 1], [1, 0, 1]])
    pub = subject.sampler_pub(
        subject.isa(_turned()), (math.pi * wanted)[..., np.newaxis], shots=100
    )
    data = subject.run(_SAMPLER, [pub]).data[0]
    assert data.shape == (2, 3), f"parameter values of shape (2, 3) gave a result of {data.shape}"
    assert data.meas.shape == (2, 3), f"the register's shape is {data.meas.shape}, not (2, 3)"
    for place in np.ndindex(2, 3):
        _assert_share(subject, data.meas[place], int(wanted[place]), f"parameter set {place}")


def sampler_keeps_order(subject: Subject) -> None:
    """Check: several PUBs with different shots come back in the order in which they were sent."""
    circuit = subject.isa(_turned())
    wanted = [(0, 100), (1, 37), (1, 250), (0, 37), (1, 100)]
    most = subject.backend.capabilities.max_pubs
    wanted = wanted[: most or len(wanted)]
    pubs = [subject.sampler_pub(circuit, [math.pi * value], shots=shots) for value, shots in wanted]
    answer = subject.run(_SAMPLER, pubs)
    for number, (value, shots) in enumerate(wanted):
        data = answer.data[number].meas
        assert data.num_shots == shots, (
            f"PUB {number} asked for {shots} shots and got {data.num_shots}: mixed up, or not kept"
        )
        assert answer.metadata[number].get("shots") == shots, (
            f"PUB {number}: metadata has shots={answer.metadata[number].get('shots')}, not {shots}"
        )
        _assert_share(subject, data, value, f"PUB {number}")
    total = sum(shots for _, shots in wanted)
    assert answer.usage.shots == total, f"usage() says {answer.usage.shots} shots, not {total}"


def sampler_repeats_seeds(subject: Subject) -> None:
    """Check: a PUB with a seed gives the same shots alone and merged, wherever it stands."""
    if not subject.backend.capabilities.seeds:
        return
    circuit, turned = subject.isa(_bell()), subject.isa(_turned())
    angles = np.full((4, 1), math.pi / 2)
    seeded = subject.sampler_pub(circuit, shots=100, seed=77)
    swept = subject.sampler_pub(turned, angles, shots=100, seed=77)
    alone = [subject.run(_SAMPLER, [pub]).data[0].meas.array for pub in (seeded, swept)]
    other = subject.sampler_pub(circuit, shots=100, seed=78)
    different = subject.run(_SAMPLER, [other]).data[0].meas.array
    assert not np.array_equal(alone[0], different), "seeds 77 and 78 give the very same 100 shots"
    rows = {row.tobytes() for row in alone[1]}
    assert len(rows) == 4, "under one seed, several parameter sets get the very same shots"
    most = subject.backend.capabilities.max_pubs
    merged = [other, seeded, subject.sampler_pub(turned, angles, shots=50), swept][: most or 4]
    answer = subject.run(_SAMPLER, merged)
    for pub, expected in zip((seeded, swept), alone, strict=True):
        if pub in merged:
            found = answer.data[merged.index(pub)].meas.array
            assert np.array_equal(found, expected), (
                "`seeds` is declared, but a PUB with a seed gives other shots in a batch than alone"
            )


def sampler_binds_late(subject: Subject) -> None:
    """Check: circuits that differ in their angles give the same when these come as values."""
    from qiskit.primitives.containers.sampler_pub import SamplerPub

    from hybridflow.primitives.structure import skeleton, structure

    if not subject.backend.capabilities.late_binding:
        return
    circuit, turns = subject.isa(_coupled()), [0, 1, -1, 2, 3, -4]
    bound = [circuit.assign_parameters([math.pi * turn]) for turn in turns]
    pubs = wire.pack_pubs(
        [SamplerPub.coerce(one, 100) for one in bound], [None] * len(bound), structure, skeleton
    )
    requests = [Request(id=str(n), primitive=_SAMPLER, pubs=(pub,)) for n, pub in enumerate(pubs)]
    batch, cuts = merge(requests, [1.0] * len(requests), late_binding=True)
    assert len(batch.pubs) == 1, f"{len(bound)} circuits of one form became {len(batch.pubs)} PUBs"
    parts = split(cuts, subject.run(_SAMPLER, batch.pubs).packed)
    for turn, (part,) in zip(turns, parts, strict=True):
        data, _ = wire.unpack_result(part)
        what = f"`late_binding` is declared: two qubits coupled by an angle of {turn} pi"
        _assert_share(subject, data.meas, 0b11 if turn % 2 else 0, what)


# Estimator


def _assert_close(subject: Subject, found: Any, wanted: Any, precision: float, what: str) -> None:
    # Readout errors count once a measured qubit: two here.
    allowed = 4 * (1 - subject.fidelity) + 7 * precision + 1e-6
    worst = float(np.max(np.abs(np.asarray(found) - np.asarray(wanted))))
    assert worst <= allowed, (
        f"{what}: expected {np.asarray(wanted).tolist()} within {allowed:.2g}, "
        f"got {np.asarray(found).tolist()}"
    )


def estimator_samples(subject: Subject) -> None:
    """Check: a precision above 0 is met, with standard errors that say so."""
    circuit = subject.isa(_bell(measured=False))
    observables = _laid_out(circuit, ["ZZ", "XX", "YY", "ZI"])
    pub = subject.estimator_pub(circuit, observables, precision=0.05, seed=_seed(subject))
    answer = subject.run(_ESTIMATOR, [pub])
    data = answer.data[0]
    assert data.shape == (4,), f"four observables gave a result of shape {data.shape}"
    _assert_close(subject, data.evs, [1, 1, -1, 0], 0.05, "<ZZ>, <XX>, <YY>, <ZI> of a Bell pair")
    assert np.all(np.isfinite(data.stds)), f"standard errors are {data.stds.tolist()}"
    assert np.all((data.stds >= 0) & (data.stds <= 0.1)), (
        f"standard errors at precision 0.05 are {data.stds.tolist()}"
    )
    found = answer.metadata[0].get("target_precision")
    assert found == 0.05, f"metadata has target_precision={found}, not 0.05"


def _laid_out(circuit: "QuantumCircuit", labels: list[str]) -> list[Any]:
    from qiskit.quantum_info import SparsePauliOp

    return [
        SparsePauliOp(label).apply_layout(circuit.layout, num_qubits=circuit.num_qubits)
        for label in labels
    ]


def estimator_broadcasts(subject: Subject) -> None:
    """Check: observables and parameter values broadcast as Qiskit's do."""
    circuit = subject.isa(_turned(measured=False))
    observables = [[item] for item in _laid_out(circuit, ["Z", "X"])]
    angles = np.array([[0.0], [math.pi / 2], [math.pi]])
    precision = 0.0 if subject.backend.capabilities.exact else 0.05
    pub = subject.estimator_pub(circuit, observables, angles, precision=precision)
    data = subject.run(_ESTIMATOR, [pub]).data[0]
    assert data.shape == (2, 3), f"observables (2, 1) and parameters (3,) gave {data.shape}"
    assert data.evs.shape == (2, 3), f"evs has the shape {data.evs.shape}, not (2, 3)"
    wanted = [[1, 0, -1], [0, 1, 0]]
    _assert_close(subject, data.evs, wanted, precision, "<Z> and <X> at 0, pi/2 and pi")


def estimator_is_exact(subject: Subject) -> None:
    """Check: precision 0 is computed where `exact` is declared, and refused elsewhere."""
    circuit = subject.isa(_turned(measured=False))
    observable = _laid_out(circuit, ["Z"])[0]
    pub = subject.estimator_pub(circuit, observable, [1.0], precision=0.0)
    if not subject.backend.capabilities.exact:
        error = subject.refusal(_ESTIMATOR, [pub])
        assert isinstance(error, RequestError), (
            "`exact` is not declared, so that precision 0 must be refused with a RequestError; "
            f"it gave {error!r}"
        )
        return
    first, second = (subject.run(_ESTIMATOR, [pub]).data[0] for _ in range(2))
    assert first.evs == second.evs, (
        f"`exact` is declared, but precision 0 gave {first.evs} and then {second.evs}"
    )
    assert first.stds == 0, (
        f"`exact` is declared, but precision 0 has a standard error {first.stds}"
    )
    _assert_close(subject, first.evs, math.cos(1.0), 0.0, "<Z> at 1 rad")


# Refusals


def undeclared_primitives_are_refused(subject: Subject) -> None:
    """Check: a primitive that is not declared is refused."""
    pubs = {
        _SAMPLER: subject.sampler_pub(subject.isa(_bell())),
        _ESTIMATOR: _any_estimator_pub(subject),
        _ANALOG: PackedPub(circuit=b"{}", shots=10),
    }
    for primitive, pub in pubs.items():
        if not subject.supports(primitive):
            error = subject.refusal(primitive, [pub])
            assert isinstance(error, RequestError), (
                f"the {primitive.value} is not declared and must be refused with a RequestError; "
                f"it gave {error!r}"
            )


def _any_estimator_pub(subject: Subject) -> Any:
    circuit = subject.isa(_bell(measured=False))
    return subject.estimator_pub(circuit, _laid_out(circuit, ["ZZ"]), precision=0.1)


def any_pub(subject: Subject) -> tuple[Primitive, Any]:
    """Return a small PUB that the backend must be able to run."""
    if subject.supports(_SAMPLER):
        return _SAMPLER, subject.sampler_pub(subject.isa(_ones(1)), shots=10)
    if subject.supports(_ANALOG):
        return _ANALOG, analog_pub(subject, 10)
    return _ESTIMATOR, _any_estimator_pub(subject)


def bad_batches_fail_clearly(subject: Subject) -> None:
    """Check: a damaged circuit and an unknown option fail clearly, and the backend lives on."""
    primitive, pub = any_pub(subject)
    damaged = msgspec.structs.replace(pub, circuit=b"this is no circuit")
    error = subject.refusal(primitive, [damaged])
    assert error is not None, "a PUB whose circuit is garbage ran, as if its circuit did not matter"
    assert not error.transient, f"a damaged circuit is declared transient: {error!r}"
    error = subject.refusal(primitive, [pub], options={"no_such_option": True})
    assert isinstance(error, RequestError), (
        f"the undeclared option 'no_such_option' must be refused, not ignored; it gave {error!r}"
    )
    subject.run(primitive, [pub])


def limits_are_kept(subject: Subject) -> None:
    """Check: more qubits, PUBs or shots than declared are refused with a RequestError."""
    capabilities = subject.backend.capabilities
    primitive, pub = any_pub(subject)
    refused: dict[str, Any] = {}
    if capabilities.num_qubits is not None and primitive is not _ESTIMATOR:
        many = capabilities.num_qubits + 1
        digital = primitive is _SAMPLER
        wide = subject.sampler_pub(_ones(many), shots=10) if digital else wide_pub(subject, many)
        refused[f"{many} qubits"] = [wide]
    if capabilities.max_pubs is not None:
        refused[f"{capabilities.max_pubs + 1} PUBs"] = [pub] * (capabilities.max_pubs + 1)
    if capabilities.max_shots is not None and primitive is not _ESTIMATOR:
        greedy = msgspec.structs.replace(pub, shots=capabilities.max_shots + 1)
        refused[f"{capabilities.max_shots + 1} shots"] = [greedy]
    for what, pubs in refused.items():
        error = subject.refusal(primitive, pubs)
        assert isinstance(error, RequestError), (
            f"{what} is over the declared limit and must be refused with a RequestError; it gave "
            f"{error!r}"
        )


# Jobs


def jobs_can_be_stopped(subject: Subject) -> None:
    """Check: a stopped job ends; stopping it again, and stopping an ended job, is no error."""
    primitive, pub = any_pub(subject)
    job_id = subject.start(primitive, [pub])
    with typed("stop()"):
        subject.backend.stop(job_id)
    state = subject.wait(job_id).state
    assert state in (JobState.CANCELLED, JobState.DONE), f"a stopped job ended as {state.value}"
    with typed("stop() of an ended job"):
        subject.backend.stop(job_id)
    subject.run(primitive, [pub])


def jobs_are_found_by_tag(subject: Subject) -> None:
    """Check: where `tags` is declared, ``find`` gives a job's id; an unknown tag gives None."""
    primitive, pub = any_pub(subject)
    job_id = subject.start(primitive, [pub], tag="check-backend-tag")
    with typed("find()"):
        found = subject.backend.find("check-backend-tag")
        unknown = subject.backend.find("check-backend-no-such-tag")
    wanted = job_id if subject.backend.capabilities.tags else None
    assert found == wanted, f"find() of a started job's tag gave {found!r}, not {wanted!r}"
    assert unknown is None, f"find() of an unknown tag gave {unknown!r}, not None"
    subject.wait(job_id)


def lanes_are_there(subject: Subject) -> None:
    """Check: as many jobs as declared can be started before the first has ended."""
    primitive, pub = any_pub(subject)
    count = min(3, subject.backend.capabilities.lanes)
    jobs = [subject.start(primitive, [pub]) for _ in range(count)]
    assert len(set(jobs)) == count, f"start() gave an id twice: {jobs}"
    for job_id in jobs:
        state = subject.wait(job_id).state
        assert state is JobState.DONE, f"one of {count} jobs on `lanes` ended as {state.value}"


def usage_is_sane(subject: Subject) -> None:
    """Check: a finished job's cost is a finite number of seconds."""
    primitive, pub = any_pub(subject)
    usage = subject.run(primitive, [pub]).usage
    assert isinstance(usage, Usage), f"usage() gave {usage!r}, not a Usage"
    assert 0 <= usage.qpu_seconds < math.inf, f"usage() says {usage.qpu_seconds} QPU seconds"
    assert usage.shots >= 0, f"usage() says {usage.shots} shots"


def unknown_jobs_are_errors(subject: Subject) -> None:
    """Check: asking for a job that was never started is a typed error."""
    for name in ("status", "result", "usage"):
        try:
            with typed(f"{name}() of an unknown job"):
                found = getattr(subject.backend, name)("check-backend-no-such-job")
        except HybridflowError:
            continue
        raise AssertionError(f"{name}() of a job that was never started gave {found!r}")


CHECKS: tuple[tuple[Primitive | None, Callable[[Subject], None]], ...] = (
    (None, declarations),
    (None, target),
    (_SAMPLER, sampler_is_not_silent),
    (_SAMPLER, sampler_entangles),
    (_SAMPLER, sampler_keeps_registers),
    (_SAMPLER, sampler_keeps_shapes),
    (_SAMPLER, sampler_keeps_order),
    (_SAMPLER, sampler_repeats_seeds),
    (_SAMPLER, sampler_binds_late),
    (_ESTIMATOR, estimator_samples),
    (_ESTIMATOR, estimator_broadcasts),
    (_ESTIMATOR, estimator_is_exact),
    *((_ANALOG, check) for check in ANALOG_CHECKS),
    (None, undeclared_primitives_are_refused),
    (None, bad_batches_fail_clearly),
    (None, limits_are_kept),
    (None, jobs_can_be_stopped),
    (None, jobs_are_found_by_tag),
    (None, lanes_are_there),
    (None, usage_is_sane),
    (None, unknown_jobs_are_errors),
)
"""The checks, and the primitive that a backend must declare to be asked; None: any backend."""

"""Estimator PUBs: expectation values without sampling, or sampled in commuting groups.

Precision 0 asks for the exact values of a noiseless (or cheaply noisy) circuit. A precision above 0
asks for ``ceil(1 / precision**2)`` shots of each group of observables that can be measured
together; the standard error of a sum is taken from the very shots that it was estimated from, so
that what its terms have in common is counted.
"""

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Clbit, Instruction
from qiskit.quantum_info import PauliList

from hybridflow import wire
from hybridflow.backends.aer.bits import Bits, unpack
from hybridflow.backends.aer.engine import Engine, Evaluation, Floats, Sampling
from hybridflow.backends.aer.plan import Plan, make_plan
from hybridflow.errors import CircuitError, RequestError
from hybridflow.records import Batch, PackedPub, PackedResult, Primitive

if TYPE_CHECKING:
    from qiskit.primitives.containers.estimator_pub import EstimatorPub

__all__ = ["Rotations", "run_estimator", "shots_for"]

Rotations = Mapping[str, Sequence[Instruction]]
"""For ``X`` and ``Y``: the gates that turn a measurement of Z into one of it."""

Terms = dict[str, float]

# What projectors are in Paulis: (Pauli, sign).
_PROJECTORS = {"0": ("Z", 1), "1": ("Z", -1), "+": ("X", 1), "-": ("X", -1), "r": ("Y", 1)}
_PROJECTORS["l"] = ("Y", -1)


def shots_for(precision: float) -> int:
    """Return the shots that a precision asks for, as Qiskit's BackendEstimatorV2 counts them."""
    return math.ceil(1 / precision**2)


@dataclass(frozen=True)
class _Group:
    """Bindings of a PUB that are asked for the same observables."""

    observables: list[int]
    bindings: list[int] = field(default_factory=list)


class _Pub:
    """A PUB, its observables expanded, and where its values go."""

    def __init__(self, packed: PackedPub, plan: Plan) -> None:
        pub = cast("EstimatorPub", wire.unpack_pub(packed, Primitive.ESTIMATOR))
        self.plan = plan
        self.precision = float(packed.precision or 0.0)
        self.seed = packed.seed
        self.terms = [
            _expanded(pub.observables[place]) for place in np.ndindex(pub.observables.shape)
        ]
        parameters = pub.parameter_values
        shape = parameters.shape
        size = math.prod(shape)
        self.values: Floats = parameters.as_array(pub.circuit.parameters).reshape(
            size, pub.circuit.num_parameters
        )
        self.binding_of, self.observable_of = np.broadcast_arrays(
            np.arange(size).reshape(shape),
            np.arange(len(self.terms)).reshape(pub.observables.shape),
        )

    def groups(self) -> list[_Group]:
        """Return the bindings, those with equal observables together."""
        wanted: defaultdict[int, set[int]] = defaultdict(set)
        for binding, observable in zip(
            self.binding_of.ravel().tolist(), self.observable_of.ravel().tolist(), strict=True
        ):
            wanted[binding].add(observable)
        groups: dict[tuple[int, ...], _Group] = {}
        for binding, observables in wanted.items():
            key = tuple(sorted(observables))
            groups.setdefault(key, _Group(list(key))).bindings.append(binding)
        return list(groups.values())

    def result(self, evs: Floats, variances: Floats) -> PackedResult:
        """Pack tables over (binding, observable)."""
        metadata: dict[str, Any] = {"target_precision": self.precision}
        if self.precision:
            metadata["shots"] = shots_for(self.precision)
        stds = np.sqrt(variances)
        return PackedResult(
            arrays={
                "evs": wire.array_to_bytes(evs[self.binding_of, self.observable_of]),
                "stds": wire.array_to_bytes(stds[self.binding_of, self.observable_of]),
            },
            shape=self.binding_of.shape,
            metadata=msgspec.json.encode(metadata),
        )

    def tables(self) -> tuple[Floats, Floats]:
        """Return zeros for values and for variances, over (binding, observable)."""
        shape = (len(self.values), len(self.terms))
        return np.zeros(shape), np.zeros(shape)


def run_estimator(
    batch: Batch,
    engine: Engine,
    plan_of: Callable[[PackedPub], Plan],
    rotations: Rotations,
    method: str,
    stop: threading.Event,
) -> tuple[tuple[PackedResult, ...], int]:
    """Estimate a batch; return a result for each PUB, and the shots that were taken in all.

    Parameters
    ----------
    batch
        The PUBs; the option ``abelian_grouping`` (default true) groups observables.
    engine
        What samples and evaluates.
    plan_of
        Looks at a PUB's circuit; raises for one that is not accepted.
    rotations
        Gates before the measurement of X and Y.
    method
        Aer's simulation method.
    stop
        Set when the job is to stop.

    Raises
    ------
    RequestError
        If a PUB cannot be run.
    """
    pubs = [_Pub(packed, plan_of(packed)) for packed in batch.pubs]
    grouped = bool(batch.options.get("abelian_grouping", True))
    results: dict[int, PackedResult] = {}
    exact = [number for number, pub in enumerate(pubs) if not pub.precision]
    _evaluate(pubs, exact, engine, method, stop, results)
    sampled = [number for number, pub in enumerate(pubs) if pub.precision]
    shots = _estimate(pubs, sampled, engine, rotations, grouped, method, stop, results)
    return tuple(results[number] for number in range(len(pubs))), shots


def _expanded(observable: Mapping[str, float]) -> Terms:
    """Return an observable in Paulis alone: ``0`` is (I + Z) / 2, and so on."""
    terms: defaultdict[str, float] = defaultdict(float)
    for label, coefficient in observable.items():
        expanded = [("", float(coefficient))]
        for letter in label:
            if letter in _PROJECTORS:
                pauli, sign = _PROJECTORS[letter]
                expanded = [
                    item
                    for text, value in expanded
                    for item in ((text + "I", value / 2), (text + pauli, sign * value / 2))
                ]
            else:
                expanded = [(text + letter, value) for text, value in expanded]
        for text, value in expanded:
            terms[text] += value
    return dict(terms)


def _coefficients(pub: _Pub, group: _Group, paulis: Sequence[str]) -> Floats:
    """Return the matrix (observables, paulis)."""
    rows = [[pub.terms[number].get(label, 0.0) for label in paulis] for number in group.observables]
    return np.array(rows, dtype=np.float64).reshape(len(group.observables), len(paulis))


def _paulis(pub: _Pub, group: _Group) -> tuple[str, ...]:
    return tuple(sorted({label for number in group.observables for label in pub.terms[number]}))


# Without sampling


def _evaluate(
    pubs: Sequence[_Pub],
    chosen: Sequence[int],
    engine: Engine,
    method: str,
    stop: threading.Event,
    results: dict[int, PackedResult],
) -> None:
    if chosen and not engine.exact:
        raise RequestError(
            "precision 0 asks for exact values, and a device's noise is only sampled here: ask for "
            "a precision above 0"
        )
    places = [(number, group) for number in chosen for group in pubs[number].groups()]
    evaluations = []
    for number, group in places:
        pub = pubs[number]
        if not pub.plan.static:
            raise CircuitError(
                f"the circuit {pub.plan.name!r} measures, resets or branches, so that it has no "
                "exact expectation value: ask for a precision above 0"
            )
        evaluations.append(Evaluation(pub.plan, pub.values[group.bindings], _paulis(pub, group)))
    tables = {number: pubs[number].tables() for number in chosen}
    found = engine.evaluate(evaluations, method, stop)
    for (number, group), item, values in zip(places, evaluations, found, strict=True):
        coefficients = _coefficients(pubs[number], group, item.paulis)
        tables[number][0][np.ix_(group.bindings, group.observables)] = values @ coefficients.T
    for number in chosen:
        results[number] = pubs[number].result(*tables[number])


# With sampling


@dataclass(frozen=True)
class _Measurement:
    """Paulis of a group that are measured together, on these qubits, each into a bit of its own."""

    pub: _Pub
    group: _Group
    paulis: tuple[str, ...]
    qubits: tuple[int, ...]
    sampling: Sampling


def _estimate(
    pubs: Sequence[_Pub],
    chosen: Sequence[int],
    engine: Engine,
    rotations: Rotations,
    grouped: bool,
    method: str,
    stop: threading.Event,
    results: dict[int, PackedResult],
) -> int:
    measurements = {
        number: list(_measurements(pubs[number], rotations, grouped)) for number in chosen
    }
    samplings = [item.sampling for number in chosen for item in measurements[number]]
    memories = iter(engine.sample(samplings, method, stop))
    for number in chosen:
        evs, variances = pubs[number].tables()
        for group in pubs[number].groups():
            evs[np.ix_(group.bindings, group.observables)] = _coefficients(
                pubs[number], group, ["I" * pubs[number].plan.circuit.num_qubits]
            ).T
        for item in measurements[number]:
            _book(item, next(memories), evs, variances)
        results[number] = pubs[number].result(evs, variances)
    return sum(len(item.values) * item.shots for item in samplings)


def _measurements(pub: _Pub, rotations: Rotations, grouped: bool) -> Iterator[_Measurement]:
    part = 0
    for group in pub.groups():
        for paulis in _measured_together(_paulis(pub, group), grouped):
            qubits, plan = _measured(pub.plan, paulis, rotations)
            seed = None if pub.seed is None else _part_seed(pub.seed, part)
            sampling = Sampling(plan, pub.values[group.bindings], shots_for(pub.precision), seed)
            yield _Measurement(pub, group, paulis, qubits, sampling)
            part += 1


def _measured_together(paulis: Sequence[str], grouped: bool) -> list[tuple[str, ...]]:
    labels = [label for label in paulis if label.strip("I")]
    if not labels or not grouped:
        return [(label,) for label in labels]
    groups = PauliList(labels).group_commuting(qubit_wise=True)
    return [tuple(group.to_labels()) for group in groups]


def _measured(
    plan: Plan, paulis: Sequence[str], rotations: Rotations
) -> tuple[tuple[int, ...], Plan]:
    circuit: QuantumCircuit = plan.circuit.copy()
    letters: dict[int, str] = {}
    for label in paulis:
        for qubit, letter in enumerate(reversed(label)):
            if letter != "I":
                letters[qubit] = letter
    qubits = tuple(sorted(letters))
    bits = [Clbit() for _ in qubits]
    circuit.add_bits(bits)
    for qubit, bit in zip(qubits, bits, strict=True):
        for gate in rotations.get(letters[qubit], ()):
            circuit.append(gate, [qubit])
        circuit.measure(qubit, bit)
    return qubits, make_plan(circuit)


def _part_seed(seed: int, part: int) -> int:
    return int(np.random.SeedSequence([seed, part]).generate_state(1, np.uint64)[0])


def _book(item: _Measurement, memory: Bits, evs: Floats, variances: Floats) -> None:
    """Add what a measurement says to the tables over (binding, observable)."""
    total = item.sampling.plan.circuit.num_clbits
    shots = item.sampling.shots
    masks = np.array(
        [[label[len(label) - 1 - qubit] != "I" for label in item.paulis] for qubit in item.qubits],
        dtype=np.float32,
    )
    coefficients = _coefficients(item.pub, item.group, item.paulis)
    for row, binding in zip(memory, item.group.bindings, strict=True):
        outcomes, counts = np.unique(row, axis=0, return_counts=True)
        bits = unpack(outcomes, total)[:, total - len(item.qubits) :]
        signs = 1.0 - 2.0 * ((bits.astype(np.float32) @ masks) % 2)
        values = signs @ coefficients.T
        means = counts @ values / shots
        spread = counts @ (values - means) ** 2
        evs[binding, item.group.observables] += means
        variances[binding, item.group.observables] += spread / max(1, shots - 1) / shots

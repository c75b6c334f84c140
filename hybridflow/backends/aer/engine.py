"""Samples circuits and evaluates expectation values in as few Aer runs as are needed.

Static circuits without device noise are simulated once for each structure and set of numbers, all
in one run; the shots are drawn here from the probabilities, each PUB from its own generator. So
the counts of a seeded PUB do not depend on where it stands, shots may differ, and no shot crosses
Aer's border as text. Everything else goes through Aer shot by shot, grouped by shots; there, where
Aer's random numbers depend on a circuit's place in the run, each seeded PUB is a run of its own.
"""

import threading
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.exceptions import QiskitError
from qiskit.quantum_info import Pauli
from qiskit_aer import AerError
from qiskit_aer.library import SaveExpectationValue

from hybridflow.backends.aer.bits import Bits, memory_from_hex, memory_from_outcomes, num_bytes
from hybridflow.backends.aer.memory import check_state, free_bytes
from hybridflow.backends.aer.noise import CheapNoise
from hybridflow.backends.aer.options import AerOptions
from hybridflow.backends.aer.plan import Plan
from hybridflow.backends.jobs import StoppedError
from hybridflow.errors import CircuitError, TooLargeError, VendorJobError

__all__ = ["Engine", "Evaluation", "Floats", "Sampling"]

Floats = np.ndarray[Any, np.dtype[np.float64]]

_DRAWN_QUBITS = 20
"""Up to so many qubits the probabilities are cheaper than Aer's own shots."""

_RUNTIME_BOUND_QUBITS = 13
"""Up to so many qubits Aer neither fuses gates nor splits a state over threads."""

_TEMPLATES, _TEMPLATE_GATES = 16, 2000
"""So many circuits, of up to so many gates, are kept with their numbers open for the next job."""

_PROBABILITIES_PER_RUN = 2**25
_BYTES_PER_PROBABILITY = 32  # Aer's, its result's, and what they are cumulated into
_SHOTS_PER_RUN = 2**22
_SHOTS_PER_DRAW = 2**20


@dataclass(frozen=True)
class Sampling:
    """A circuit to be sampled for each row of parameter values.

    Attributes
    ----------
    plan
        The circuit.
    values
        Shape (bindings, parameters), in the order of ``circuit.parameters``.
    shots
        Shots for each binding.
    seed
        Seed of this sampling alone; None: the engine's randomness.
    """

    plan: Plan
    values: Floats
    shots: int
    seed: int | None


@dataclass(frozen=True)
class Evaluation:
    """A static circuit whose expectation values are wanted, without sampling.

    Attributes
    ----------
    plan
        The circuit.
    values
        Shape (bindings, parameters), in the order of ``circuit.parameters``.
    paulis
        Labels over all qubits of the circuit, as Qiskit writes them.
    """

    plan: Plan
    values: Floats
    paulis: tuple[str, ...]


@dataclass
class _State:
    """A state to be simulated, and who draws from it: pairs (sampling, binding)."""

    numbers: tuple[float, ...]
    users: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class _Family:
    """States of circuits that differ in numbers only."""

    plan: Plan
    states: dict[bytes, _State] = field(default_factory=dict)

    def circuit(self) -> tuple[QuantumCircuit, list[Parameter]]:
        """Return what saves the probabilities, and the parameters whose values the states have."""
        plan = self.plan
        if plan.structure is None:
            return _saving(plan, plan.bare()), list(plan.circuit.parameters)
        if len(plan.circuit.data) <= _TEMPLATE_GATES:
            return _template(_Structure(plan.structure, plan))
        if len(self.states) > 1:
            return _with_numbers_open(plan)
        return _saving(plan, plan.bare()), []


@dataclass(frozen=True)
class _Structure:
    """What is equal for circuits that differ in numbers only, and one of them."""

    structure: Hashable
    plan: Plan = field(compare=False)


@lru_cache(maxsize=_TEMPLATES)  # tasks come again and again with other numbers for one circuit
def _template(structure: _Structure) -> tuple[QuantumCircuit, list[Parameter]]:
    return _with_numbers_open(structure.plan)


def _with_numbers_open(plan: Plan) -> tuple[QuantumCircuit, list[Parameter]]:
    parameters = [Parameter(f"number_{n}") for n in range(len(plan.numbers))]
    return _saving(plan, plan.bare(parameters)), parameters


def _saving(plan: Plan, gates: QuantumCircuit) -> QuantumCircuit:
    gates.save_probabilities(list(plan.outcome_qubits))
    return gates


class Engine:
    """An Aer simulator, and the randomness of what has no seed.

    Parameters
    ----------
    simulator
        The ``AerSimulator``; its noise model is the device's noise.
    options
        The backend's options.
    """

    def __init__(self, simulator: Any, options: AerOptions) -> None:
        self._simulator = simulator
        self._options = options
        self._noise = CheapNoise.of(options)
        self._random = np.random.default_rng(options.seed)

    @property
    def exact(self) -> bool:
        """Whether expectation values can be had without sampling."""
        return not self._options.has_device_noise

    # Sampling

    def sample(
        self, samplings: Sequence[Sampling], method: str, stop: threading.Event
    ) -> list[Bits]:
        """Return the memory of each sampling: shape (bindings, shots, bytes).

        Raises
        ------
        TooLargeError
            If a state, or the shots, would not fit into memory.
        CircuitError
            If Aer does not know an instruction.
        """
        free = free_bytes(self._options)
        for sampling in samplings:
            check_state(sampling.plan, method, self._options.bytes_per_amplitude, free)
        _check_shots(samplings, free)
        results = [
            np.zeros(
                (len(item.values), item.shots, num_bytes(item.plan.circuit.num_clbits)), np.uint8
            )
            for item in samplings
        ]
        drawn = [n for n, item in enumerate(samplings) if self._is_drawn(item.plan, method)]
        self._draw(samplings, drawn, results, free, stop)
        shot = sorted(set(range(len(samplings))) - set(drawn))
        self._shoot(samplings, shot, results, method, stop)
        if self._noise:
            self._add_noise(samplings, results)
        return results

    def _is_drawn(self, plan: Plan, method: str) -> bool:
        return (
            plan.static
            and plan.num_active <= _DRAWN_QUBITS
            and not self._options.has_device_noise
            and method in ("automatic", "statevector")
        )

    def _draw(
        self,
        samplings: Sequence[Sampling],
        chosen: Iterable[int],
        results: list[Bits],
        free: int,
        stop: threading.Event,
    ) -> None:
        families: dict[Hashable, _Family] = {}
        for number in chosen:
            _join_family(families, samplings[number], number)
        for states, probabilities in self._probabilities(families.values(), free, stop):
            for state, chances in zip(states, probabilities, strict=True):
                cumulated = np.cumsum(chances, dtype=np.float64)
                for number, binding in state.users:
                    item = samplings[number]
                    rng = self._generator(item.seed, binding)
                    _draw_into(results[number][binding], cumulated, item.plan, rng)

    def _probabilities(
        self, families: Iterable[_Family], free: int, stop: threading.Event
    ) -> Iterator[tuple[list[_State], list[Floats]]]:
        most = min(_PROBABILITIES_PER_RUN, free // _BYTES_PER_PROBABILITY)
        for run in _runs(families, most):
            _check_stop(stop)
            circuits, binds = [], []
            for family, states in run:
                circuit, parameters = family.circuit()
                circuits.append(circuit)
                binds.append(_binds(circuit, parameters, [state.numbers for state in states]))
            small = max(family.plan.num_active for family, _ in run) <= _RUNTIME_BOUND_QUBITS
            found = iter(
                self._run(
                    circuits,
                    binds,
                    method="statevector",
                    shots=1,
                    runtime_parameter_bind_enable=small,
                )
            )
            for (_, states), bound in zip(run, binds, strict=True):
                # Without a parameter that matters there is one result for all states.
                rows = [next(found).data.probabilities for _ in (states if bound else states[:1])]
                yield states, rows if bound else rows * len(states)

    def _shoot(
        self,
        samplings: Sequence[Sampling],
        chosen: Iterable[int],
        results: list[Bits],
        method: str,
        stop: threading.Event,
    ) -> None:
        for run, seed in _shot_runs(samplings, chosen):
            _check_stop(stop)
            circuits, binds = [], []
            for number in run:
                for circuit, bound in _bound_circuits(samplings[number]):
                    circuits.append(circuit)
                    binds.append(bound)
            found = iter(
                self._run(
                    circuits,
                    binds,
                    method=method,
                    shots=samplings[run[0]].shots,
                    memory=True,
                    seed_simulator=self._aer_seed(seed),
                )
            )
            for number in run:
                plan = samplings[number].plan
                for binding in range(len(samplings[number].values)):
                    results[number][binding] = _memory(next(found), plan)

    def _add_noise(self, samplings: Sequence[Sampling], results: list[Bits]) -> None:
        for item, memory in zip(samplings, results, strict=True):
            for binding in range(len(memory)):
                rng = self._generator(item.seed, binding, 1)
                memory[binding] = self._noise.apply(memory[binding], item.plan, rng)

    def _generator(self, seed: int | None, *place: int) -> np.random.Generator:
        # One generator a binding: what a binding gets depends on nothing but the PUB itself.
        return self._random if seed is None else np.random.default_rng([seed, *place])

    def _aer_seed(self, seed: int | None) -> int:
        if seed is None:
            return int(self._random.integers(2**31))
        return int(np.random.SeedSequence(seed).generate_state(1)[0]) >> 1

    # Expectation values

    def evaluate(
        self, evaluations: Sequence[Evaluation], method: str, stop: threading.Event
    ) -> list[Floats]:
        """Return expectation values of each evaluation: shape (bindings, paulis).

        Raises
        ------
        CircuitError
            If a circuit is not static, or Aer does not know an instruction.
        TooLargeError
            If a state would not fit into memory.
        """
        free = free_bytes(self._options)
        runs: defaultdict[tuple[str, bool], list[tuple[int, _Values]]] = defaultdict(list)
        for number, item in enumerate(evaluations):
            check_state(item.plan, method, 16, free)
            chosen = "statevector" if self._is_drawn(item.plan, method) else method
            small = chosen == "statevector" and item.plan.num_active <= _RUNTIME_BOUND_QUBITS
            runs[chosen, small].append((number, _Values(item)))
        results: dict[int, Floats] = {}
        for (chosen, small), run in runs.items():
            _check_stop(stop)
            for number, values in self._evaluate_run(run, chosen, small):
                results[number] = values * self._factors(evaluations[number])
        return [results[number] for number in range(len(evaluations))]

    def _evaluate_run(
        self, run: Sequence[tuple[int, "_Values"]], method: str, small: bool
    ) -> Iterator[tuple[int, Floats]]:
        asked = [values for _, values in run if values.wanted]
        found: Iterator[Any] = iter(())
        if asked:
            found = iter(
                self._run(
                    [values.circuit for values in asked],
                    [values.binds for values in asked],
                    method=method,
                    precision="double",
                    shots=1,
                    runtime_parameter_bind_enable=small,
                )
            )
        for number, values in run:
            yield number, values.table([next(found).data.to_dict() for _ in range(values.rows)])

    def _factors(self, item: Evaluation) -> Floats:
        weights = [_weight(label) for label in item.paulis]
        return np.array([self._noise.factor(weight) if weight else 1.0 for weight in weights])

    # Aer

    def _run(
        self,
        circuits: list[QuantumCircuit],
        binds: list[dict[Parameter, list[float]]],
        **options: Any,
    ) -> list[Any]:
        try:
            result = self._simulator.run(
                circuits, parameter_binds=binds if any(binds) else None, **options
            ).result()
        except (AerError, QiskitError) as error:
            raise CircuitError(f"Aer cannot run a circuit: {error.message}") from error
        if not result.success:
            reasons = {str(item.status) for item in result.results if not item.success}
            raise _failure("; ".join(sorted(reasons)) or str(result.status))
        return list(result.results)


class _Values:
    """An evaluation as Aer is asked for it: on the active qubits, each Pauli once.

    Attributes
    ----------
    wanted
        Labels that Aer is asked for.
    circuit, binds
        What it is asked with.
    rows
        Results that it gives: one a binding, or one for all.
    """

    def __init__(self, item: Evaluation) -> None:
        self._bindings = len(item.values)
        self._seen = [_on_active(label, item.plan.active) for label in item.paulis]
        self.wanted = sorted({label for label in self._seen if label}) if self._bindings else []
        self.circuit = item.plan.bare()
        for label in self.wanted:
            save = SaveExpectationValue(Pauli(label), label=label)
            self.circuit.append(save, self.circuit.qubits)
        self.binds = _binds(self.circuit, list(item.plan.circuit.parameters), item.values)
        self.rows = (self._bindings if self.binds else 1) if self.wanted else 0

    def table(self, rows: Sequence[dict[str, float]]) -> Floats:
        """Return the values of all Paulis: shape (bindings, paulis)."""
        table = [[self._value(label, row) for label in self._seen] for row in rows or [{}]]
        values = np.array(table, dtype=np.float64)
        if len(values) == self._bindings:
            return values
        return np.repeat(values[:1], self._bindings, axis=0)

    @staticmethod
    def _value(label: str | None, row: dict[str, float]) -> float:
        if label is None:
            return 0.0
        return row[label] if label and row else float(not label)


def _failure(reason: str) -> Exception:
    if "memory" in reason.lower():
        return TooLargeError(f"Aer refused a circuit: {reason}")
    return VendorJobError(f"Aer failed: {reason}")


def _check_stop(stop: threading.Event) -> None:
    if stop.is_set():
        raise StoppedError


def _check_shots(samplings: Sequence[Sampling], free: int) -> None:
    needed = sum(
        len(item.values) * item.shots * num_bytes(item.plan.circuit.num_clbits)
        for item in samplings
    )
    if needed > free // 2:
        raise TooLargeError(
            f"the shots of this batch take {needed / 2**20:,.0f} MiB and there are "
            f"{free / 2**20:,.0f} MiB for states and shots (key `memory_mib`, or free memory): "
            "ask for fewer shots, or a larger precision"
        )


def _draw_into(memory: Bits, cumulated: Floats, plan: Plan, rng: np.random.Generator) -> None:
    # In parts: numbers on their way to bits take a hundred times the room of the bits.
    for begin in range(0, len(memory), _SHOTS_PER_DRAW):
        part = memory[begin : begin + _SHOTS_PER_DRAW]
        places = rng.random(len(part)) * cumulated[-1]
        outcomes = np.searchsorted(cumulated, places, side="right")
        part[:] = memory_from_outcomes(
            np.minimum(outcomes, len(cumulated) - 1), plan.outcome_places, plan.outcome_is_memory
        )


def _join_family(families: dict[Hashable, _Family], item: Sampling, number: int) -> None:
    plan = item.plan
    key: Hashable = plan.structure if plan.structure is not None else id(plan)
    family = families.setdefault(key, _Family(plan))
    for binding, row in enumerate(item.values):
        numbers = plan.numbers if plan.structure is not None else tuple(row)
        place = np.array(numbers).tobytes()
        family.states.setdefault(place, _State(numbers)).users.append((number, binding))


def _runs(families: Iterable[_Family], most: int) -> Iterator[list[tuple[_Family, list[_State]]]]:
    """Cut families into runs of bounded size, small circuits apart from large ones."""
    for small in (True, False):
        run: list[tuple[_Family, list[_State]]] = []
        room = most
        for family in families:
            if (family.plan.num_active <= _RUNTIME_BOUND_QUBITS) != small:
                continue
            states = list(family.states.values())
            size = 2 ** len(family.plan.outcome_qubits)
            while states:
                count = max(1, room // size)
                run.append((family, states[:count]))
                room -= size * len(states[:count])
                states = states[count:]
                if states or room <= 0:
                    yield run
                    run, room = [], most
        if run:
            yield run


def _shot_runs(
    samplings: Sequence[Sampling], chosen: Iterable[int]
) -> Iterator[tuple[list[int], int | None]]:
    """Group by shots what has no seed, into runs of bounded size; one run for what has one."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for number in chosen:
        if not len(samplings[number].values):
            continue
        if samplings[number].seed is None:
            groups[samplings[number].shots].append(number)
        else:
            yield [number], samplings[number].seed
    for shots, group in groups.items():
        run: list[int] = []
        size = 0
        for number in group:
            run.append(number)
            size += shots * len(samplings[number].values)
            if size >= _SHOTS_PER_RUN:
                yield run, None
                run, size = [], 0
        if run:
            yield run, None


def _bound_circuits(
    item: Sampling,
) -> Iterator[tuple[QuantumCircuit, dict[Parameter, list[float]]]]:
    """Give Aer what it binds itself, and bind what it cannot look into: control flow."""
    circuit = item.plan.circuit
    if not circuit.num_parameters:
        yield circuit, {}
    elif item.plan.static:
        yield circuit, _binds(circuit, list(circuit.parameters), item.values)
    else:
        for row in item.values:
            yield circuit.assign_parameters(row), {}


def _binds(
    circuit: QuantumCircuit, parameters: Sequence[Parameter], rows: Any
) -> dict[Parameter, list[float]]:
    if not parameters:
        return {}
    columns = np.asarray(rows, dtype=np.float64).T.tolist()
    used = set(circuit.parameters)
    return {
        parameter: column
        for parameter, column in zip(parameters, columns, strict=True)
        if parameter in used
    }


def _memory(result: Any, plan: Plan) -> Bits:
    texts = getattr(result.data, "memory", None)
    if texts is None:
        # Never take "no answer" for "all zero".
        raise VendorJobError(f"Aer gave no shots for the circuit {plan.name!r}")
    return memory_from_hex(texts, plan.circuit.num_clbits)


def _weight(label: str) -> int:
    return len(label) - label.count("I")


def _on_active(label: str, active: Sequence[int]) -> str | None:
    """Return a label over the active qubits; empty: always 1; None: always 0."""
    chosen = set(active)
    for place, letter in enumerate(reversed(label)):
        if place not in chosen and letter in "XY":
            return None  # a qubit that nothing acts on is in zero
    seen = "".join(label[len(label) - 1 - place] for place in reversed(active))
    return seen if seen.strip("I") else ""

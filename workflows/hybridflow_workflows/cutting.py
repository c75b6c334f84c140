"""Circuit cutting: a circuit in two halves, each small enough for a smaller QPU.

Each gate across the cut is replaced by a weighted sum of local operations (`Mitarai and Fujii 2021
<https://doi.org/10.1088/1367-2630/abd7bc>`_), by qiskit-addon-cutting: every combination of them is
a subexperiment of either half. They are shared out to quantum tasks, which run on as many slots as
there are; what the whole circuit would have given is put together again classically.
"""

import importlib.util
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from hybridflow.errors import InputError, MissingExtraError
from hybridflow.records import Record
from hybridflow.tasks import quantum_task
from hybridflow_workflows.options import run_options, seed_option

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.primitives import PubResult

    from hybridflow.progress import Display
    from hybridflow.site import Site
    from hybridflow_workflows.running import Finding, Outcome, Place, Run

__all__ = ["CuttingParameters", "command", "run_cutting"]

_MOST_CUTS = 3


class CuttingParameters(Record, frozen=True, kw_only=True):
    """Parameters of :func:`run_cutting`.

    Attributes
    ----------
    qubits, time, steps, field
        The circuit: a quench of a chain, see ``ising.py``; it is cut in the middle, once a step.
    shots
        Of each subexperiment.
    tasks
        Quantum tasks that share the subexperiments of a half.
    seed
        Makes the run repeatable.
    """

    qubits: int = 6
    time: float = 0.6
    steps: int = 2
    field: float = 1.0
    shots: int = 1000
    tasks: int = 2
    seed: int = 7


class _Pieces(Record, frozen=True, kw_only=True):
    # The subexperiments of each half, in the target's instructions, and what they mean.
    experiments: Any
    coefficients: Any
    observables: Any
    exact: float


def run_cutting(
    parameters: CuttingParameters, place: "Place", display: "Display | None" = None
) -> "Outcome":
    """Compute a magnetization from two halves of a circuit; the exact one is the whole circuit's.

    Raises
    ------
    InputError
        If a parameter is not possible.
    MissingExtraError
        If qiskit-addon-cutting is not installed.
    HybridflowError
        As :func:`~hybridflow_workflows.running.carry_out`.
    """
    from hybridflow_workflows.ising import check_size
    from hybridflow_workflows.running import carry_out, require_at_least

    if importlib.util.find_spec("qiskit_addon_cutting") is None:
        raise MissingExtraError(
            "cutting needs qiskit-addon-cutting, which is not installed: "
            "pip install 'hybridflow[cutting]'"
        )
    check_size(parameters.qubits)
    require_at_least(
        steps=(parameters.steps, 1),
        shots=(parameters.shots, 1),
        tasks=(parameters.tasks, 1),
        time=(parameters.time, 0),
        field=(parameters.field, 0),
        seed=(parameters.seed, 0),
    )
    if parameters.steps > _MOST_CUTS:
        raise InputError(
            f"--steps must be at most {_MOST_CUTS}, not {parameters.steps}: each is a cut, and "
            "takes six times as many subexperiments"
        )
    return carry_out(
        "cutting",
        parameters,
        place,
        partial(_steps, parameters),
        tasks=2 * parameters.tasks,
        display=display,
    )


def _steps(asked: CuttingParameters, run: "Run") -> "Finding":
    from hybridflow_workflows.running import Finding

    pieces: _Pieces = run.classical("cut", _cut, asked, run.pools.site)
    calls = [
        (label, first, circuits[first :: asked.tasks], asked, run.resource)
        for label, circuits in pieces.experiments.items()
        for first in range(min(asked.tasks, len(circuits)))
    ]
    parts = run.quantum("sample", _sample, calls)
    value = run.classical("reconstruct", _reconstructed, pieces, asked.tasks, parts)
    subexperiments = sum(len(circuits) for circuits in pieces.experiments.values())
    return Finding(
        quantity="magnetization",
        value=value,
        exact=pieces.exact,
        details={"cuts": asked.steps, "subexperiments": subexperiments},
        notes=(
            ("circuit", f"{asked.qubits} qubits, {asked.steps} gates cut"),
            ("subexperiments", f"{subexperiments}, of {(asked.qubits + 1) // 2} qubits at most"),
        ),
    )


def _cut(asked: CuttingParameters, site: "Site") -> _Pieces:
    from qiskit.quantum_info import Statevector
    from qiskit_addon_cutting import generate_cutting_experiments, partition_problem

    from hybridflow.primitives import transpile
    from hybridflow_workflows.ising import magnetization, quench

    circuit = quench(asked.qubits, asked.steps, asked.time, asked.field)
    observable = magnetization(asked.qubits)
    left = asked.qubits // 2
    problem = partition_problem(
        circuit=circuit,
        partition_labels="A" * left + "B" * (asked.qubits - left),
        observables=observable.paulis,
    )
    experiments, coefficients = generate_cutting_experiments(
        problem.subcircuits, problem.subobservables, num_samples=float("inf")
    )
    return _Pieces(
        experiments={label: transpile(each, site=site) for label, each in experiments.items()},
        coefficients=coefficients,
        observables=problem.subobservables,
        exact=float(Statevector(circuit).expectation_value(observable).real),
    )


@quantum_task
def _sample(
    label: str,
    first: int,
    circuits: "list[QuantumCircuit]",
    asked: CuttingParameters,
    resource: str,
) -> "list[PubResult]":
    """Sample every so many of a half's subexperiments, from `first`."""
    from hybridflow.primitives import Sampler

    # Halves and parts have seeds of their own, so that nothing depends on who ran what.
    seed = 1000 * asked.seed + 2 * first + (label == "B")
    return list(Sampler(resource, seed=seed).run(circuits, shots=asked.shots).result())


def _reconstructed(pieces: _Pieces, tasks: int, parts: "list[list[PubResult]]") -> float:
    from qiskit.primitives import PrimitiveResult
    from qiskit_addon_cutting import reconstruct_expectation_values

    results, given = {}, iter(parts)
    for label, circuits in pieces.experiments.items():
        ordered: list[Any] = [None] * len(circuits)
        for first in range(min(tasks, len(circuits))):
            ordered[first::tasks] = next(given)
        results[label] = PrimitiveResult(ordered)
    values = reconstruct_expectation_values(results, pieces.coefficients, pieces.observables)
    return float(sum(values) / len(values))


@click.command(
    "cutting",
    epilog="Example: hybridflow run cutting --qubits 8 --steps 1 --engine parsl",
    short_help="A circuit in two halves, sampled by tasks and put together again.",
)
@click.option("--qubits", default=6, show_default=True, help="Spins of the chain.")
@click.option("--time", default=0.6, show_default=True, help="Length of the quench.")
@click.option("--steps", default=2, show_default=True, help="Trotter steps: a cut each.")
@click.option("--field", default=1.0, show_default=True, help="The transverse field.")
@click.option("--shots", default=1000, show_default=True, help="Of each subexperiment.")
@click.option("--tasks", default=2, show_default=True, help="Quantum tasks for each half.")
@seed_option
@run_options
def command(options: dict[str, Any], place: "Place", display: "Display") -> "Outcome":
    """Cut a circuit in two, run the pieces on the QPU, and reconstruct the whole.

    Twice as many qubits as the QPU has, for six times as many circuits each gate that is cut.
    Needs the extra `cutting`.
    """
    return run_cutting(CuttingParameters(**options), place, display)

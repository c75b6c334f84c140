"""A parameter sweep: the magnetization of a chain after a quench, against the field.

The circuit is transpiled once, with the field as its parameter. Each quantum task asks for a part
of the points, all at once and a call each; without a seed, the broker makes one PUB with an array
of values of all that wait, whichever task asked. (With a seed each point stays a PUB of its own:
what a shot gives then depends on the seed alone, not on who shared the vendor job.)
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from hybridflow.records import Record
from hybridflow.tasks import quantum_task
from hybridflow_workflows.options import run_options

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.quantum_info import SparsePauliOp

    from hybridflow.progress import Display
    from hybridflow_workflows.running import Finding, Outcome, Place, Run

__all__ = ["SweepParameters", "command", "run_sweep"]

_Point = tuple[float, int | None]  # the field, and the seed of its shots


class SweepParameters(Record, frozen=True, kw_only=True):
    """Parameters of :func:`run_sweep`.

    Attributes
    ----------
    qubits
        Spins of the chain, see ``ising.py``.
    time, steps
        Length of the quench, in units of the inverse coupling, and its Trotter steps.
    largest_field, points
        The fields: so many, evenly from 0.
    shots
        Of each point.
    tasks
        Quantum tasks that share the points.
    seed
        Makes the shots repeatable; None: fresh ones, of which the broker makes one PUB.
    """

    qubits: int = 4
    time: float = 0.6
    steps: int = 6
    largest_field: float = 2.0
    points: int = 16
    shots: int = 4096
    tasks: int = 4
    seed: int | None = None


def run_sweep(
    parameters: SweepParameters, place: "Place", display: "Display | None" = None
) -> "Outcome":
    """Sweep the field; the value is the magnetization at the largest one.

    Raises
    ------
    InputError
        If a parameter is not possible.
    HybridflowError
        As :func:`~hybridflow_workflows.running.carry_out`.
    """
    from hybridflow_workflows.ising import check_size
    from hybridflow_workflows.running import carry_out, require_at_least

    check_size(parameters.qubits)
    require_at_least(
        steps=(parameters.steps, 1),
        points=(parameters.points, 2),
        shots=(parameters.shots, 1),
        tasks=(parameters.tasks, 1),
        time=(parameters.time, 0),
        largest_field=(parameters.largest_field, 0),
        seed=(parameters.seed or 0, 0),
    )
    tasks = min(parameters.tasks, parameters.points)
    return carry_out(
        "sweep", parameters, place, partial(_steps, parameters), tasks=tasks, display=display
    )


def _steps(asked: SweepParameters, run: "Run") -> "Finding":
    import numpy as np

    from hybridflow_workflows.running import Finding

    fields = np.linspace(0.0, asked.largest_field, asked.points).tolist()
    circuit, observable = run.classical("transpile", _circuit, asked, run.pools.site)
    points: list[_Point] = [
        (field, None if asked.seed is None else asked.seed + place)
        for place, field in enumerate(fields)
    ]
    parts = [points[first :: asked.tasks] for first in range(min(asked.tasks, asked.points))]
    precision = asked.shots**-0.5
    measured = run.quantum(
        "measure",
        _measure,
        [(circuit, observable, part, precision, run.resource) for part in parts],
    )
    values = dict(pair for part in measured for pair in part)
    exact = run.classical("reference", _exact, asked.qubits, asked.time, fields)
    differences = [values[field] - right for field, right in zip(fields, exact, strict=True)]
    return Finding(
        quantity="magnetization",
        value=values[fields[-1]],
        exact=exact[-1],
        details={
            "fields": fields,
            "magnetizations": [values[field] for field in fields],
            "exact_magnetizations": exact,
        },
        notes=(
            ("points", f"{asked.points}, fields from 0 to {asked.largest_field:g}"),
            ("largest error", f"{max(map(abs, differences)):.6f}"),
            ("at field", f"{fields[-1]:g}"),
        ),
    )


def _circuit(asked: SweepParameters, site: Any) -> "tuple[QuantumCircuit, SparsePauliOp]":
    from qiskit.circuit import Parameter

    from hybridflow_workflows.isa import prepared
    from hybridflow_workflows.ising import magnetization, quench

    circuit = quench(asked.qubits, asked.steps, asked.time, Parameter("field"))
    return prepared(circuit, magnetization(asked.qubits), site)


@quantum_task
def _measure(
    circuit: "QuantumCircuit",
    observable: "SparsePauliOp",
    points: list[_Point],
    precision: float,
    resource: str,
) -> list[tuple[float, float]]:
    """Return each point's field with its magnetization."""
    from hybridflow.primitives import Estimator

    jobs = [
        Estimator(resource, seed=seed).run([(circuit, observable, [field])], precision=precision)
        for field, seed in points
    ]
    return [
        (field, float(job.result()[0].data.evs))
        for (field, _), job in zip(points, jobs, strict=True)
    ]


def _exact(qubits: int, time: float, fields: list[float]) -> list[float]:
    from hybridflow_workflows.ising import evolved_magnetization

    return [evolved_magnetization(qubits, time, field) for field in fields]


@click.command(
    "sweep",
    epilog="Example: hybridflow run sweep --site configs/laptop.toml --resource ideal --points 32",
    short_help="A magnetization against the field: many points, one PUB.",
)
@click.option("--qubits", default=4, show_default=True, help="Spins of the chain.")
@click.option("--time", default=0.6, show_default=True, help="Length of the quench.")
@click.option("--steps", default=6, show_default=True, help="Trotter steps.")
@click.option("--largest-field", default=2.0, show_default=True, help="Fields from 0 to this.")
@click.option("--points", default=16, show_default=True, help="Fields.")
@click.option("--shots", default=4096, show_default=True, help="Of each point.")
@click.option("--tasks", default=4, show_default=True, help="Quantum tasks that share the points.")
@click.option("--seed", type=int, help="Makes it repeatable; each point is a PUB of its own then.")
@run_options
def command(options: dict[str, Any], place: "Place", display: "Display") -> "Outcome":
    """Measure how far a chain of spins turns in a transverse field, for many fields.

    The points are shared out to quantum tasks; what they ask for at the same time goes to the QPU
    as one vendor job and one PUB with an array of values. Beside each point stands the exact
    evolution.
    """
    return run_sweep(SweepParameters(**options), place, display)

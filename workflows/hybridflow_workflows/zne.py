"""Zero-noise extrapolation: the same circuit with its noise made larger, and back to none.

The noise is scaled as in `Giurgica-Tiron et al. 2020 <https://arxiv.org/abs/2005.10921>`_: a
circuit C becomes C (C⁻¹ C)ⁿ, which does the same with 2n + 1 times the gates. The values are
extrapolated to scale 0, as in `Temme et al. 2017 <https://arxiv.org/abs/1612.02058>`_. Each scale
is a quantum task of its own.

It takes gate noise away and nothing else: errors of the readout do not grow with the circuit.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from hybridflow.errors import InputError
from hybridflow.records import Record
from hybridflow.tasks import quantum_task
from hybridflow_workflows.options import run_options, seed_option

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.quantum_info import SparsePauliOp

    from hybridflow.progress import Display
    from hybridflow.site import Site
    from hybridflow_workflows.running import Finding, Outcome, Place, Run

__all__ = ["FITS", "ZNEParameters", "command", "extrapolated", "folded", "run_zne"]

FITS = ("exponential", "linear", "richardson")
"""Ways back to scale 0."""


class ZNEParameters(Record, frozen=True, kw_only=True):
    """Parameters of :func:`run_zne`.

    Attributes
    ----------
    qubits, time, steps, field
        The circuit: a quench of a chain, see ``ising.py``.
    scales
        How often as many gates, odd numbers.
    fit
        One of :data:`FITS`.
    shots
        Of each scale.
    seed
        Makes the run repeatable.
    """

    qubits: int = 4
    time: float = 0.8
    steps: int = 4
    field: float = 0.5
    scales: tuple[int, ...] = (1, 3, 5)
    fit: str = "exponential"
    shots: int = 10_000
    seed: int = 7


def folded(circuit: "QuantumCircuit", scale: int) -> "QuantumCircuit":
    """Return a circuit that does the same with `scale` (odd) times the gates.

    Barriers keep a transpiler from taking out what was put in.
    """
    longer: QuantumCircuit = circuit.copy()
    for _ in range(scale // 2):
        for part in (circuit.inverse(), circuit):
            longer.barrier()
            longer.compose(part, inplace=True)
    return longer


def extrapolated(scales: "tuple[int, ...]", values: list[float], fit: str) -> float:
    """Return what the values at these scales are at scale 0.

    ``linear`` fits a line, ``richardson`` the polynomial through all points, ``exponential`` a
    decay to 0; where the values change sign, which no decay does, it is linear.
    """
    import numpy as np

    if fit == "exponential" and (min(values) > 0 or max(values) < 0):
        _, at_zero = np.polyfit(scales, np.log(np.abs(values)), 1)
        return float(np.sign(values[0]) * np.exp(at_zero))
    degree = len(scales) - 1 if fit == "richardson" else 1
    return float(np.polyfit(scales, values, degree)[-1])


def run_zne(
    parameters: ZNEParameters, place: "Place", display: "Display | None" = None
) -> "Outcome":
    """Extrapolate a magnetization to no noise; the exact one is the circuit's without noise.

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
        shots=(parameters.shots, 1),
        time=(parameters.time, 0),
        field=(parameters.field, 0),
        seed=(parameters.seed, 0),
    )
    scales = parameters.scales
    if (
        len(set(scales)) < 2
        or len(set(scales)) < len(scales)
        or any(s < 1 or s % 2 == 0 for s in scales)
    ):
        raise InputError(
            "--scales must be two or more different odd numbers, like 1,3,5; not "
            + ",".join(map(str, scales))
        )
    return carry_out(
        "zne",
        parameters,
        place,
        partial(_steps, parameters),
        tasks=len(parameters.scales),
        display=display,
    )


def _steps(asked: ZNEParameters, run: "Run") -> "Finding":
    from hybridflow_workflows.running import Finding

    circuits, exact = run.classical("fold", _circuits, asked, run.pools.site)
    precision = asked.shots**-0.5
    calls = [
        (*circuit, precision, asked.seed + place, run.resource)
        for place, circuit in enumerate(circuits)
    ]
    values = run.quantum("measure", _measure, calls)
    found = {fit: extrapolated(asked.scales, values, fit) for fit in FITS}
    measured = ", ".join(
        f"{value:.6f} at {scale}" for scale, value in zip(asked.scales, values, strict=True)
    )
    return Finding(
        quantity="magnetization",
        value=found[asked.fit],
        exact=exact,
        details={"scales": asked.scales, "values": values, "extrapolated": found},
        notes=(
            ("measured", measured),
            ("error at first", f"{values[0] - exact:.6f}"),
            ("extrapolated", ", ".join(f"{value:.6f} {fit}" for fit, value in found.items())),
        ),
    )


def _circuits(
    asked: ZNEParameters, site: "Site"
) -> "tuple[list[tuple[QuantumCircuit, SparsePauliOp]], float]":
    from qiskit.quantum_info import Statevector

    from hybridflow_workflows.isa import prepared
    from hybridflow_workflows.ising import magnetization, quench

    circuit = quench(asked.qubits, asked.steps, asked.time, asked.field)
    observable = magnetization(asked.qubits)
    exact = float(Statevector(circuit).expectation_value(observable).real)
    return [prepared(folded(circuit, scale), observable, site) for scale in asked.scales], exact


@quantum_task
def _measure(
    circuit: "QuantumCircuit",
    observable: "SparsePauliOp",
    precision: float,
    seed: int,
    resource: str,
) -> float:
    from hybridflow.primitives import Estimator

    job = Estimator(resource, seed=seed).run([(circuit, observable)], precision=precision)
    return float(job.result()[0].data.evs)


@click.command(
    "zne",
    epilog="Example: hybridflow run zne --site configs/laptop.toml --resource device",
    short_help="Zero-noise extrapolation: a task for each scale of the noise.",
)
@click.option("--qubits", default=4, show_default=True, help="Spins of the chain.")
@click.option("--time", default=0.8, show_default=True, help="Length of the quench.")
@click.option("--steps", default=4, show_default=True, help="Trotter steps.")
@click.option("--field", default=0.5, show_default=True, help="The transverse field.")
@click.option("--scales", default="1,3,5", show_default=True, help="Odd numbers.")
@click.option("--fit", type=click.Choice(FITS), default=FITS[0], show_default=True)
@click.option("--shots", default=10_000, show_default=True, help="Of each scale.")
@seed_option
@run_options
def command(options: dict[str, Any], place: "Place", display: "Display") -> "Outcome":
    """Measure a chain's magnetization with more and more noise, and extrapolate to none.

    The circuit is folded, so that its gates' noise grows with each scale while it computes the
    same; each scale is a quantum task. The result stands beside the value without noise. On a
    resource without gate noise there is nothing to take away.
    """
    options["scales"] = _scales(options["scales"])
    return run_zne(ZNEParameters(**options), place, display)


def _scales(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--scales must be odd numbers with commas between, not {text!r}"
        ) from None

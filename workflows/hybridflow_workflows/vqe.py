"""The variational quantum eigensolver: an optimizer's loop inside one quantum task.

The optimizer (SciPy's) runs where the QPU is, so that each of its many calls costs a trip to the
slot's broker and none through the workflow engine. After `Peruzzo et al. 2014
<https://doi.org/10.1038/ncomms5213>`_, with the hardware-efficient ansatz of `Kandala et al. 2017
<https://doi.org/10.1038/nature23879>`_: layers of RY on each qubit and CX between neighbours.

``l-bfgs-b`` has gradients by the parameter-shift rule, all of whose points are one PUB;
``cobyla`` asks for one point at a time and bears noise better.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from hybridflow.errors import InputError
from hybridflow.records import Record
from hybridflow.tasks import quantum_task
from hybridflow_workflows.options import run_options, seed_option

if TYPE_CHECKING:
    import numpy as np
    from qiskit import QuantumCircuit
    from qiskit.quantum_info import SparsePauliOp

    from hybridflow.progress import Display
    from hybridflow.site import Site
    from hybridflow_workflows.running import Finding, Outcome, Place, Run

__all__ = ["MODELS", "OPTIMIZERS", "VQEParameters", "command", "hydrogen", "run_vqe"]

MODELS = ("h2", "ising")
OPTIMIZERS = ("l-bfgs-b", "cobyla")

# H2 at 0.735 angstrom in STO-3G: the parity mapping, two qubits taken off by symmetry, as in
# O'Malley et al. 2016 (https://doi.org/10.1103/PhysRevX.6.031007); a test compares its lowest
# energy with PySCF's.
_HYDROGEN = (
    ("II", -1.052373245772859),
    ("IZ", 0.39793742484318045),
    ("ZI", -0.39793742484318045),
    ("ZZ", -0.01128010425623538),
    ("XX", 0.18093119978423156),
)
_HYDROGEN_NUCLEI = 0.7199689944489797


class VQEParameters(Record, frozen=True, kw_only=True):
    """Parameters of :func:`run_vqe`.

    Attributes
    ----------
    model
        ``h2``: a hydrogen molecule, two qubits, energies in hartree. ``ising``: see ``ising.py``.
    qubits, field
        Of the chain.
    layers
        Entangling layers of the ansatz.
    optimizer
        One of :data:`OPTIMIZERS`.
    evaluations
        Energies or gradients that the optimizer may ask for.
    precision
        Target standard error of an energy; 0: exact, which only some simulators can compute.
    seed
        Of the first parameters and of the shots.
    """

    model: str = "h2"
    qubits: int = 4
    field: float = 1.0
    layers: int = 1
    optimizer: str = "l-bfgs-b"
    evaluations: int = 60
    precision: float = 0.0
    seed: int = 7


class Minimum(Record, frozen=True, kw_only=True):
    """Where an optimizer has ended: the lowest value that it saw, there, and all on the way."""

    value: float
    point: list[float]
    history: list[float]


def hydrogen() -> "SparsePauliOp":
    """Return the Hamiltonian of H2, with its nuclei's repulsion; energies in hartree."""
    from qiskit.quantum_info import SparsePauliOp

    return SparsePauliOp.from_list([*_HYDROGEN, ("II", _HYDROGEN_NUCLEI)]).simplify()


def run_vqe(
    parameters: VQEParameters, place: "Place", display: "Display | None" = None
) -> "Outcome":
    """Find a ground-state energy variationally; the exact one is by diagonalization.

    Raises
    ------
    InputError
        If a parameter is not possible.
    HybridflowError
        As :func:`~hybridflow_workflows.running.carry_out`.
    """
    from hybridflow_workflows.ising import check_size
    from hybridflow_workflows.running import carry_out, require_at_least

    for name, known in (("model", MODELS), ("optimizer", OPTIMIZERS)):
        if getattr(parameters, name) not in known:
            raise InputError(f"--{name} must be one of {', '.join(known)}")
    check_size(parameters.qubits)
    require_at_least(
        layers=(parameters.layers, 1),
        evaluations=(parameters.evaluations, 1),
        precision=(parameters.precision, 0),
        field=(parameters.field, 0),
        seed=(parameters.seed, 0),
    )
    return carry_out("vqe", parameters, place, partial(_steps, parameters), display=display)


def _steps(asked: VQEParameters, run: "Run") -> "Finding":
    from hybridflow_workflows.running import Finding

    circuit, observable, exact = run.classical("ansatz", _problem, asked, run.pools.site)
    unit = "Ha" if asked.model == "h2" else ""
    (found,) = run.quantum(
        "minimize", _minimize, [(circuit, observable, asked, exact, run.resource)]
    )
    return Finding(
        quantity="energy",
        value=found.value,
        exact=exact,
        unit=unit,
        details={"point": found.point, "history": found.history},
        notes=(
            ("model", asked.model),
            ("optimizer", f"{asked.optimizer}, {len(found.history)} evaluations"),
        ),
    )


def _problem(asked: VQEParameters, site: "Site") -> "tuple[QuantumCircuit, SparsePauliOp, float]":
    from hybridflow_workflows.isa import prepared
    from hybridflow_workflows.ising import ground_energy, hamiltonian

    chain = asked.model == "ising"
    operator = hamiltonian(asked.qubits, asked.field) if chain else hydrogen()
    circuit = _ansatz(operator.num_qubits, asked.layers)
    return *prepared(circuit, operator, site), ground_energy(operator)


def _ansatz(qubits: int, layers: int) -> "QuantumCircuit":
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector

    circuit = QuantumCircuit(qubits, name="ansatz")
    angles = iter(ParameterVector("angle", qubits * (layers + 1)))
    for layer in range(layers + 1):
        if layer:
            for place in range(qubits - 1):
                circuit.cx(place, place + 1)
        for place in range(qubits):
            circuit.ry(next(angles), place)
    return circuit


@quantum_task
def _minimize(
    circuit: "QuantumCircuit",
    observable: "SparsePauliOp",
    asked: VQEParameters,
    exact: float,
    resource: str,
) -> Minimum:
    """Lead the optimizer from a random point, and tell the run's events of each step."""
    import numpy as np
    from scipy.optimize import minimize

    energies = _Energies(circuit, observable, asked, exact, resource)
    start = np.random.default_rng(asked.seed).uniform(-0.5, 0.5, circuit.num_parameters)
    try:
        if asked.optimizer == "cobyla":
            minimize(energies.value, start, method="COBYLA", options={"rhobeg": 0.5, "tol": 1e-4})
        else:
            minimize(energies.value_and_gradient, start, jac=True, method="L-BFGS-B")
    except _Enough:
        pass
    return energies.best()


class _Enough(Exception):
    # The optimizer has had its evaluations: methods count them differently, so we count ourselves.
    pass


class _Energies:
    """Energies of an ansatz by its parameters, from the QPU; remembers them."""

    def __init__(
        self,
        circuit: "QuantumCircuit",
        observable: "SparsePauliOp",
        asked: VQEParameters,
        exact: float,
        resource: str,
    ) -> None:
        self._circuit, self._observable = circuit, observable
        self._asked, self._exact, self._resource = asked, exact, resource
        self._seen: list[tuple[float, list[float]]] = []

    def best(self) -> Minimum:
        """Return the lowest energy of all that were asked for."""
        value, point = min(self._seen)
        return Minimum(value=value, point=point, history=[energy for energy, _ in self._seen])

    def value(self, point: "np.ndarray[Any, Any]") -> float:
        """Return the energy at a point."""
        return float(self._ask(point[None, :])[0])

    def value_and_gradient(
        self, point: "np.ndarray[Any, Any]"
    ) -> "tuple[float, np.ndarray[Any, Any]]":
        """Return the energy and its gradient: exact, since each angle turns one RY."""
        import numpy as np

        shifts = np.eye(len(point)) * np.pi / 2
        energies = self._ask(np.concatenate([point[None, :], point + shifts, point - shifts]))
        plus, minus = np.split(energies[1:], 2)
        return float(energies[0]), (plus - minus) / 2

    def _ask(self, points: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        from hybridflow.events import Iteration, event_log
        from hybridflow.primitives import Estimator
        from hybridflow_workflows.folder import check_wanted

        check_wanted()
        if len(self._seen) == self._asked.evaluations:
            raise _Enough
        # Each call has shots of its own: an optimizer that sees one noise over and over fits it.
        seed = self._asked.seed + len(self._seen) if self._asked.precision else None
        job = Estimator(self._resource, seed=seed).run(
            [(self._circuit, self._observable, points)], precision=self._asked.precision
        )
        energies: np.ndarray[Any, Any] = job.result()[0].data.evs
        self._seen.append((float(energies[0]), points[0].tolist()))
        event_log().emit(Iteration(number=len(self._seen), values=self._figures(energies[0])))
        return energies

    def _figures(self, energy: float) -> dict[str, float]:
        if self._asked.model == "h2":
            error = 1000 * (energy - self._exact)
            return {"energy_hartree": float(energy), "error_millihartree": float(error)}
        return {"energy": float(energy), "error": float(energy - self._exact)}


@click.command(
    "vqe",
    epilog="Example: hybridflow run vqe --model ising --qubits 4 --layers 2 --engine dask",
    short_help="A ground-state energy: an optimizer's loop in one quantum task.",
)
@click.option("--model", type=click.Choice(MODELS), default="h2", show_default=True)
@click.option("--qubits", default=4, show_default=True, help="Spins of the chain (ising).")
@click.option("--field", default=1.0, show_default=True, help="The transverse field (ising).")
@click.option("--layers", default=1, show_default=True, help="Entangling layers of the ansatz.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="l-bfgs-b", show_default=True)
@click.option("--evaluations", default=60, show_default=True, help="Calls of the QPU, at most.")
@click.option(
    "--precision", default=0.0, show_default=True, help="Standard error of an energy; 0: exact."
)
@seed_option
@run_options
def command(options: dict[str, Any], place: "Place", display: "Display") -> "Outcome":
    """Minimize the energy of a molecule or a spin chain over the angles of a circuit.

    The optimizer runs inside one quantum task, on the slot. Exact energies (precision 0) are for
    simulators; a device wants, say, --precision 0.01 --optimizer cobyla.
    """
    return run_vqe(VQEParameters(**options), place, display)

"""From integrals to a circuit: the LUCJ ansatz from CCSD amplitudes, with ffsim.

The circuit crosses processes as QPY.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hybridflow import wire
from hybridflow.errors import InputError
from hybridflow.site import Site
from hybridflow_workflows.sqd.molecule import Integrals

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["Ansatz", "build_ansatz", "fitted_operator", "transpile_ansatz"]

_FIT_STEPS = 1000
"""Bound on the steps of the fit: 1 s. At the control's budget, stretched water came to 11.3, 11.2
and 10.8 millihartree after 300, 1,000 and 15,000 of them (uniform samples: 23 to 57)."""


@dataclass(frozen=True)
class Ansatz:
    """A measured circuit that prepares the ansatz, and the amplitudes' energy.

    Attributes
    ----------
    circuit
        QPY; alpha spin orbitals are the lower half of the qubits.
    ccsd
        Energy of the coupled-cluster calculation in hartree; not a bound on the exact energy.
    ccsd_converged
        Whether that calculation converged; its amplitudes serve as parameters all the same.
    """

    circuit: bytes
    ccsd: float
    ccsd_converged: bool


def build_ansatz(integrals: Integrals, *, repetitions: int, optimize: bool) -> Ansatz:
    """Return the LUCJ ansatz of a molecule; a classical task.

    Parameters
    ----------
    integrals
        The molecule's active space.
    repetitions
        Repetitions of the ansatz.
    optimize
        Whether the repetitions are fitted to all amplitudes instead of cut off after the first
        terms of their factorization.

    Raises
    ------
    InputError
        If the coupled-cluster calculation breaks down.
    """
    cluster = _coupled_cluster(integrals)
    operator = _operator(cluster, integrals.orbitals, repetitions, optimize)
    return Ansatz(
        wire.circuit_to_qpy(_circuit(integrals, operator)),
        float(cluster.e_tot + integrals.core_energy),
        bool(cluster.converged),
    )


def fitted_operator(integrals: Integrals, *, repetitions: int, optimize: bool) -> Any:
    """Return the ansatz as ffsim's ``UCJOpSpinBalanced``; see :func:`build_ansatz`."""
    return _operator(_coupled_cluster(integrals), integrals.orbitals, repetitions, optimize)


def _coupled_cluster(integrals: Integrals) -> Any:
    import numpy as np
    from pyscf import ao2mo, cc, gto, scf

    orbitals = integrals.orbitals
    # PySCF's way to run a method on integrals: a molecule without atoms, whose mean field is given.
    mole = gto.M(verbose=0, parse_arg=False)
    mole.nelectron, mole.nao, mole.incore_anyway = sum(integrals.electrons), orbitals, True
    field = scf.RHF(mole)
    field.chkfile = None
    field.get_hcore = lambda *_: integrals.one_body
    field.get_ovlp = lambda *_: np.eye(orbitals)
    field._eri = ao2mo.restore(8, integrals.two_body, orbitals)
    field.mo_coeff = np.eye(orbitals)
    field.mo_occ = np.where(np.arange(orbitals) < integrals.electrons[0], 2.0, 0.0)
    density = field.make_rdm1()
    field.mo_energy = np.diag(field.get_fock(dm=density)).copy()
    field.e_tot, field.converged = field.energy_elec(density)[0], True
    cluster = cc.CCSD(field)
    cluster.kernel()
    if not np.isfinite(cluster.t2).all():
        raise InputError(
            "the coupled-cluster calculation breaks down, so the ansatz has no parameters; "
            "try a less stretched geometry or another active space"
        )
    return cluster


def _operator(cluster: Any, orbitals: int, repetitions: int, optimize: bool) -> Any:
    import ffsim

    # "Local": interactions for which a heavy-hexagonal device has couplings.
    same_spin = [(p, p + 1) for p in range(orbitals - 1)]
    opposite_spin = [(p, p) for p in range(0, orbitals, 4)]
    return ffsim.UCJOpSpinBalanced.from_t_amplitudes(
        cluster.t2,
        t1=cluster.t1,
        n_reps=repetitions,
        interaction_pairs=(same_spin, opposite_spin),
        optimize=optimize,
        options={"maxiter": _FIT_STEPS},
    )


def _circuit(integrals: Integrals, operator: Any) -> "QuantumCircuit":
    from ffsim.qiskit import PRE_INIT, PrepareHartreeFockJW, UCJOpSpinBalancedJW
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(2 * integrals.orbitals)
    circuit.append(PrepareHartreeFockJW(integrals.orbitals, integrals.electrons), circuit.qubits)
    circuit.append(UCJOpSpinBalancedJW(operator), circuit.qubits)
    circuit.measure_all()
    # Merge neighbouring orbital rotations, then leave ffsim's own gates behind: QPY and every
    # transpiler know what remains.
    return PRE_INIT.run(circuit).decompose()


def transpile_ansatz(circuit: bytes, *, resource: str, site: Site) -> bytes:
    """Return a circuit in the instructions of a resource, both as QPY; a classical task."""
    from qiskit import QuantumCircuit

    from hybridflow.primitives import transpile

    done = transpile(wire.circuit_from_qpy(circuit), resource, site=site)
    return wire.circuit_to_qpy(cast(QuantumCircuit, done))

"""The self-consistent loop of SQD with this workflow's settings, for the run and its control."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hybridflow.records import Record
from hybridflow_workflows.sqd.addon import addon
from hybridflow_workflows.sqd.parameters import SQDParameters
from hybridflow_workflows.sqd.policy import FillingPolicy
from hybridflow_workflows.sqd.solver import SolverOptions

if TYPE_CHECKING:
    import numpy as np
    from qiskit_addon_sqd.fermion import SCIResult

__all__ = ["SOLVER_OPTIONS", "LoopSettings", "run_loop"]

SOLVER_OPTIONS = SolverOptions(spin_sq=0.0, symmetrize_spin=True)
"""Singlets with as many electrons of each spin."""


class LoopSettings(Record, frozen=True, kw_only=True):
    """The settings of the loop; see :class:`SQDParameters`."""

    batches: int
    samples_per_batch: int
    iterations: int
    max_dim: int | None
    seed: int

    @classmethod
    def of(cls, parameters: SQDParameters) -> "LoopSettings":
        """Return those of a run."""
        return cls(**{name: getattr(parameters, name) for name in cls.__struct_fields__})


def run_loop(
    integrals: "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]",
    electrons: tuple[int, int],
    samples: "np.ndarray[Any, Any]",
    settings: LoopSettings,
    solver: "Callable[..., list[SCIResult]]",
    *,
    policy: FillingPolicy | None = None,
    callback: "Callable[[list[SCIResult]], None] | None" = None,
) -> float:
    """Return the lowest energy of the active space's electrons in hartree, without the core's.

    Parameters
    ----------
    integrals
        One- and two-body integrals.
    electrons
        Electrons of each spin.
    samples
        ``bool`` of shape ``(shots, 2 * orbitals)``.
    settings
        Of the loop.
    solver
        An ``sci_solver``.
    policy
        How samples become subspaces; the addon's standard way if not given.
    callback
        Called with the results of each iteration.
    """
    result = addon("fermion").diagonalize_fermionic_hamiltonian(
        *integrals,
        samples,
        samples_per_batch=settings.samples_per_batch,
        norb=len(integrals[0]),
        nelec=electrons,
        num_batches=settings.batches,
        max_iterations=settings.iterations,
        max_dim=settings.max_dim,
        symmetrize_spin=SOLVER_OPTIONS.symmetrize_spin,
        sci_solver=solver,
        policy=policy,
        callback=callback,
        seed=settings.seed,
    )
    return float(result.energy)

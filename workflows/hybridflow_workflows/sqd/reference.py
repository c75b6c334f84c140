"""The exact energy of an active space, where its dimension allows: what SQD is measured against."""

import math

from hybridflow_workflows.sqd.molecule import Integrals

__all__ = ["LARGEST_DIMENSION", "exact_energy"]

LARGEST_DIMENSION = 20_000_000
"""Determinants beyond which no exact energy is computed: 160 MB a vector, and Davidson keeps 12."""


def exact_energy(integrals: Integrals) -> float | None:
    """Return the lowest singlet energy in hartree, or None if the space is too large.

    A classical task: full configuration interaction in the active space (CASCI).
    """
    from pyscf import fci

    orbitals, (alpha, beta) = integrals.orbitals, integrals.electrons
    if math.comb(orbitals, alpha) * math.comb(orbitals, beta) > LARGEST_DIMENSION:
        return None
    solver = fci.addons.fix_spin_(fci.direct_spin0.FCI(), ss=0)
    # The default tolerance leaves an error of 1e-7 hartree in stretched molecules; this one, 2e-9.
    solver.conv_tol = 1e-13
    solver.max_cycle = 300
    energy, _ = solver.kernel(
        integrals.one_body,
        integrals.two_body,
        orbitals,
        integrals.electrons,
        ecore=integrals.core_energy,
    )
    return float(energy)

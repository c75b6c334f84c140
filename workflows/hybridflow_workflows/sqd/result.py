"""What a run of SQD found: ``result.json``."""

from typing import Any

from hybridflow.records import Record

__all__ = ["Control", "IterationRecord", "SQDResult", "millihartree"]


class IterationRecord(Record, frozen=True, kw_only=True):
    """One round of configuration recovery and diagonalization.

    Attributes
    ----------
    number
        The round, from 1.
    energy_hartree, error_millihartree
        Lowest energy of its subspaces, and its distance to the exact one, if that is known.
    dimensions
        Determinants of each subspace.
    solve_seconds
        Time from sending the subspaces to having all results.
    """

    number: int
    energy_hartree: float
    error_millihartree: float | None
    dimensions: tuple[int, ...]
    solve_seconds: float


class Control(Record, frozen=True, kw_only=True):
    """The ansatz against uniformly random samples, at one bounded budget.

    Attributes
    ----------
    max_dim
        The budget: strings of one spin in a subspace.
    seeds
        Seeds of the loops; the other fields have a value for each.
    ansatz_energy_hartree, uniform_energy_hartree
        Energies of both sides.
    ansatz_error_millihartree, uniform_error_millihartree
        Their distances to the exact energy; empty where that is not known.
    """

    max_dim: int
    seeds: tuple[int, ...]
    ansatz_energy_hartree: tuple[float, ...]
    uniform_energy_hartree: tuple[float, ...]
    ansatz_error_millihartree: tuple[float, ...]
    uniform_error_millihartree: tuple[float, ...]


class SQDResult(Record, frozen=True, kw_only=True):
    """The result of a run; energies of the whole molecule in hartree.

    Attributes
    ----------
    energy_hartree
        Lowest energy found; not below the exact energy of the active space.
    reference_hartree
        That exact energy; None where the space is too large for it.
    error_millihartree
        Their distance; None without a reference.
    hartree_fock_hartree, ccsd_hartree
        Energies of the mean field and of the ansatz's amplitudes (no bound).
    control
        The comparison with random samples, if asked for.
    shots, distinct_samples, valid_shots
        Samples, how many different ones they are, and how many have the right number of electrons.
    vendor_jobs, qpu_seconds
        Vendor jobs that the samples came from, and what the vendor bills for them.
    iterations
        The rounds.
    resource, engine, seed
        What it ran on, and the seed that repeats it.
    molecule, active_space, qubits
        What was computed.
    parameters
        All that was asked for.
    provenance
        Where the samples came from, and versions of the software.
    """

    energy_hartree: float
    reference_hartree: float | None
    error_millihartree: float | None
    hartree_fock_hartree: float
    ccsd_hartree: float
    control: Control | None
    shots: int
    distinct_samples: int
    valid_shots: int
    vendor_jobs: int
    qpu_seconds: float
    iterations: tuple[IterationRecord, ...]
    resource: str
    engine: str
    seed: int
    molecule: str
    active_space: str
    qubits: int
    parameters: dict[str, Any]
    provenance: dict[str, Any]


def millihartree(energy: float, reference: float) -> float:
    """Return the distance of two energies in hartree, in millihartree."""
    return 1000 * (energy - reference)

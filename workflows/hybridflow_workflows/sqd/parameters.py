"""What a run of SQD is asked for: one frozen, checked object."""

import math

from hybridflow.errors import InputError
from hybridflow.records import Record

__all__ = ["SQDParameters"]

_COUNTS = {
    "shots": 1,
    "batches": 1,
    "samples_per_batch": 1,
    "iterations": 1,
    "repetitions": 1,
    "control_seeds": 3,
    "control_max_dim": 1,
    "seed": 0,
}


class SQDParameters(Record, frozen=True, kw_only=True):
    """Parameters of :func:`~hybridflow_workflows.sqd.run_sqd`.

    Attributes
    ----------
    molecule
        A molecule known by name; None: ``h2o``, unless `geometry` is given.
    geometry
        Path of an xyz file, in place of a name.
    basis
        Basis set, by PySCF's name.
    bond, angle
        Bond length in angstrom and angle in degrees of a named molecule; None: its default.
    charge
        Charge of the molecule, in units of the elementary charge.
    active_space
        Like ``10e,8o``: 10 electrons in 8 orbitals. None: all but the frozen core.
    shots
        Samples of the ansatz.
    seed
        Makes the run repeatable: the same energies whichever engine runs it.
    batches, samples_per_batch
        Subspaces of an iteration, and samples that each is built from.
    iterations
        Rounds of configuration recovery and diagonalization.
    max_dim
        Bound on the strings of one spin in a subspace; None: no bound.
    fill
        Whether a subspace whose samples are few is filled up with single excitations. Not part of
        plain SQD: the energy is then not the samples' merit alone.
    repetitions
        Repetitions of the LUCJ ansatz.
    optimize
        Whether the ansatz is fitted to all CCSD amplitudes, instead of truncated.
    control
        Whether the ansatz is compared with uniformly random samples at a bounded budget.
    control_max_dim, control_seeds
        That budget (as `max_dim`) and the number of seeds for each side.
    resource
        The site's name of the QPU; None: its default.
    """

    molecule: str | None = None
    geometry: str | None = None
    basis: str = "6-31g"
    bond: float | None = None
    angle: float | None = None
    charge: int = 0
    active_space: str | None = None
    shots: int = 10_000
    seed: int = 7
    batches: int = 2
    samples_per_batch: int = 300
    iterations: int = 5
    max_dim: int | None = None
    fill: bool = False
    repetitions: int = 2
    optimize: bool = True
    control: bool = False
    control_max_dim: int = 100
    control_seeds: int = 3
    resource: str | None = None

    def __post_init__(self) -> None:
        for name, least in _COUNTS.items():
            _refuse_below(name, getattr(self, name), least)
        if self.max_dim is not None:
            _refuse_below("max_dim", self.max_dim, 1)
        _refuse_outside("bond", self.bond, 0.1, 20.0, "angstrom")
        _refuse_outside("angle", self.angle, 1.0, 180.0, "degrees")
        shape = [
            _option(name)
            for name in ("molecule", "bond", "angle")
            if getattr(self, name) is not None
        ]
        if self.geometry is not None and shape:
            raise InputError(
                f"--geometry names a file with all positions: leave out {', '.join(shape)}"
            )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _refuse_below(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{_option(name)} must be at least {least}, not {value}")


def _refuse_outside(
    name: str, value: float | None, lowest: float, highest: float, unit: str
) -> None:
    if value is not None and not (math.isfinite(value) and lowest <= value <= highest):
        raise InputError(
            f"{_option(name)} must be between {lowest:g} and {highest:g} {unit}, not {value:g}"
        )

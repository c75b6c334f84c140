"""From a geometry to the integrals of an active space, with PySCF.

``check`` answers in the driver and at once, before anything is started; ``compute_integrals`` is
the classical task that does the work. Energies in hartree.
"""

import math
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybridflow.errors import InputError
from hybridflow.records import Record
from hybridflow_workflows.sqd.geometry import Atom, named_geometry, read_xyz
from hybridflow_workflows.sqd.parameters import SQDParameters

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Integrals", "Molecule", "check", "compute_integrals"]


class Molecule(Record, frozen=True, kw_only=True):
    """A molecule and its active space, known to fit together.

    Attributes
    ----------
    name
        For people.
    atoms
        Elements and positions in angstrom.
    basis, charge
        PySCF's name of the basis set, and the molecule's charge.
    core
        Orbitals that stay doubly occupied.
    electrons, orbitals
        Electrons (an even number) and spatial orbitals of the active space.
    """

    name: str
    atoms: tuple[Atom, ...]
    basis: str
    charge: int
    core: int
    electrons: int
    orbitals: int

    @property
    def qubits(self) -> int:
        """Qubits that hold the active space: one a spin orbital."""
        return 2 * self.orbitals

    @property
    def dimension(self) -> int:
        """Determinants of the active space."""
        return math.comb(self.orbitals, self.electrons // 2) ** 2


@dataclass(frozen=True, eq=False)
class Integrals:
    """The Hamiltonian of an active space, in its Hartree-Fock orbitals.

    Attributes
    ----------
    one_body, two_body
        Integrals of shape ``(norb, norb)`` and ``(norb, norb, norb, norb)`` (chemists' notation).
    core_energy
        Energy of the nuclei and the frozen core.
    hartree_fock
        Hartree-Fock energy of the whole molecule.
    electrons
        Electrons of each spin.
    """

    one_body: "np.ndarray[Any, Any]"
    two_body: "np.ndarray[Any, Any]"
    core_energy: float
    hartree_fock: float
    electrons: tuple[int, int]

    @property
    def orbitals(self) -> int:
        """Number of spatial orbitals."""
        return len(self.one_body)


def check(parameters: SQDParameters) -> Molecule:
    """Return the molecule that is asked for.

    Raises
    ------
    InputError
        If the molecule, its geometry, its basis set or its active space is not possible.
    """
    if parameters.geometry is not None:
        name, atoms = parameters.geometry, read_xyz(parameters.geometry)
    else:
        name = parameters.molecule or "h2o"
        atoms = named_geometry(name, parameters.bond, parameters.angle)
    _refuse_odd(name, _nuclear_charge(atoms) - parameters.charge)
    _refuse_basis(name, parameters.basis, atoms)
    mole = _mole(atoms, parameters.basis, parameters.charge)
    core, electrons, orbitals = _active_space(name, parameters, mole)
    return Molecule(
        name=name,
        atoms=atoms,
        basis=parameters.basis,
        charge=parameters.charge,
        core=core,
        electrons=electrons,
        orbitals=orbitals,
    )


def _nuclear_charge(atoms: tuple[Atom, ...]) -> int:
    from pyscf.data.elements import ELEMENTS

    for symbol, _ in atoms:
        if symbol not in ELEMENTS[1:]:
            raise InputError(f"there is no element {symbol!r}; check the geometry")
    return sum(ELEMENTS.index(symbol) for symbol, _ in atoms)


def _refuse_odd(name: str, electrons: int) -> None:
    if electrons < 2 or electrons % 2:
        raise InputError(
            f"{name} has {electrons} electrons; this workflow needs an even number of them, at "
            "least 2: give the charge of an ion that has (--charge)"
        )


def _refuse_basis(name: str, basis: str, atoms: tuple[Atom, ...]) -> None:
    from pyscf.gto import basis as library

    for symbol in sorted({symbol for symbol, _ in atoms}):
        try:
            with warnings.catch_warnings():
                # Advice to install yet another package; what is wrong is said here.
                warnings.filterwarnings("ignore", message="Basis may be available in")
                found = library.load(basis, symbol) if basis.strip() else []
            reason: Exception | None = None
        except Exception as error:  # a parser of names: it can fail anywhere, and with anything
            found, reason = [], error
        if not found:
            raise InputError(
                f"PySCF has no basis set {basis!r} for {symbol} in {name}; among those it has are "
                "sto-3g, 6-31g, 6-31g*, cc-pvdz"
            ) from reason


def _mole(atoms: tuple[Atom, ...], basis: str, charge: int) -> Any:
    from pyscf import gto

    # parse_arg: PySCF would read this program's own command line.
    return gto.M(
        atom=list(atoms),
        basis=basis,
        charge=charge,
        symmetry=True,
        verbose=0,
        parse_arg=False,
    )


def _active_space(name: str, parameters: SQDParameters, mole: Any) -> tuple[int, int, int]:
    # Returns (core orbitals, active electrons, active orbitals).
    from pyscf.data.elements import chemcore

    total, available = mole.nelectron, mole.nao
    asked = parameters.active_space
    if asked is None:
        core = min(chemcore(mole), total // 2 - 1)
        electrons, orbitals = total - 2 * core, available - core
    else:
        electrons, orbitals = _parse_active_space(asked)
        core = (total - electrons) // 2
    where = f"active space {electrons}e,{orbitals}o of {name} in {parameters.basis}"
    if electrons % 2 or electrons < 2:
        raise InputError(
            f"{where}: the number of electrons must be even and at least 2 (half of them of each "
            f"spin); try {max(2, electrons + electrons % 2)}e"
        )
    if electrons > total:
        raise InputError(f"{where}: the molecule has only {total} electrons")
    if core + orbitals > available:
        raise InputError(
            f"{where} is larger than the basis: of its {available} orbitals, {core} are the core, "
            f"so at most {available - core} can be active; ask for fewer, or take a larger basis"
        )
    if electrons >= 2 * orbitals:
        raise InputError(
            f"{where}: {orbitals} orbitals are full, or too few, with {electrons} electrons, so "
            "there is nothing to correlate; ask for more orbitals, or take a larger basis"
        )
    return core, electrons, orbitals


def _parse_active_space(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"\s*(\d+)\s*e\s*,\s*(\d+)\s*o\s*", text, re.IGNORECASE)
    if found is None:
        raise InputError(
            f"active space {text!r} is not understood; write electrons and orbitals like 10e,8o"
        )
    return int(found[1]), int(found[2])


def compute_integrals(molecule: Molecule) -> Integrals:
    """Return the integrals of a molecule's active space; a classical task.

    Raises
    ------
    InputError
        If the Hartree-Fock calculation does not converge.
    """
    import numpy as np
    from pyscf import ao2mo, mcscf, scf

    mole = _mole(molecule.atoms, molecule.basis, molecule.charge)
    field = scf.RHF(mole)
    field.chkfile = None
    field.kernel()
    if not field.converged:
        raise InputError(
            f"the Hartree-Fock calculation of {molecule.name} in {molecule.basis} does not "
            "converge; try a less stretched geometry, or another basis"
        )
    active = mcscf.CASCI(field, molecule.orbitals, molecule.electrons)
    one_body, core_energy = active.get_h1eff()
    two_body = ao2mo.restore(1, active.get_h2eff(), molecule.orbitals)
    half = molecule.electrons // 2
    return Integrals(
        # Plain arrays: PySCF's own kind carries notes that nobody needs elsewhere.
        np.array(one_body),
        np.array(two_body),
        float(core_energy),
        float(field.e_tot),
        (half, half),
    )

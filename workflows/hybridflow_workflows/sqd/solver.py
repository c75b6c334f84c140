"""The ``sci_solver`` of qiskit-addon-sqd that fans subspaces out over classical workers.

::

    diagonalize_fermionic_hamiltonian ── strings of all subspaces ─► SubspaceSolver
         ▲                                                              │ path, strings: a task each
         │                                                              ▼
         └── energy, occupancies, carryover (10 kB a task) ◄─────── solve_subspace, in a worker
                                                                        ▲
                       integrals-<digest>.npz, written once ────────────┘ read once by each worker

The eigenvector stays in the worker (8.6 MB an iteration otherwise), and the two-body density matrix
is never built (a quarter of the time): what the loop needs of them is computed where they are.
"""

import functools
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridflow.records import Record
from hybridflow_workflows.sqd.addon import addon

if TYPE_CHECKING:
    import numpy as np
    from qiskit_addon_sqd.fermion import SCIResult

    Strings = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

__all__ = [
    "SolverOptions",
    "SubspaceSolver",
    "load_integrals",
    "make_sci_solver",
    "solve_subspace",
    "store_integrals",
]


class SolverOptions(Record, frozen=True, kw_only=True):
    """How each subspace is diagonalized: see :func:`make_sci_solver`."""

    spin_sq: float | None = None
    symmetrize_spin: bool = False
    carryover_threshold: float = 1e-4


def make_sci_solver(
    executor: Executor,
    *,
    spin_sq: float | None = None,
    symmetrize_spin: bool = False,
    carryover_threshold: float = 1e-4,
    folder: str | os.PathLike[str] | None = None,
) -> "SubspaceSolver":
    """Return an ``sci_solver`` that diagonalizes each subspace as a task of an executor.

    It takes the place of ``qiskit_addon_sqd.fermion.solve_sci_batch`` and gives the same energies::

        diagonalize_fermionic_hamiltonian(..., sci_solver=make_sci_solver(pools.classical))

    Parameters
    ----------
    executor
        Any :class:`concurrent.futures.Executor`, such as ``pools.classical``.
    spin_sq
        Target value of the total spin squared; None: not imposed.
    symmetrize_spin, carryover_threshold
        The same values as given to ``diagonalize_fermionic_hamiltonian``: the strings to carry over
        are chosen in the worker, which has the amplitudes.
    folder
        A folder that the workers can read too, for the integrals; without it, one in the temporary
        directory of this machine, removed with the solver.

    Notes
    -----
    Results have neither ``sci_state`` nor ``rdm2``; the default policy of the loop needs neither.
    """
    options = SolverOptions(
        spin_sq=spin_sq,
        symmetrize_spin=symmetrize_spin,
        carryover_threshold=carryover_threshold,
    )
    return SubspaceSolver(executor, options, folder)


class SubspaceSolver:
    """Diagonalizes subspaces as tasks of an executor; made by :func:`make_sci_solver`.

    Attributes
    ----------
    folder
        Where the integrals are.
    """

    def __init__(
        self,
        executor: Executor,
        options: SolverOptions,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self._executor = executor
        self._options = options
        if folder is None:
            folder = tempfile.mkdtemp(prefix="hybridflow-sqd-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.folder = Path(folder).absolute()

    def __call__(
        self,
        ci_strings: "Sequence[Strings]",
        one_body_tensor: "np.ndarray[Any, Any]",
        two_body_tensor: "np.ndarray[Any, Any]",
        norb: int,
        nelec: tuple[int, int],
    ) -> "list[SCIResult]":
        """Return a result for each subspace, in order; the first failure is raised."""
        return gather(self.submit(ci_strings, one_body_tensor, two_body_tensor, nelec))

    def submit(
        self,
        ci_strings: "Sequence[Strings]",
        one_body_tensor: "np.ndarray[Any, Any]",
        two_body_tensor: "np.ndarray[Any, Any]",
        nelec: tuple[int, int],
    ) -> "list[Future[SCIResult]]":
        """Start a task for each subspace, without waiting for any."""
        file = str(store_integrals(self.folder, one_body_tensor, two_body_tensor))
        return [
            self._executor.submit(solve_subspace, file, strings, nelec, self._options)
            for strings in ci_strings
        ]


def gather(futures: "list[Future[SCIResult]]") -> "list[SCIResult]":
    """Return all results in order; if one fails, drop those not yet begun and raise its error."""
    try:
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def store_integrals(
    folder: Path, one_body: "np.ndarray[Any, Any]", two_body: "np.ndarray[Any, Any]"
) -> Path:
    """Write integrals into a folder that workers can read, once, and return the file.

    The file is named by its content: what a worker has read under that name stays right.
    """
    import numpy as np

    digest = hashlib.sha256(one_body.tobytes() + two_body.tobytes()).hexdigest()[:16]
    file = folder / f"integrals-{digest}.npz"
    if not file.exists():
        partial = folder / f".{file.name}.{os.getpid()}"
        with partial.open("wb") as stream:
            np.savez(stream, one_body=one_body, two_body=two_body)
        partial.replace(file)
    return file


@functools.lru_cache(maxsize=2)
def load_integrals(file: str) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Return the integrals in a file of :func:`store_integrals`, read once by each process."""
    import numpy as np

    with np.load(file, allow_pickle=False) as arrays:
        return arrays["one_body"], arrays["two_body"]


def solve_subspace(
    file: str, strings: "Strings", nelec: tuple[int, int], options: SolverOptions
) -> "SCIResult":
    """Return the ground state's figures in one subspace; a classical task.

    Parameters
    ----------
    file
        The integrals, as ``.npz``.
    strings
        CI strings of each spin; their products span the subspace.
    nelec
        Electrons of each spin.
    options
        How to diagonalize.
    """
    import numpy as np
    from pyscf import fci
    from pyscf.fci import selected_ci

    fermion = addon("fermion")
    one_body, two_body = load_integrals(file)
    norb = len(one_body)
    solver = selected_ci.SelectedCI()
    if options.spin_sq is not None:
        solver = fci.addons.fix_spin_(solver, ss=options.spin_sq)
    _, vector = selected_ci.kernel_fixed_space(
        solver, one_body, two_body, norb, nelec, ci_strs=strings
    )
    density_a, density_b = solver.make_rdm1s(vector, norb, nelec)
    result = functools.partial(
        fermion.SCIResult,
        _energy(one_body, two_body, vector, nelec),
        orbital_occupancies=(np.diagonal(density_a).copy(), np.diagonal(density_b).copy()),
        rdm1=density_a + density_b,
    )
    state = fermion.SCIState(np.asarray(vector), *vector._strs, norb, nelec)
    policy = fermion.StandardPolicy(carryover_threshold=options.carryover_threshold)
    carryover = policy.select_carryover(
        result(sci_state=state), symmetrize_spin=options.symmetrize_spin
    )
    lean: SCIResult = result(sci_state=None, carryover=carryover)
    return lean


def _energy(
    one_body: "np.ndarray[Any, Any]",
    two_body: "np.ndarray[Any, Any]",
    vector: Any,
    nelec: tuple[int, int],
) -> float:
    # <c|H|c>, because the eigenvalue contains the spin penalty; cheaper than the two-body density
    # matrix, from which the addon computes the same number.
    import numpy as np
    from pyscf.fci import direct_spin1, selected_ci

    norb = len(one_body)
    hamiltonian = direct_spin1.absorb_h1e(one_body, two_body, norb, nelec, 0.5)
    product = selected_ci.contract_2e(hamiltonian, vector, norb, nelec)
    return float(np.vdot(vector, product) / np.vdot(vector, vector))

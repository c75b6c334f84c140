"""What each round of the main loop did: seen at its ``sci_solver`` and told when it ends."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hybridflow_workflows.sqd.result import IterationRecord, millihartree
from hybridflow_workflows.sqd.solver import SubspaceSolver, gather

if TYPE_CHECKING:
    from concurrent.futures import Future

    from qiskit_addon_sqd.fermion import SCIResult

__all__ = ["Rounds"]


class Rounds:
    """Stands between the loop and its solver, and makes a record of each round.

    Parameters
    ----------
    solver
        What diagonalizes.
    core_energy
        Energy in hartree to add to what the loop finds.
    reference
        Exact energy in hartree, if known.
    started
        Called with a round's tasks when they have been sent.
    ended
        Called with each round's record.
    """

    def __init__(
        self,
        solver: SubspaceSolver,
        core_energy: float,
        reference: float | None,
        started: "Callable[[list[Future[SCIResult]]], None]",
        ended: Callable[[IterationRecord], None],
    ) -> None:
        self._solver = solver
        self._core_energy = core_energy
        self._reference = reference
        self._started = started
        self._ended = ended
        self._dimensions: tuple[int, ...] = ()
        self._seconds = 0.0
        self.records: list[IterationRecord] = []

    def solve(
        self,
        ci_strings: Sequence[Any],
        one_body: Any,
        two_body: Any,
        norb: int,
        nelec: tuple[int, int],
    ) -> "list[SCIResult]":
        """Diagonalize a round's subspaces: the loop's ``sci_solver``."""
        self._dimensions = tuple(len(alpha) * len(beta) for alpha, beta in ci_strings)
        began = time.monotonic()
        tasks = self._solver.submit(ci_strings, one_body, two_body, nelec)
        self._started(tasks)
        results = gather(tasks)
        self._seconds = time.monotonic() - began
        return results

    def end(self, results: "list[SCIResult]") -> None:
        """Record a round: the loop's ``callback``."""
        energy = float(min(result.energy for result in results)) + self._core_energy
        reference = self._reference
        record = IterationRecord(
            number=len(self.records) + 1,
            energy_hartree=energy,
            error_millihartree=None if reference is None else millihartree(energy, reference),
            dimensions=self._dimensions,
            solve_seconds=self._seconds,
        )
        self.records.append(record)
        self._ended(record)

"""The control: what the ansatz is worth against uniformly random samples.

Without a bound, any sampler reaches the answer at sizes that can be checked. So both sides run the
same loop at one bounded budget, with several seeds; each such loop is one classical task.
"""

from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hybridflow_workflows.sqd.loop import SOLVER_OPTIONS, LoopSettings, run_loop
from hybridflow_workflows.sqd.parameters import SQDParameters
from hybridflow_workflows.sqd.result import Control, millihartree
from hybridflow_workflows.sqd.solver import load_integrals, solve_subspace

if TYPE_CHECKING:
    import numpy as np
    from qiskit_addon_sqd.fermion import SCIResult

__all__ = ["ControlRuns", "bounded_energy"]


class ControlRuns:
    """The control's tasks, one of each side for every seed.

    Parameters
    ----------
    executor
        The classical pool.
    integrals
        Path of the integrals, see ``solver.py``.
    electrons
        Electrons of each spin.
    samples
        Samples of the ansatz: ``bool`` of shape ``(shots, 2 * orbitals)``.
    parameters
        Of the run.
    """

    def __init__(
        self,
        executor: Executor,
        integrals: Path,
        electrons: tuple[int, int],
        samples: "np.ndarray[Any, Any]",
        parameters: SQDParameters,
    ) -> None:
        self._executor = executor
        self._integrals = str(integrals)
        self._electrons = electrons
        self._samples = samples
        self._parameters = parameters
        first = parameters.seed + 1
        self.seeds = tuple(range(first, first + parameters.control_seeds))
        self._ansatz: list[Future[float]] = []
        self._uniform: list[Future[float]] = []

    def start_next(self) -> None:
        """Start both sides with one more seed, if any is left.

        One at a time, to fill the gaps of the main loop instead of standing in its way.
        """
        if len(self._ansatz) < len(self.seeds):
            seed = self.seeds[len(self._ansatz)]
            self._ansatz.append(self._start(self._samples, seed))
            self._uniform.append(self._start(None, seed))

    def start_all(self) -> list[Future[float]]:
        """Start what is left, and return all tasks."""
        for _ in self.seeds:
            self.start_next()
        return self._ansatz + self._uniform

    def _start(self, samples: "np.ndarray[Any, Any] | None", seed: int) -> Future[float]:
        parameters = self._parameters
        settings = msgspec.structs.replace(
            LoopSettings.of(parameters), max_dim=parameters.control_max_dim, seed=seed
        )
        return self._executor.submit(
            bounded_energy, self._integrals, self._electrons, samples, parameters.shots, settings
        )

    def result(self, core_energy: float, reference: float | None) -> Control:
        """Wait for all tasks, and return both sides' energies."""
        ansatz = tuple(future.result() + core_energy for future in self._ansatz)
        uniform = tuple(future.result() + core_energy for future in self._uniform)
        return Control(
            max_dim=self._parameters.control_max_dim,
            seeds=self.seeds,
            ansatz_energy_hartree=ansatz,
            uniform_energy_hartree=uniform,
            ansatz_error_millihartree=_errors(ansatz, reference),
            uniform_error_millihartree=_errors(uniform, reference),
        )


def _errors(energies: tuple[float, ...], reference: float | None) -> tuple[float, ...]:
    if reference is None:
        return ()
    return tuple(millihartree(energy, reference) for energy in energies)


def bounded_energy(
    integrals: str,
    electrons: tuple[int, int],
    samples: "np.ndarray[Any, Any] | None",
    shots: int,
    settings: LoopSettings,
) -> float:
    """Return the energy of a whole loop in hartree, without the core's; a classical task.

    Parameters
    ----------
    integrals
        Path of the integrals.
    electrons
        Electrons of each spin.
    samples
        ``bool`` of shape ``(shots, 2 * orbitals)``; None: uniformly random ones.
    shots
        Number of the uniformly random ones.
    settings
        Of the loop.
    """
    import numpy as np

    tensors = load_integrals(integrals)
    if samples is None:
        generator = np.random.default_rng(settings.seed)
        samples = generator.integers(2, size=(shots, 2 * len(tensors[0])), dtype=bool)

    def solve(strings: list[Any], *_: Any) -> "list[SCIResult]":
        return [solve_subspace(integrals, pair, electrons, SOLVER_OPTIONS) for pair in strings]

    return run_loop(tensors, electrons, samples, settings, solve)

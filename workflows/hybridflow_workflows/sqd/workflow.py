"""SQD from a molecule to an energy, on any engine: who does what, and in which order.

::

    driver                      classical workers                        QPU slot
    check
    integrals     ───────────►  compute_integrals
    reference     ───────────►  exact_energy (goes on beside the rest)
    ansatz        ───────────►  build_ansatz
    transpile     ───────────►  transpile_ansatz
    sample        ───────────────────────────────────────────────────►  sample
    diagonalize   ───────────►  solve_subspace, for each batch and iteration
    (control)     ───────────►  bounded_energy, while the loop leaves workers idle, and after it
    report

What was found is written as soon as it is known: ``integrals-*.npz``, ``samples.npy``,
``result.json`` (before the control, and again with it), ``report.html``. A run that was killed goes
on from its folder (``earlier.py``); its samples are in the run's ledger.
"""

import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hybridflow import __version__
from hybridflow.pools import Pools, open_pools
from hybridflow.progress import Display
from hybridflow.site import Site, load_site
from hybridflow_workflows.folder import (
    default_output,
    new_folder,
    recorded,
    report,
    variables,
    write_result,
)
from hybridflow_workflows.running import checked_engine
from hybridflow_workflows.sqd.addon import require_extra
from hybridflow_workflows.sqd.ansatz import Ansatz, build_ansatz, transpile_ansatz
from hybridflow_workflows.sqd.control import ControlRuns
from hybridflow_workflows.sqd.earlier import earlier_run
from hybridflow_workflows.sqd.loop import SOLVER_OPTIONS, LoopSettings, run_loop
from hybridflow_workflows.sqd.molecule import Integrals, Molecule, check, compute_integrals
from hybridflow_workflows.sqd.parameters import SQDParameters
from hybridflow_workflows.sqd.policy import FillingPolicy
from hybridflow_workflows.sqd.reference import exact_energy
from hybridflow_workflows.sqd.result import IterationRecord, SQDResult
from hybridflow_workflows.sqd.rounds import Rounds
from hybridflow_workflows.sqd.sampling import Samples, count_valid, sample
from hybridflow_workflows.sqd.solver import SubspaceSolver, store_integrals

if TYPE_CHECKING:
    import numpy as np

__all__ = ["resume_sqd", "run_sqd"]

Callback = Callable[[IterationRecord], None]

_PACKAGES = ("qiskit", "qiskit-addon-sqd", "ffsim", "pyscf")


def run_sqd(
    parameters: SQDParameters,
    *,
    site: Site | str | os.PathLike[str] | None = None,
    engine: str = "parsl",
    workers: int | None = None,
    output: str | os.PathLike[str] | None = None,
    callback: Callback | None = None,
    display: Display | None = None,
) -> SQDResult:
    """Find the ground-state energy of a molecule by sample-based quantum diagonalization.

    Parameters
    ----------
    parameters
        The molecule and the settings.
    site
        A site, or the path of a site file; the default site if not given.
    engine
        Name of the workflow engine: see :func:`hybridflow.open_pools`.
    workers
        Classical workers; the site's number if not given.
    output
        Folder of the run, made if it is not there; ``runs/sqd-<time>`` if not given.
    callback
        Called in this thread with each iteration, when it has ended.
    display
        Where progress is shown; nowhere if not given.

    Returns
    -------
    SQDResult
        What stands in ``result.json`` of the run's folder; ``report.html`` is beside it.

    Raises
    ------
    InputError
        If the molecule, its active space, the engine or the folder is not possible; nothing has
        been started then.
    SiteError
        If the site file is wrong or has no such resource.
    MissingExtraError
        If the packages of the extra ``sqd`` are not installed.
    HybridflowError
        What made a task fail. What had been found is in the folder.
    """
    job = _checked(parameters, site, engine, workers)
    folder = new_folder(
        Path(output) if output is not None else default_output("sqd"),
        "go on with the run in it (--resume), ",
    )
    return _run_in(folder, job, callback, display)


def resume_sqd(
    folder: str | os.PathLike[str],
    *,
    site: Site | str | os.PathLike[str] | None = None,
    engine: str | None = None,
    workers: int | None = None,
    callback: Callback | None = None,
    display: Display | None = None,
) -> SQDResult:
    """Go on with a run that has ended before it was done, whatever ended it.

    Samples that were paid for are not paid for again: they are in the run's ledger, or the vendor
    job that makes them is waited for. What classical tasks had found is computed anew.

    Parameters
    ----------
    folder
        The run's folder.
    site, workers, callback, display
        As of :func:`run_sqd`.
    engine
        Name of the workflow engine; the one that the run had, if not given.

    Raises
    ------
    InputError
        If there is no run of SQD in the folder, or one that still goes on.
    HybridflowError
        As :func:`run_sqd`.
    """
    run = earlier_run(folder)
    job = _checked(run.parameters, site, engine or run.engine, workers)
    return _run_in(run.folder, job, callback, display)


@dataclass(frozen=True)
class _Job:
    # What is to be done, checked.
    parameters: SQDParameters
    molecule: Molecule
    site: Site
    engine: str
    workers: int | None


def _checked(
    parameters: SQDParameters,
    site: Site | str | os.PathLike[str] | None,
    engine: str,
    workers: int | None,
) -> _Job:
    require_extra()
    molecule = check(parameters)
    loaded = site if isinstance(site, Site) else load_site(site)
    resource = loaded.resource(parameters.resource).name
    checked_engine(engine)
    chosen = msgspec.structs.replace(loaded, default=resource)
    return _Job(parameters, molecule, chosen, engine, workers)


def _run_in(
    folder: Path, job: _Job, callback: Callback | None, display: Display | None
) -> SQDResult:
    shown = display or Display(quiet=True)
    with variables(folder, job.site):
        try:
            with (
                recorded("sqd", job.parameters, job.engine, job.site.default),
                # A run has one quantum task: more places in the slot were only processes to start.
                open_pools(
                    job.site, engine=job.engine, workers=job.workers, tasks_per_slot=1
                ) as pools,
            ):
                run = _Run(job.parameters, job.molecule, pools, folder, shown, callback)
                return run.result()
        finally:
            report(folder, shown)


@dataclass(frozen=True)
class _Run:
    # One run: what it was given. What it finds goes from step to step.
    parameters: SQDParameters
    molecule: Molecule
    pools: Pools
    folder: Path
    display: Display
    callback: Callback | None

    def result(self) -> SQDResult:
        integrals: Integrals = self._task("integrals", compute_integrals, self.molecule)
        file = store_integrals(self.folder, integrals.one_body, integrals.two_body)
        exact = self.pools.classical.submit(exact_energy, integrals)
        ansatz = self._ansatz(integrals)
        samples = self._sample(ansatz)
        with self.display.phase("reference"):
            reference = exact.result()
        matrix = samples.matrix()
        valid = count_valid(matrix, integrals.electrons)
        control = None
        if self.parameters.control:
            control = ControlRuns(
                self.pools.classical, file, integrals.electrons, matrix, self.parameters
            )
        rounds = self._diagonalize(integrals, matrix, reference, control)
        found = self._found(integrals, ansatz, samples, valid, reference, rounds)
        write_result(self.folder, found)
        if control is not None:
            with self.display.phase("control") as phase:
                phase.watch(control.start_all())
                compared = control.result(integrals.core_energy, reference)
            found = msgspec.structs.replace(found, control=compared)
            write_result(self.folder, found)
        return found

    @property
    def _resource(self) -> str:
        return self.pools.site.default

    def _task(self, phase: str, task: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self.display.phase(phase):
            return self.pools.classical.submit(task, *args, **kwargs).result()

    def _ansatz(self, integrals: Integrals) -> Ansatz:
        place = {"resource": self._resource, "site": self.pools.site}
        ansatz: Ansatz = self._task(
            "ansatz",
            build_ansatz,
            integrals,
            repetitions=self.parameters.repetitions,
            optimize=self.parameters.optimize,
        )
        return replace(
            ansatz, circuit=self._task("transpile", transpile_ansatz, ansatz.circuit, **place)
        )

    def _sample(self, ansatz: Ansatz) -> Samples:
        import numpy as np

        shots, seed = self.parameters.shots, self.parameters.seed
        with self.display.phase("sample"):
            task = self.pools.quantum.submit(sample, ansatz.circuit, shots, seed, self._resource)
            samples: Samples = task.result()
        np.save(self.folder / "samples.npy", samples.packed)
        return samples

    def _diagonalize(
        self,
        integrals: Integrals,
        matrix: "np.ndarray[Any, Any]",
        reference: float | None,
        control: ControlRuns | None,
    ) -> tuple[IterationRecord, ...]:
        def ended(record: IterationRecord) -> None:
            self._tell(record)
            if control is not None:
                control.start_next()

        solver = SubspaceSolver(self.pools.classical, SOLVER_OPTIONS, self.folder)
        policy = FillingPolicy(SOLVER_OPTIONS.carryover_threshold) if self.parameters.fill else None
        with self.display.phase("diagonalize") as phase:
            rounds = Rounds(solver, integrals.core_energy, reference, phase.watch, ended)
            run_loop(
                (integrals.one_body, integrals.two_body),
                integrals.electrons,
                matrix,
                LoopSettings.of(self.parameters),
                rounds.solve,
                policy=policy,
                callback=rounds.end,
            )
        return tuple(rounds.records)

    def _tell(self, record: IterationRecord) -> None:
        values: dict[str, float] = {"energy_hartree": record.energy_hartree}
        if record.error_millihartree is not None:
            values["error_millihartree"] = record.error_millihartree
        values["dimension"] = max(record.dimensions)
        values["solve_seconds"] = record.solve_seconds
        self.display.iteration(record.number, values)
        if self.callback is not None:
            self.callback(record)

    def _found(
        self,
        integrals: Integrals,
        ansatz: Ansatz,
        samples: Samples,
        valid: int,
        reference: float | None,
        rounds: tuple[IterationRecord, ...],
    ) -> SQDResult:
        best = min(rounds, key=lambda record: record.energy_hartree)
        origin = samples.provenance
        return SQDResult(
            energy_hartree=best.energy_hartree,
            reference_hartree=reference,
            error_millihartree=best.error_millihartree,
            hartree_fock_hartree=integrals.hartree_fock,
            ccsd_hartree=ansatz.ccsd,
            control=None,
            shots=self.parameters.shots,
            valid_shots=valid,
            distinct_samples=samples.distinct,
            vendor_jobs=len({origin.vendor_job_id}),
            qpu_seconds=origin.qpu_seconds,
            iterations=rounds,
            resource=origin.resource,
            engine=self.pools.engine,
            seed=self.parameters.seed,
            molecule=self.molecule.name,
            active_space=f"{self.molecule.electrons}e,{self.molecule.orbitals}o",
            qubits=self.molecule.qubits,
            parameters=msgspec.to_builtins(self.parameters),
            provenance={
                "samples": msgspec.to_builtins(origin),
                "ccsd_converged": ansatz.ccsd_converged,
                "versions": {
                    "hybridflow": __version__,
                    **{name: importlib.metadata.version(name) for name in _PACKAGES},
                },
            },
        )

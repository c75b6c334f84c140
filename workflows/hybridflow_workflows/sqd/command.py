"""``hybridflow run sqd``: SQD from the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from hybridflow_workflows.sqd.result import SQDResult

__all__ = ["command"]

_EXAMPLES = """\b
Examples:
  hybridflow run sqd --control
  hybridflow run sqd --molecule n2 --basis sto-3g --bond 1.5 --engine local
  hybridflow run sqd --geometry my.xyz --basis sto-3g --active-space 10e,8o
  hybridflow run sqd --resume runs/sqd-20260131-143000
"""


@click.command(
    "sqd", epilog=_EXAMPLES, short_help="The energy of a molecule, by sample-based diagonalization."
)
@click.option("--molecule", metavar="NAME", help="beh2, h2, h2o, h4, lih or n2 [default: h2o].")
@click.option("--geometry", metavar="FILE", help="An xyz file (in angstrom), instead of a name.")
@click.option("--basis", default="6-31g", show_default=True, help="Basis set, by PySCF's name.")
@click.option("--bond", type=float, metavar="ANGSTROM", help="Bond length [default: h2o 2.0].")
@click.option("--angle", type=float, metavar="DEGREES", help="Bond angle [default: h2o 104.52].")
@click.option("--charge", default=0, show_default=True, help="Charge of the molecule.")
@click.option("--active-space", metavar="NeMo", help="Like 10e,8o [default: all but the core].")
@click.option("--shots", default=10_000, show_default=True, help="Samples of the ansatz.")
@click.option("--seed", default=7, show_default=True, help="Makes the run repeatable.")
@click.option("--batches", default=2, show_default=True, help="Subspaces of an iteration.")
@click.option("--samples-per-batch", default=300, show_default=True, help="Samples of a subspace.")
@click.option("--iterations", default=5, show_default=True, help="Rounds, at most.")
@click.option("--max-dim", type=int, help="Bound on a subspace's strings of one spin.")
@click.option(
    "--fill", is_flag=True, help="Fill subspaces of few samples up with excitations: no plain SQD."
)
@click.option("--repetitions", default=2, show_default=True, help="Repetitions of the ansatz.")
@click.option(
    "--optimize/--no-optimize",
    default=True,
    show_default=True,
    help="Fit the ansatz to all CCSD amplitudes; cut off, it samples little.",
)
@click.option("--control", is_flag=True, help="Compare with random samples at a bounded budget.")
@click.option("--control-seeds", default=3, show_default=True, help="Seeds of each side.")
@click.option("--control-max-dim", default=100, show_default=True, help="That budget.")
@click.option("--resource", metavar="NAME", help="The QPU, by the site's name [default: its own].")
@click.option("--site", metavar="FILE", help="Site file [default: HYBRIDFLOW_SITE, or built in].")
@click.option("--engine", help="Workflow engine [default: parsl].")
@click.option("--workers", type=int, help="Classical workers [default: the site's].")
@click.option("--output", metavar="FOLDER", help="Folder of the run [default: runs/sqd-TIME].")
@click.option("--resume", metavar="FOLDER", help="Go on with the run in this folder.")
@click.option("--quiet", is_flag=True, help="Show the result only.")
def command(
    site: str | None,
    engine: str | None,
    workers: int | None,
    output: str | None,
    resume: str | None,
    quiet: bool,
    **parameters: Any,
) -> None:
    """Find a molecule's ground-state energy from samples of a quantum circuit.

    The ansatz is sampled by a quantum task on a QPU slot; the subspaces that its samples span are
    diagonalized by classical tasks. Without options: water, its bonds stretched to 2.0 angstrom.

    The folder of the run gets result.json, report.html, the samples and the integrals.

    A run that was interrupted, however that happened, goes on with --resume: what the QPU was paid
    for is not paid for again.
    """
    from hybridflow.progress import Display
    from hybridflow_workflows.folder import default_output
    from hybridflow_workflows.sqd.parameters import SQDParameters
    from hybridflow_workflows.sqd.workflow import resume_sqd, run_sqd

    if resume:
        _refuse_with_resume(parameters)
    folder = Path(resume or output or default_output("sqd"))
    with Display(quiet=quiet) as display:
        if resume:
            result = resume_sqd(folder, site=site, engine=engine, workers=workers, display=display)
        else:
            result = run_sqd(
                SQDParameters(**parameters),
                site=site,
                engine=engine or "parsl",
                workers=workers,
                output=folder,
                display=display,
            )
    _summarize(result, folder)


def _refuse_with_resume(parameters: dict[str, Any]) -> None:
    context = click.get_current_context()
    given = [
        name
        for name in ("output", *parameters)
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            "a run goes on with what it was begun with: leave out "
            + ", ".join(f"--{name.replace('_', '-')}" for name in given)
        )


def _summarize(result: "SQDResult", folder: Path) -> None:
    width = max(len(name) for name, _ in _rows(result, folder))
    for name, value in _rows(result, folder):
        click.echo(f"{name:<{width}}  {value}")


def _rows(result: "SQDResult", folder: Path) -> list[tuple[str, str]]:
    rows = [
        ("molecule", f"{result.molecule}, {result.active_space}, {result.qubits} qubits"),
        ("energy", f"{result.energy_hartree:.8f} Ha"),
    ]
    if result.reference_hartree is None or result.error_millihartree is None:
        rows.append(("exact energy", "unknown: the active space is too large to compute it"))
    else:
        rows.append(("exact energy", f"{result.reference_hartree:.8f} Ha"))
        rows.append(("error", f"{result.error_millihartree:.3f} mHa"))
    if result.control is not None:
        rows.append(("control", _control(result)))
    rows.append(
        (
            "samples",
            f"{result.shots} shots, {result.distinct_samples} different, "
            f"{result.valid_shots} with the right number of electrons",
        )
    )
    rows.append(("vendor jobs", f"{result.vendor_jobs} on {result.resource}"))
    rows.append(("QPU seconds", f"{result.qpu_seconds:.2f}"))
    for name in ("result.json", "report.html"):
        if (folder / name).exists():
            rows.append((name.partition(".")[0], str(folder / name)))
    return rows


def _control(result: "SQDResult") -> str:
    control = result.control
    assert control is not None
    budget = f"at {control.max_dim} strings, {len(control.seeds)} seeds"
    if control.ansatz_error_millihartree:
        ansatz, uniform = control.ansatz_error_millihartree, control.uniform_error_millihartree
        return f"ansatz {_mean(ansatz):.1f} mHa, uniform {_mean(uniform):.1f} mHa off ({budget})"
    ansatz, uniform = control.ansatz_energy_hartree, control.uniform_energy_hartree
    return f"ansatz {_mean(ansatz):.6f} Ha, uniform {_mean(uniform):.6f} Ha ({budget})"


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)

"""The command line of the short workflows: the options of each, and what they print."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hybridflow.progress import Display
    from hybridflow_workflows.running import Outcome, Place

__all__ = ["run_options", "seed_option"]

_OPTIONS = (
    click.option("--resource", metavar="NAME", help="The QPU, by the site's name [its default]."),
    click.option(
        "--site", metavar="FILE", help="Site file [default: HYBRIDFLOW_SITE, or built in]."
    ),
    click.option(
        "--engine", default="local", show_default=True, help="Workflow engine: local, parsl, dask."
    ),
    click.option("--workers", type=int, help="Classical workers [default: the site's]."),
    click.option("--output", metavar="FOLDER", help="Folder of the run [default: runs/NAME-TIME]."),
    click.option("--quiet", is_flag=True, help="Show the result only."),
)
seed_option = click.option("--seed", default=7, show_default=True, help="Makes it repeatable.")
"""For the commands that have a seed unless told otherwise."""

_PLACE = ("resource", "site", "engine", "workers", "output")


def run_options(
    call: Callable[[dict[str, Any], "Place", "Display"], "Outcome"],
) -> Callable[..., None]:
    """Turn a function that runs a workflow into a command's: with the options that all have.

    The function is given the command's own options, where to run, and where to show progress; what
    it returns is printed.
    """

    @functools.wraps(call)
    def command(quiet: bool, **options: Any) -> None:
        from hybridflow.progress import Display
        from hybridflow_workflows.folder import default_output
        from hybridflow_workflows.running import Place

        name = click.get_current_context().info_name or "run"
        options["output"] = str(options["output"] or default_output(name))
        place = Place(**{key: options.pop(key) for key in _PLACE})
        with Display(quiet=quiet) as display:
            outcome = call(options, place, display)
        _print(outcome, Path(str(place.output)))

    decorated: Callable[..., None] = command
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _print(outcome: "Outcome", folder: Path) -> None:
    found = outcome.finding
    rows = [
        *found.notes,
        (found.quantity, f"{found.value:.6f} {found.unit}".rstrip()),
        ("exact", f"{found.exact:.6f} {found.unit}".rstrip()),
        ("error", f"{outcome.error:.6f} {found.unit}".rstrip()),
        (
            "vendor jobs",
            f"{outcome.vendor_jobs} on {outcome.resource} "
            f"({outcome.requests} requests as {outcome.pubs} PUBs)",
        ),
        ("QPU seconds", f"{outcome.qpu_seconds:.2f}"),
    ]
    for name in ("result.json", "report.html"):
        if (folder / name).exists():
            rows.append((name.partition(".")[0], str(folder / name)))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")

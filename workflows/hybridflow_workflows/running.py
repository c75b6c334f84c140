"""What a run is, whichever workflow it runs: its folder, pools, events, result and report.

::

    parameters, Place ──► carry_out ──► steps(run) ──► Finding ──► Outcome ──► result.json
                              │                                       ▲
                              └── folder, variables, pools, events ───┘ vendor jobs, QPU seconds

A workflow is a function `steps` from a :class:`Run` to a :class:`Finding`; the rest is here.
"""

import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hybridflow import __version__
from hybridflow.errors import InputError
from hybridflow.events import VendorJobEnded, VendorJobStarted, read_events
from hybridflow.pools import Pools, engine_names, open_pools
from hybridflow.progress import Display
from hybridflow.records import Record
from hybridflow.site import load_site
from hybridflow_workflows.folder import (
    default_output,
    give_up,
    new_folder,
    recorded,
    report,
    variables,
    write_result,
)

__all__ = [
    "Finding",
    "Outcome",
    "Place",
    "Run",
    "carry_out",
    "checked_engine",
    "require_at_least",
]


class Place(Record, frozen=True, kw_only=True):
    """Where a workflow runs.

    Attributes
    ----------
    site
        Path of the site file; None: the default site.
    engine
        Name of the workflow engine.
    workers
        Classical workers; None: the site's number.
    resource
        The site's name of the QPU; None: its default.
    output
        Folder of the run, made if it is not there; None: ``runs/<workflow>-<time>``.
    """

    site: str | None = None
    engine: str = "local"
    workers: int | None = None
    resource: str | None = None
    output: str | None = None


class Finding(Record, frozen=True, kw_only=True):
    """What a workflow has found.

    Attributes
    ----------
    quantity
        What it is the value of, in words: ``energy``.
    value, exact
        The figure, and what it would be without noise and approximation.
    unit
        Of both; empty for a pure number.
    details
        All else that goes into ``result.json``.
    notes
        Lines for people: a name and a text each.
    """

    quantity: str
    value: float
    exact: float
    unit: str = ""
    details: dict[str, Any] = msgspec.field(default_factory=dict)
    notes: tuple[tuple[str, str], ...] = ()


class Outcome(Record, frozen=True, kw_only=True):
    """A run's result, as it stands in ``result.json``.

    Attributes
    ----------
    workflow
        Its name.
    finding
        What was found.
    error
        Its value less the exact one.
    requests, pubs, vendor_jobs
        Calls of a primitive, the PUBs that the broker has made of them, and the vendor jobs that
        they went out in.
    shots, qpu_seconds
        What the vendor bills.
    resource, engine
        What it ran on.
    vendor_job_ids
        Where the values came from.
    parameters
        All that was asked for; with its seed, the run can be repeated.
    versions
        Of the software.
    """

    workflow: str
    finding: Finding
    error: float
    requests: int
    pubs: int
    vendor_jobs: int
    shots: int
    qpu_seconds: float
    resource: str
    engine: str
    vendor_job_ids: tuple[str, ...]
    parameters: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Run:
    """A run under way, as its steps see it.

    Attributes
    ----------
    pools
        Where its tasks go.
    display
        Where it says what it does.
    resource
        The site's name of the QPU.
    folder
        For what it writes.
    """

    pools: Pools
    display: Display
    resource: str
    folder: Path

    def classical(self, phase: str, task: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run one classical task, as a phase of the run, and return its result."""
        with self.display.phase(phase):
            return self.pools.classical.submit(task, *args, **kwargs).result()

    def quantum(
        self, phase: str, task: Callable[..., Any], calls: list[tuple[Any, ...]]
    ) -> list[Any]:
        """Run quantum tasks side by side, one for each tuple of arguments; return their results."""
        with self.display.phase(phase) as shown:
            futures = [self.pools.quantum.submit(task, *arguments) for arguments in calls]
            try:
                shown.watch(futures)
                return [future.result() for future in futures]
            except BaseException:  # also Ctrl-C: nobody waits for the others any more
                give_up(self.folder)
                raise


def carry_out(
    workflow: str,
    parameters: Record,
    place: Place,
    steps: Callable[[Run], Finding],
    *,
    tasks: int = 1,
    display: Display | None = None,
) -> Outcome:
    """Run a workflow in a folder of its own.

    Parameters
    ----------
    workflow
        Its name.
    parameters
        What it is asked for, for the record.
    place
        Where it runs.
    steps
        What it does.
    tasks
        Quantum tasks that it has at a time, at most.
    display
        Where progress is shown; nowhere if not given.

    Returns
    -------
    Outcome
        What stands in ``result.json`` of the run's folder; ``report.html`` is beside it.

    Raises
    ------
    InputError
        If the engine or the folder is not possible; nothing has been started then.
    SiteError
        If the site file is wrong or has no such resource.
    HybridflowError
        What made a task fail.
    """
    loaded = load_site(place.site)
    resource = loaded.resource(place.resource).name
    site = msgspec.structs.replace(loaded, default=resource)
    engine = checked_engine(place.engine)
    folder = new_folder(Path(place.output) if place.output else default_output(workflow))
    shown = display or Display(quiet=True)
    with variables(folder, site):
        try:
            with recorded(workflow, parameters, engine, resource):
                with open_pools(
                    site, engine=engine, workers=place.workers, tasks_per_slot=tasks
                ) as pools:
                    finding = steps(Run(pools, shown, resource, folder))
                outcome = _outcome(workflow, finding, folder, parameters, engine, resource)
                write_result(folder, outcome)
            return outcome
        finally:
            report(folder, shown)


def _outcome(
    workflow: str,
    finding: Finding,
    folder: Path,
    parameters: Record,
    engine: str,
    resource: str,
) -> Outcome:
    # Read when the pools have ended: by then every broker has told what its vendor jobs have cost.
    events = read_events(folder)
    started = [event for event in events if isinstance(event, VendorJobStarted)]
    ended = [event for event in events if isinstance(event, VendorJobEnded)]
    return Outcome(
        workflow=workflow,
        finding=finding,
        error=finding.value - finding.exact,
        requests=sum(job.requests for job in started),
        pubs=sum(job.pubs for job in started),
        vendor_jobs=len(started),
        shots=sum(job.shots for job in ended),
        qpu_seconds=sum(job.qpu_seconds for job in ended),
        resource=resource,
        engine=engine,
        vendor_job_ids=tuple(job.vendor_job_id for job in started),
        parameters=msgspec.to_builtins(parameters),
        versions={"hybridflow": __version__, "qiskit": importlib.metadata.version("qiskit")},
    )


def require_at_least(**bounds: tuple[float, float]) -> None:
    """Refuse parameters below a bound, and infinite ones: ``require_at_least(shots=(shots, 1))``.

    Raises
    ------
    InputError
        For the first that is.
    """
    for name, (value, least) in bounds.items():
        if not least <= value < math.inf:
            finite = "" if isinstance(value, int) else " and finite"
            option = "--" + name.replace("_", "-")
            raise InputError(f"{option} must be at least {least:g}{finite}, not {value:g}")


def checked_engine(engine: str) -> str:
    """Return the name of an engine that is installed.

    Raises
    ------
    InputError
        If it is not.
    """
    if engine not in engine_names():
        raise InputError(f"unknown engine {engine!r}; known are: {', '.join(engine_names())}")
    return engine

"""The page of a run: fills ``page.html`` with the run's figures, pictures, sentences and tables.

The page is one file that asks the network for nothing: Bokeh's code, the style sheet and the data
stand in it. What comes from outside is redacted here and escaped by the template.
"""

import datetime
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib import metadata, resources
from typing import Any

import msgspec
from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hybridflow.labels import quantity, seconds
from hybridflow.report.curves import (
    CHEMICAL_ACCURACY,
    control_figure,
    counts,
    error_figure,
    size_figure,
)
from hybridflow.report.figures import timeline_figure
from hybridflow.report.lanes import Arrangement, Kind, arrange
from hybridflow.report.redact import redacted, shortened
from hybridflow.report.result import Result
from hybridflow.report.sentences import (
    busy_part,
    control_words,
    counted,
    drawing_words,
    error_words,
    faults,
    percent,
    route_words,
    size_words,
    status,
    thinned_words,
    timeline_words,
)
from hybridflow.report.timeline import State, Timeline, VendorJob

__all__ = ["page"]

_MOST_ROWS = 200
_ERROR = "error_millihartree"


class _Figure(msgspec.Struct, frozen=True):
    # A number of the page's head, and a word about it.
    name: str
    value: str
    note: str = ""


class _Picture(msgspec.Struct, frozen=True):
    # A plot, with what it shows in words for those who cannot see it.
    key: str
    title: str
    words: str
    plot: Any


class _Row(msgspec.Struct, frozen=True):
    # A row of a table; `state` is a class of style.
    cells: tuple[str, ...]
    state: State = State.ENDED
    part: float = 0.0


def page(name: str, run: Timeline, result: Result, damage: Sequence[str]) -> str:
    """Return the page of a run as HTML.

    Parameters
    ----------
    name
        Name of the run, for the page's foot.
    run
        What happened.
    result
        What came out, as far as it is known.
    damage
        What could not be read in the run's folder, a sentence each.
    """
    arrangement = arrange(run)
    pictures = list(_pictures(run, arrangement, result))
    phases = _phases(run)
    script, divs = components({picture.key: picture.plot for picture in pictures})
    environment = Environment(
        loader=PackageLoader("hybridflow.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=_title(run),
        name=redacted(name),
        status=status(run),
        facts=_facts(run, result),
        figures=list(_figures(run, result)),
        faults=faults(run, damage),
        pictures={each.key: (each, Markup(divs[each.key])) for each in pictures},
        drawing=(
            *drawing_words(arrangement),
            *thinned_words(len(run.phases), len(run.iterations)),
        ),
        legend=_legend(arrangement),
        phases=phases[:_MOST_ROWS],
        hidden_phases=max(0, len(phases) - _MOST_ROWS),
        jobs=[_job(job) for job in run.jobs[:_MOST_ROWS]],
        totals=_totals(run.jobs),
        hidden_jobs=max(0, len(run.jobs) - _MOST_ROWS),
        events=counted(run.events, "event"),
        version=metadata.version("hybridflow"),
        css=Markup((resources.files("hybridflow.report") / "page.css").read_text("utf-8")),
        bokeh=Markup(Resources(mode="inline", components=["bokeh"]).render_js()),
        script=Markup(script),
    )


def _title(run: Timeline) -> str:
    if run.run is None:
        return "A run of hybridflow"
    return redacted(f"{run.run.workflow} on {run.run.resource}")


def _facts(run: Timeline, result: Result) -> tuple[tuple[str, str], ...]:
    """Return what the run was, as names and values."""
    told = {
        "workflow": run.run and run.run.workflow,
        "engine": run.run and run.run.engine,
        "resource": run.run and run.run.resource,
        "molecule": result.molecule,
        "active space": result.active_space,
        "qubits": result.qubits,
        "seed": result.seed,
        "started": None if run.began is None else _moment(run.began),
        **{f"requests by {route}": words for route, words in route_words(run).items()},
    }
    known = ((name, str(value)) for name, value in told.items() if value is not None)
    return tuple((redacted(name), shortened(redacted(value), 60)) for name, value in known)


def _moment(time: float) -> str:
    try:
        began = datetime.datetime.fromtimestamp(time, tz=datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return "at an impossible time"
    return f"{began:%Y-%m-%d %H:%M:%S} UTC"


def _figures(run: Timeline, result: Result) -> Iterator[_Figure]:
    """Return the figures that matter; a figure that is not known is left out."""
    yield from _energy(result)
    yield from _finding(result)
    tasks = run.tasks
    quantum = sum(task.role == "quantum" for task in tasks)
    requests = sum(job.requests for job in run.jobs)
    pubs = sum(job.pubs for job in run.jobs)
    jobs = len(run.jobs) if result.vendor_jobs is None else result.vendor_jobs
    qpu_seconds = sum(job.qpu_seconds for job in run.jobs)
    shots = sum(job.shots for job in run.jobs)
    yield _Figure("Wall time", seconds(run.wall_seconds), "" if run.ended else "to the last event")
    yield _Figure(
        "Tasks",
        quantity("", len(tasks)),
        f"{quantity('', quantum)} quantum, {quantity('', len(tasks) - quantum)} classical",
    )
    merged = f"{counted(requests, 'request')}, {counted(pubs, 'PUB')}"
    yield _Figure("Vendor jobs", quantity("", jobs), merged if run.jobs else "")
    yield _Figure(
        "QPU time",
        seconds(qpu_seconds if result.qpu_seconds is None else result.qpu_seconds),
        f"busy {percent(busy_part(run, Kind.QPU), 1)} of the time" if run.jobs else "",
    )
    yield _Figure("Shots", quantity("", shots if result.shots is None else result.shots))


def _energy(result: Result) -> Iterator[_Figure]:
    if result.energy_hartree is not None:
        exact = result.reference_hartree
        note = "" if exact is None else f"exact: {quantity('exact_hartree', exact)}"
        yield _Figure("Energy", quantity("energy_hartree", result.energy_hartree), note)
    if result.error_millihartree is not None:
        good = abs(result.error_millihartree) <= CHEMICAL_ACCURACY
        note = f"{'within' if good else 'above'} chemical accuracy ({CHEMICAL_ACCURACY} mHa)"
        yield _Figure("Error", quantity(_ERROR, result.error_millihartree), note)


def _finding(result: Result) -> Iterator[_Figure]:
    if (found := result.finding) is not None:
        note = "" if found.exact is None else f"exact: {found.exact:.6f} {found.unit}".rstrip()
        name = shortened(redacted(found.quantity), 30)
        value = f"{found.value:.6f} {found.unit}".rstrip()
        yield _Figure(name.capitalize(), redacted(value), redacted(note))


def _pictures(run: Timeline, arrangement: Arrangement, result: Result) -> Iterator[_Picture]:
    yield _Picture(
        "timeline", "Timeline", timeline_words(run) + ".", timeline_figure(run, arrangement)
    )
    if (errors := error_figure(run.iterations)) is not None:
        words = error_words(run.iterations, _ERROR, CHEMICAL_ACCURACY)
        yield _Picture("errors", "Error per iteration", words, errors)
    if (sizes := size_figure(run.iterations)) is not None:
        yield _Picture(
            "sizes", "Size per iteration", size_words(run.iterations, counts(run.iterations)), sizes
        )
    if result.control and (control := control_figure(result.control)) is not None:
        yield _Picture("control", "Control", control_words(result.control), control)


def _legend(arrangement: Arrangement) -> tuple[tuple[str, str], ...]:
    """Return the styles that the timeline uses, each with what it means."""
    kinds = {lane.kind for lane in arrangement.lanes}
    cells = {cell.lane.kind for cell in arrangement.cells}
    states = {bar.item.state for bar in arrangement.bars}
    single = Kind.QUANTUM in kinds - cells
    meanings = (
        ("job", "vendor job", Kind.QPU in kinds),
        ("on-qpu", "quantum task", Kind.QUANTUM in cells),
        ("on-qpu", "quantum task, its vendor job runs", single),
        ("quantum", "quantum task, works or waits", single),
        ("classical", "classical task", Kind.CLASSICAL in kinds),
        ("failed", "failed", State.FAILED in states),
        ("unfinished", "never ended", State.UNFINISHED in states),
    )
    return tuple((style, meaning) for style, meaning, used in meanings if used)


def _phases(run: Timeline) -> list[_Row]:
    """Return the phases with the times that they took, equal names together.

    In their order; too many of them, the longest first.
    """
    times: dict[str, float] = defaultdict(float)
    states: dict[str, State] = {}
    for phase in run.phases:
        times[phase.name] += phase.seconds
        states[phase.name] = phase.state
    longest = max(times.values(), default=0.0) or 1.0
    if len(times) > _MOST_ROWS:
        times = dict(sorted(times.items(), key=lambda item: item[1], reverse=True))
    return [
        _Row(
            (shortened(redacted(name), 60), seconds(took), percent(took, run.seconds)),
            states[name],
            took / longest,
        )
        for name, took in times.items()
    ]


def _job(job: VendorJob) -> _Row:
    lost = job.state is State.UNFINISHED
    return _Row(
        (
            shortened(redacted(job.id), 48),
            redacted(job.resource),
            seconds(job.start),
            seconds(job.seconds),
            "" if lost else seconds(job.queue_seconds),
            "" if lost else seconds(job.qpu_seconds),
            quantity("", job.requests),
            quantity("", job.pubs),
            "" if lost else quantity("", job.shots),
            shortened(redacted(job.error), 120)
            or {State.UNFINISHED: "never ended"}.get(job.state, "done"),
        ),
        job.state,
    )


def _totals(jobs: Sequence[VendorJob]) -> tuple[str, ...]:
    return (
        seconds(sum(job.seconds for job in jobs)),
        seconds(sum(job.qpu_seconds for job in jobs)),
        quantity("", sum(job.requests for job in jobs)),
        quantity("", sum(job.pubs for job in jobs)),
        quantity("", sum(job.shots for job in jobs)),
    )

"""A run in words: how it ended, what went wrong, and what its pictures show. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from hybridflow.events import Iteration
from hybridflow.labels import label, quantity, seconds
from hybridflow.report.lanes import MOST_MARKS, Arrangement, Kind, Lane, items_of, place_of
from hybridflow.report.redact import redacted, shortened
from hybridflow.report.result import Control
from hybridflow.report.thin import MOST_PHASES, MOST_ROUNDS
from hybridflow.report.timeline import State, Task, Timeline, VendorJob, union_seconds

__all__ = [
    "Status",
    "busy_part",
    "control_words",
    "counted",
    "drawing_words",
    "error_words",
    "faults",
    "percent",
    "route_words",
    "size_words",
    "status",
    "timeline_words",
]

_MOST_ERRORS = 20


class Status(NamedTuple):
    """How a run ended: a word for the eye, a mark for those who see no colour, a class of style."""

    word: str
    mark: str
    style: str


def status(run: Timeline) -> Status:
    """Return how a run ended."""
    if run.ended is None:
        return Status("did not end", "…", "open")
    if run.ended.error:
        return Status("failed", "✗", "bad")
    return Status("finished", "✓", "good")


def counted(number: int, one: str, several: str = "") -> str:
    """Return ``1 task``, ``2 tasks``."""
    word = one if number == 1 else several or f"{one}s"
    return f"{quantity('', number)} {word}"


def faults(run: Timeline, damage: Iterable[str]) -> tuple[str, ...]:
    """Return what a reader must know before trusting the page, a sentence each."""
    return (*_end(run), *_lost(run), *_errors(run), *_fallbacks(run), *damage)


def _end(run: Timeline) -> Iterator[str]:
    if run.ended is None:
        yield (
            "No end of the run was recorded: it is still going on, or it was killed. "
            "The page shows what had happened by then."
        )
    elif run.ended.error:
        yield f"The run failed: {shortened(redacted(run.ended.error), 1000)}"
    if run.run is None:
        yield "No start of the workflow was recorded."
    if run.sessions > 1:
        yield f"The workflow was started {run.sessions} times in this run's folder."


def _lost(run: Timeline) -> Iterator[str]:
    for spans, one in ((run.tasks, "task"), (run.jobs, "vendor job"), (run.phases, "phase")):
        lost = sum(span.state is State.UNFINISHED for span in spans)
        if lost:
            yield f"{counted(lost, one)} began and never ended, as far as was recorded."
    if run.unmatched:
        yield f"{counted(run.unmatched, 'end was', 'ends were')} recorded without a start."


def _errors(run: Timeline) -> Iterator[str]:
    """Name the errors of tasks and vendor jobs, equal ones once, the most frequent first."""
    spans: tuple[tuple[Sequence[Task | VendorJob], str], ...] = (
        (run.tasks, "task"),
        (run.jobs, "vendor job"),
    )
    for items, one in spans:
        errors = Counter(redacted(item.error) for item in items if item.state is State.FAILED)
        for error, times in errors.most_common(_MOST_ERRORS):
            yield f"{counted(times, one)} failed: {shortened(error)}"
        if len(errors) > _MOST_ERRORS:
            yield f"{counted(len(errors) - _MOST_ERRORS, 'more error')} of {one}s not shown here."


def _fallbacks(run: Timeline) -> Iterator[str]:
    """Name the fallbacks of routes, each reason once: their results are others' than was meant."""
    fallen = Counter(
        (one.route, one.resource, one.simulator, redacted(one.fallback))
        for one in run.routed
        if one.fallback
    )
    for (route, resource, simulator, why), times in fallen.most_common(_MOST_ERRORS):
        kind = ", a simulator" if simulator else ""
        yield (
            f"{counted(times, 'request')} of the route {redacted(route)} fell back to "
            f"{redacted(resource)}{kind}: {shortened(why)}"
        )
    if len(fallen) > _MOST_ERRORS:
        yield f"{counted(len(fallen) - _MOST_ERRORS, 'more fallback')} not shown here."


def route_words(run: Timeline) -> dict[str, str]:
    """Return, for each route, how many requests had their results from which resource."""
    by_route: dict[str, Counter[str]] = defaultdict(Counter)
    for one in run.routed:
        by_route[one.route][one.resource] += 1
    return {
        route: ", ".join(f"{resource} {times}" for resource, times in counts.most_common())
        for route, counts in by_route.items()
    }


def busy_part(run: Timeline, kind: Kind) -> float:
    """Return which part of the run's time, from 0 to 1, its QPUs or workers of a kind were busy.

    What never ended is left out: nobody knows how long it lasted.
    """
    by_place: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for item in items_of(run, kind):
        known = item.state is not State.UNFINISHED
        by_place[place_of(item)] += [(item.start, item.end)] if known else []
    if not by_place or not run.seconds:
        return 0.0
    return sum(map(union_seconds, by_place.values())) / (len(by_place) * run.seconds)


def timeline_words(run: Timeline) -> str:
    """Return what the timeline shows, for those who cannot see it."""
    return (
        "; ".join(_lane_words(run, kind) for kind in Kind if items_of(run, kind)) or "Nothing ran"
    )


def _lane_words(run: Timeline, kind: Kind) -> str:
    items = items_of(run, kind)
    places = len({place_of(item) for item in items})
    what = (
        f"{counted(len(items), 'vendor job')} on {counted(places, 'QPU')}"
        if kind is Kind.QPU
        else f"{counted(len(items), f'{kind} task')} on {counted(places, 'worker')}"
    )
    return f"{what}, busy {percent(busy_part(run, kind), 1)} of the time"


def drawing_words(arrangement: Arrangement) -> tuple[str, ...]:
    """Return what was not drawn one by one, and how it was drawn; nothing if all was."""
    shared = [lane for lane in arrangement.lanes if lane.slice_seconds]
    if not shared:
        return ()
    many = [_many(kind, [lane for lane in shared if lane.kind is kind]) for kind in Kind]
    sentences = [
        f"Too many to be drawn one by one: {', '.join(filter(None, many))}.",
        f"Each cell stands for {seconds(shared[0].slice_seconds or 0.0)} of a lane, and the fuller "
        "its colour, the busier the lane; what failed or never ended is marked where it began.",
    ]
    if arrangement.hidden_marks:
        hidden = quantity("", arrangement.hidden_marks)
        sentences.append(f"Only {MOST_MARKS} of these marks are drawn, {hidden} are not.")
    return tuple(sentences)


def thinned_words(phases: int, rounds: int) -> tuple[str, ...]:
    """Return what was left out of the pictures of many phases or rounds; nothing if nothing was."""
    sentences = []
    if phases > MOST_PHASES:
        sentences.append(f"Of {counted(phases, 'phase')}, the {MOST_PHASES} longest are drawn.")
    if rounds > MOST_ROUNDS:
        sentences.append(
            f"Of {counted(rounds, 'round')}, the pictures below show the highest and the lowest of "
            "each stretch."
        )
    return tuple(sentences)


def _many(kind: Kind, lanes: Sequence[Lane]) -> str:
    if not lanes:
        return ""
    number = sum(lane.intervals for lane in lanes)
    what = counted(number, "vendor job" if kind is Kind.QPU else f"{kind} task")
    most = max(len(lane.places) for lane in lanes)
    places = "QPUs" if kind is Kind.QPU else "workers"
    return f"{what} (up to {most} {places} in a lane)" if most > 1 else what


def error_words(iterations: Sequence[Iteration], name: str, limit: float) -> str:
    """Return how the error went, from the first round that told it to the last."""
    errors = [each.values[name] for each in iterations if name in each.values]
    best = min(errors, key=abs)
    return (
        f"Error against the exact energy: {quantity(name, errors[0])} in the first round, "
        f"{quantity(name, errors[-1])} in the last; the best, {quantity(name, best)}, is "
        f"{'within' if abs(best) <= limit else 'above'} chemical accuracy ({limit} mHa, dashed)."
    )


def size_words(iterations: Sequence[Iteration], names: Sequence[str]) -> str:
    """Return how what was counted went, from the first round to the last."""
    first, last = iterations[0].values, iterations[-1].values
    told = (
        f"{redacted(label(name))}: {quantity(name, first[name])} in the first round, "
        f"{quantity(name, last[name])} in the last"
        for name in names
        if name in first and name in last
    )
    return "; ".join(told) + "."


def percent(part: float, whole: float) -> str:
    """Return a share of a whole; what is little is not called nothing."""
    share = part / whole if whole else 0.0
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def control_words(control: Control) -> str:
    """Return how the ansatz compares with random samples."""
    ansatz = fmean(control.ansatz_error_millihartree)
    uniform = fmean(control.uniform_error_millihartree)
    budget = f" at the same bounded budget (max_dim {control.max_dim})" if control.max_dim else ""
    verdict = (
        "The ansatz is nearer to the exact energy"
        if abs(ansatz) < abs(uniform)
        else "The ansatz is no better than random samples"
    )
    return (
        f"{verdict}{budget}: a mean error of {quantity('error_millihartree', ansatz)}, against "
        f"{quantity('error_millihartree', uniform)} from uniformly random samples "
        f"({counted(len(control.ansatz_error_millihartree), 'seed')})."
    )

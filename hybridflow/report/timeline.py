"""A run's events, paired into intervals: who was busy with what, from when to when.

Pure: events in, value objects out. Times are in seconds since the first event. A run may have been
killed: what has no end is *unfinished* and lasts until something shows that it was over, or to the
end of the run; an end whose start is missing is counted in :attr:`Timeline.unmatched`.
"""

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import TypeVar

import msgspec

from hybridflow.environment import Role
from hybridflow.events import (
    BrokerStarted,
    Event,
    Iteration,
    PhaseEnded,
    PhaseStarted,
    RequestRouted,
    RunEnded,
    RunStarted,
    TaskEnded,
    TaskStarted,
    VendorJobEnded,
    VendorJobStarted,
)

__all__ = ["Phase", "Span", "State", "Task", "Timeline", "VendorJob", "timeline", "union_seconds"]


_Start = TypeVar("_Start", bound=Event)
_End = TypeVar("_End", bound=Event)


class State(StrEnum):
    """How something ended, if it did."""

    ENDED = "ended"
    FAILED = "failed"
    UNFINISHED = "unfinished"


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Something that took time; `start` and `end` are in seconds since the first event."""

    start: float
    end: float
    state: State = State.ENDED
    error: str = ""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


class Phase(Span, frozen=True, kw_only=True):
    """A part of the workflow's main line."""

    name: str


class Task(Span, frozen=True, kw_only=True):
    """A task on a worker; `on_qpu` are the times in which a vendor job with its requests ran."""

    id: str
    name: str
    role: Role
    worker: str
    on_qpu: tuple[tuple[float, float], ...] = ()


class VendorJob(Span, frozen=True, kw_only=True):
    """A vendor job on a resource; what its end would have told is 0 if it is unfinished."""

    id: str
    resource: str
    requests: int
    pubs: int
    shots: int = 0
    qpu_seconds: float = 0.0
    queue_seconds: float = 0.0
    tasks: tuple[str, ...] = ()


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """A run as intervals.

    Attributes
    ----------
    run, ended
        The last start of the workflow and the end that followed it; None where it is missing.
    began
        Time of the first event, in seconds since the epoch; None without any event.
    seconds
        Time from the first event to the last.
    wall_seconds
        Time in which the workflow ran; less than `seconds` if the run was resumed after a pause.
    sessions
        How often the workflow was started in this run's folder.
    phases, tasks, jobs
        In the order of their starts.
    iterations
        As they were reported.
    routed
        Requests that went by a route, as they had their results.
    events, unmatched
        Number of events, and of ends among them whose start is missing.
    """

    run: RunStarted | None
    ended: RunEnded | None
    began: float | None
    seconds: float
    wall_seconds: float
    sessions: int
    phases: tuple[Phase, ...]
    tasks: tuple[Task, ...]
    jobs: tuple[VendorJob, ...]
    iterations: tuple[Iteration, ...]
    events: int
    unmatched: int
    routed: tuple[RequestRouted, ...] = ()


def timeline(events: Iterable[Event]) -> Timeline:
    """Pair the events of a run into intervals."""
    ordered = sorted(events, key=lambda event: event.time)
    began = ordered[0].time if ordered else 0.0
    seconds = ordered[-1].time - began if ordered else 0.0
    starts = [event for event in ordered if isinstance(event, RunStarted)]
    phases, lost_phases = _paired(ordered, PhaseStarted, PhaseEnded, lambda event: event.phase)
    tasks, lost_tasks = _paired(
        ordered, TaskStarted, TaskEnded, lambda event: (event.task, event.worker)
    )
    jobs, lost_jobs = _paired(
        ordered,
        VendorJobStarted,
        VendorJobEnded,
        lambda event: (event.resource, event.vendor_job_id),
    )
    clock = _Clock(began, seconds)
    job_spans = _jobs(jobs, clock, ordered)
    return Timeline(
        run=starts[-1] if starts else None,
        ended=_end_of(ordered),
        began=ordered[0].time if ordered else None,
        seconds=seconds,
        wall_seconds=_wall_seconds(ordered),
        sessions=len(starts),
        phases=_phases(phases, clock),
        tasks=_tasks(tasks, clock, job_spans),
        jobs=job_spans,
        iterations=tuple(event for event in ordered if isinstance(event, Iteration)),
        events=len(ordered),
        unmatched=lost_phases + lost_tasks + lost_jobs,
        routed=tuple(event for event in ordered if isinstance(event, RequestRouted)),
    )


def union_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Return the time that is covered by at least one of the spans."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def _end_of(ordered: Sequence[Event]) -> RunEnded | None:
    """Return the end of the run, unless the workflow was started again after it."""
    marks = [event for event in ordered if isinstance(event, RunStarted | RunEnded)]
    return marks[-1] if marks and isinstance(marks[-1], RunEnded) else None


def _wall_seconds(ordered: Sequence[Event]) -> float:
    """Add up the sessions: each lasts from its start to its end, or to the last event in it."""
    starts = [n for n, event in enumerate(ordered) if isinstance(event, RunStarted)] or [0]
    total = 0.0
    for first, stop in pairwise([*starts, len(ordered)]):
        session = ordered[first:stop]
        ends = [event.time for event in session if isinstance(event, RunEnded)]
        if session:
            total += (ends or [session[-1].time])[-1] - session[0].time
    return total


class _Clock:
    """Turns times since the epoch into seconds since the first event."""

    def __init__(self, began: float, last: float) -> None:
        self._began = began
        self._last = last

    def span(
        self, start: float, end: float | None, over: float | None = None
    ) -> tuple[float, float]:
        """Return an interval; without an end, it lasts until `over`, or to the last event."""
        first = start - self._began
        until = end if end is not None else over
        last = self._last if until is None else until - self._began
        # A clock that was set back must not turn an interval round.
        return first, max(first, last)


def _paired(
    ordered: Iterable[Event],
    start_type: type[_Start],
    end_type: type[_End],
    key: Callable[[_Start | _End], Hashable],
) -> tuple[list[tuple[_Start, _End | None]], int]:
    """Give each start the first end of the same key that follows it; count the ends left over."""
    pairs: list[tuple[_Start, _End | None]] = []
    waiting: dict[Hashable, deque[int]] = defaultdict(deque)
    unmatched = 0
    for event in ordered:
        if isinstance(event, start_type):
            waiting[key(event)].append(len(pairs))
            pairs.append((event, None))
        elif isinstance(event, end_type):
            if not waiting[key(event)]:
                unmatched += 1
                continue
            place = waiting[key(event)].popleft()
            pairs[place] = (pairs[place][0], event)
    return pairs, unmatched


def _state(end: TaskEnded | VendorJobEnded | None) -> State:
    if end is None:
        return State.UNFINISHED
    return State.FAILED if end.error else State.ENDED


def _phases(
    pairs: Iterable[tuple[PhaseStarted, PhaseEnded | None]], clock: _Clock
) -> tuple[Phase, ...]:
    found = []
    for started, ended in pairs:
        start, end = clock.span(started.time, ended.time if ended else None)
        state = State.ENDED if ended else State.UNFINISHED
        found.append(Phase(start=start, end=end, state=state, name=started.phase))
    return tuple(found)


def _jobs(
    pairs: Iterable[tuple[VendorJobStarted, VendorJobEnded | None]],
    clock: _Clock,
    ordered: Iterable[Event],
) -> tuple[VendorJob, ...]:
    brokers: dict[str, list[float]] = defaultdict(list)
    for event in ordered:
        if isinstance(event, BrokerStarted):
            brokers[event.resource].append(event.time)
    found = []
    for started, ended in pairs:
        # A job whose broker died is over, for this run, when the next broker begins.
        over = _first_after(brokers[started.resource], started.time)
        start, end = clock.span(started.time, ended.time if ended else None, over)
        found.append(
            VendorJob(
                start=start,
                end=end,
                state=_state(ended),
                error=ended.error if ended else "",
                id=started.vendor_job_id,
                resource=started.resource,
                requests=started.requests,
                pubs=started.pubs,
                shots=ended.shots if ended else 0,
                qpu_seconds=ended.qpu_seconds if ended else 0.0,
                queue_seconds=ended.queue_seconds if ended else 0.0,
                tasks=started.tasks,
            )
        )
    return tuple(found)


def _tasks(
    pairs: Sequence[tuple[TaskStarted, TaskEnded | None]],
    clock: _Clock,
    jobs: Iterable[VendorJob],
) -> tuple[Task, ...]:
    jobs_of: dict[str, list[VendorJob]] = defaultdict(list)
    for job in jobs:
        for task in job.tasks:
            jobs_of[task].append(job)
    starts: dict[str, list[float]] = defaultdict(list)
    for started, _ in pairs:
        starts[started.worker].append(started.time)
    found = []
    for started, ended in pairs:
        # A worker does one thing at a time: a lost task was over when its next one began.
        over = _first_after(starts[started.worker], started.time)
        start, end = clock.span(started.time, ended.time if ended else None, over)
        found.append(
            Task(
                start=start,
                end=end,
                state=_state(ended),
                error=ended.error if ended else "",
                id=started.task,
                name=started.name,
                role=started.kind,
                worker=started.worker,
                on_qpu=_overlaps(start, end, jobs_of.get(started.task, ())),
            )
        )
    return tuple(found)


def _first_after(times: Sequence[float], moment: float) -> float | None:
    place = bisect_right(times, moment)
    return times[place] if place < len(times) else None


def _overlaps(start: float, end: float, jobs: Iterable[Span]) -> tuple[tuple[float, float], ...]:
    cut = ((max(start, job.start), min(end, job.end)) for job in jobs)
    return tuple((first, last) for first, last in cut if first < last)

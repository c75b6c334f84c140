"""Where a run's intervals are drawn: a lane for each QPU and each worker. Pure.

Few intervals are drawn one by one, as :class:`Bar` s; where they overlap in a lane, the lane is
split into rows. Many are added up, as :class:`Cell` s: how busy the lane was in each slice of time.
Many workers of a kind share lanes, in which everything is a cell. What was drawn how stands in
:class:`Lane`, so that a page can say so.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from math import ceil

import msgspec

from hybridflow.environment import Role
from hybridflow.report.timeline import Span, State, Task, Timeline, VendorJob

__all__ = [
    "Arrangement",
    "Bar",
    "Cell",
    "Kind",
    "Lane",
    "arrange",
    "items_of",
    "place_of",
    "rows_of",
]

MOST_BARS = 1500
MOST_LANES = 40
MOST_CELLS = 9000
MOST_MARKS = 300
_ROW = 0.5
_TALLEST = 4.0


class Kind(StrEnum):
    """What a lane holds, in the order in which lanes stand from the top."""

    QPU = "QPU"
    QUANTUM = "quantum"
    CLASSICAL = "classical"


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """A stripe of the timeline.

    Attributes
    ----------
    title
        What stands beside it.
    kind
        What it holds.
    places
        Names of the QPU, or of the workers, that it stands for.
    top, bottom
        Where it stands; 0 is the top of all lanes and the bottom is the larger number.
    intervals
        How many tasks, or vendor jobs, it shows.
    slice_seconds
        None if they are drawn one by one; else the length of a cell.
    """

    title: str
    kind: Kind
    places: tuple[str, ...]
    top: float
    bottom: float
    intervals: int
    slice_seconds: float | None


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One task, or vendor job, and its place; drawn from its start until `until`."""

    item: Task | VendorJob
    until: float
    lane: Lane
    top: float
    bottom: float


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A slice of a lane's time: `busy` is the part of it, from 0 to 1, that its places worked.

    What never ended counts as begun, and not as work: nobody knows how long it lasted.
    """

    lane: Lane
    start: float
    end: float
    busy: float
    begun: int


class Arrangement(msgspec.Struct, frozen=True, kw_only=True):
    """All that a timeline draws; `hidden_marks` failed or unfinished intervals found no place."""

    lanes: tuple[Lane, ...]
    bars: tuple[Bar, ...]
    cells: tuple[Cell, ...]
    hidden_marks: int


def arrange(run: Timeline) -> Arrangement:
    """Give each interval of a run a place."""
    groups = list(_groups(run))
    lanes: list[Lane] = []
    bars: list[Bar] = []
    cells: list[Cell] = []
    marks: list[Bar] = []
    condensed = _condensed(groups)
    slices = _slices(sum(group.kind in condensed for group in groups))
    top = 0.0
    for group in groups:
        rows = [0] * len(group.items) if group.kind in condensed else rows_of(group.items)
        depth = max(rows, default=0) + 1
        height = min(max(1.0, depth * _ROW), _TALLEST)
        lane = Lane(
            title=group.title,
            kind=group.kind,
            places=group.places,
            top=top,
            bottom=top + height,
            intervals=len(group.items),
            slice_seconds=run.seconds / slices if group.kind in condensed else None,
        )
        lanes.append(lane)
        top += height
        placed = _bars(lane, group.items, rows, depth)
        if group.kind in condensed:
            cells += _cells(lane, group.items, run.seconds, slices)
            marks += [bar for bar in placed if bar.item.state is not State.ENDED]
        else:
            bars += placed
    return Arrangement(
        lanes=tuple(lanes),
        bars=(*bars, *marks[:MOST_MARKS]),
        cells=tuple(cells),
        hidden_marks=max(0, len(marks) - MOST_MARKS),
    )


class _Group(msgspec.Struct, frozen=True):
    kind: Kind
    title: str
    places: tuple[str, ...]
    items: list[Task | VendorJob]


def items_of(run: Timeline, kind: Kind) -> Sequence[Task | VendorJob]:
    """Return the vendor jobs, or the tasks of a kind, of a run."""
    if kind is Kind.QPU:
        return run.jobs
    role = Role.QUANTUM if kind is Kind.QUANTUM else Role.CLASSICAL
    return [task for task in run.tasks if task.role is role]


def place_of(item: Task | VendorJob) -> str:
    """Return the name of the worker or QPU where something happened."""
    return item.worker if isinstance(item, Task) else item.resource


def _groups(run: Timeline) -> Iterator[_Group]:
    for kind in Kind:
        by_place: dict[str, list[Task | VendorJob]] = defaultdict(list)
        for item in items_of(run, kind):
            by_place[place_of(item)].append(item)
        yield from _share(kind, by_place)


def _share(kind: Kind, by_place: dict[str, list[Task | VendorJob]]) -> Iterator[_Group]:
    """Give each place a lane, or several places one if there are too many."""
    names = list(by_place)
    size = max(1, ceil(len(names) / MOST_LANES))
    for first in range(0, len(names), size):
        places = tuple(names[first : first + size])
        items = [item for place in places for item in by_place[place]]
        items.sort(key=lambda item: item.start)
        number = f"{first + 1}" if len(places) == 1 else f"{first + 1} to {first + len(places)}"
        title = f"QPU {places[0]}" if (kind, size) == (Kind.QPU, 1) else f"{kind} {number}"
        yield _Group(kind, title, places, items)


def _condensed(groups: Iterable[_Group]) -> set[Kind]:
    counts: dict[Kind, int] = defaultdict(int)
    shared = set()
    for group in groups:
        counts[group.kind] += len(group.items)
        if len(group.places) > 1:
            shared.add(group.kind)
    return shared | {kind for kind, count in counts.items() if count > MOST_BARS}


def _slices(lanes: int) -> int:
    return max(50, min(600, MOST_CELLS // max(1, lanes)))


def rows_of(items: Sequence[Span]) -> list[int]:
    """Give each interval the lowest row that is free when it starts; sorted by start."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    rows = []
    for item in items:
        while busy and busy[0][0] <= item.start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        row = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (item.end, row))
        rows.append(row)
    return rows


def _bars(
    lane: Lane, items: Sequence[Task | VendorJob], rows: Sequence[int], depth: int
) -> list[Bar]:
    height = (lane.bottom - lane.top) / depth
    return [
        Bar(
            item=item,
            # Among cells a mark says that something went wrong there, and hides no more than that.
            until=min(item.end, item.start + (lane.slice_seconds or item.seconds)),
            lane=lane,
            top=lane.top + row * height,
            bottom=lane.top + (row + 1) * height,
        )
        for item, row in zip(items, rows, strict=True)
    ]


def _cells(
    lane: Lane, items: Iterable[Task | VendorJob], seconds: float, slices: int
) -> Iterator[Cell]:
    """Add up, for each slice of time, how long each place was busy in it."""
    length = seconds / slices
    if length <= 0.0:
        return
    busy = [0.0] * slices
    begun = [0] * slices
    for item in items:
        first = min(slices - 1, int(item.start / length))
        last = min(slices - 1, int(item.end / length))
        begun[first] += 1
        if item.state is State.UNFINISHED:
            continue
        for n in range(first, last + 1):
            busy[n] += max(0.0, min(item.end, (n + 1) * length) - max(item.start, n * length))
    for n in range(slices):
        if busy[n] or begun[n]:
            yield Cell(
                lane=lane,
                start=n * length,
                end=(n + 1) * length,
                busy=min(1.0, busy[n] / (length * len(lane.places))),
                begun=begun[n],
            )

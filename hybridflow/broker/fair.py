"""Who goes next: workflows by fair share, requests of one workflow by priority and age.

::

    workflow a   tag 3.1 ──► group x: [a1 a4]   group y: [a2]
    workflow b   tag 2.8 ──► group x: [b1]                        b goes first, a1 and a4 may ride

A workflow's *tag* is the device seconds that it was given, divided by its weight (start-time fair
queueing: Goyal, Vin and Cheng, SIGCOMM 1996). The one with the lowest tag says which batch goes
next; requests of all workflows that can share it ride along, the lowest tag first, as long as
there is room. Nobody rides who has already been given `ahead` seconds more than the lowest, so that
a wait is bounded whatever the others ask for: with B the longer of `ahead` and the longest request,
a workflow's first request waits for at most ``2 B Σ (1 + w / own weight)`` device seconds, the sum
over the other workflows' weights `w`.

A step of priority is worth `ageing` seconds of waiting: what has waited for so much longer goes
first all the same. For one thread.
"""

import math
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterator
from typing import NamedTuple

from hybridflow.broker.entry import Entry
from hybridflow.broker.estimate import Estimate
from hybridflow.records import ClientInfo

__all__ = ["FairOrder", "Room"]

_Line = OrderedDict[Entry, None]


class Room(NamedTuple):
    """What a batch may hold: PUBs, bytes and work (see :mod:`hybridflow.broker.estimate`)."""

    pubs: float = math.inf
    bytes: float = math.inf
    work: float = math.inf


class _Load:
    # What requests need of a room.
    __slots__ = ("bytes", "pubs", "work")

    def __init__(self) -> None:
        self.pubs = self.bytes = 0
        self.work = 0.0

    def add(self, entry: Entry) -> None:
        self.pubs += len(entry.request.pubs)
        self.bytes += entry.size
        self.work += entry.work

    def remove(self, entry: Entry) -> None:
        self.pubs -= len(entry.request.pubs)
        self.bytes -= entry.size
        self.work -= entry.work

    def exceeds(self, room: Room) -> bool:
        return self.pubs > room.pubs or self.bytes > room.bytes or self.work > room.work

    def fills(self, room: Room) -> bool:
        return self.pubs >= room.pubs or self.bytes >= room.bytes or self.work >= room.work


class _Workflow:
    # A workflow's waiting requests, by what they ride with and by priority, in order of arrival.
    __slots__ = ("lines", "tag", "weight")

    def __init__(self, weight: float, tag: float) -> None:
        self.weight = weight
        self.tag = tag
        self.lines: dict[Hashable, dict[int, _Line]] = {}

    def add(self, entry: Entry) -> None:
        lines = self.lines.setdefault(entry.group, {})
        lines.setdefault(entry.request.priority, OrderedDict())[entry] = None

    def remove(self, entry: Entry) -> bool:
        lines = self.lines.get(entry.group, {})
        line = lines.get(entry.request.priority)
        if line is None or entry not in line:
            return False
        del line[entry]
        if not line:
            del lines[entry.request.priority]
        if not lines:
            del self.lines[entry.group]
        return True

    def first(self, group: Hashable, ageing: float) -> Entry:
        lines = self.lines[group]
        if len(lines) == 1:
            return next(iter(next(iter(lines.values()))))
        heads = [next(iter(line)) for line in lines.values()]
        return min(heads, key=lambda entry: entry.arrived - ageing * entry.request.priority)

    def head(self, ageing: float) -> Entry:
        heads = [self.first(group, ageing) for group in self.lines]
        return min(heads, key=lambda entry: entry.arrived - ageing * entry.request.priority)


class FairOrder:
    """Waiting requests, in the order in which they may go.

    Parameters
    ----------
    estimate
        What work takes on the device.
    ahead
        Device seconds that a workflow may be given before others that wait.
    ageing
        Seconds of waiting that a step of priority is worth.
    """

    def __init__(self, estimate: Estimate, *, ahead: float, ageing: float) -> None:
        self._estimate = estimate
        self._ahead = ahead
        self._ageing = ageing
        self._waiting: dict[str, _Workflow] = {}
        self._tags: dict[str, float] = {}
        self._now = 0.0
        self._loads: defaultdict[Hashable, _Load] = defaultdict(_Load)
        self._count = 0

    def __len__(self) -> int:
        """Return the number of waiting requests."""
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        for workflow in self._waiting.values():
            for lines in workflow.lines.values():
                for line in lines.values():
                    yield from line

    def clients(self) -> list[ClientInfo]:
        """Return who waits, once for each request."""
        return [entry.request.client for entry in self]

    def add(self, entry: Entry) -> None:
        """Let a request wait."""
        name = entry.request.client.workflow
        workflow = self._waiting.get(name)
        if workflow is None:
            tag = max(self._tags.pop(name, 0.0), self._now)
            workflow = self._waiting[name] = _Workflow(entry.request.client.weight, tag)
        workflow.add(entry)
        self._loads[entry.group].add(entry)
        self._count += 1

    def remove(self, entry: Entry) -> None:
        """Take a request out; no error if it does not wait."""
        name = entry.request.client.workflow
        workflow = self._waiting.get(name)
        if workflow is None or not workflow.remove(entry):
            return
        self._count -= 1
        load = self._loads[entry.group]
        load.remove(entry)
        if not load.pubs:
            del self._loads[entry.group]
        if not workflow.lines:
            self._leave(name, workflow)

    def _leave(self, name: str, workflow: _Workflow) -> None:
        # What it was given counts on, for when it comes back while others wait.
        del self._waiting[name]
        if self._waiting:
            self._tags[name] = workflow.tag
            return
        self._now = max(self._now, workflow.tag)
        self._tags.clear()

    def fills(self, room: Room) -> bool:
        """Whether the next batch would be as large as it can be."""
        if not self._count:
            return False
        group = self._next().head(self._ageing).group
        return group is None or self._loads[group].fills(room)

    def _next(self) -> _Workflow:
        return min(self._waiting.values(), key=_tag)

    def take(self, room: Room, most: int = sys.maxsize) -> list[Entry]:
        """Take the next batch, of at most so many requests; at least one, whatever the room."""
        if not self._count:
            return []
        first = self._next().head(self._ageing)
        taken: list[Entry] = []
        load = _Load()
        entry: Entry | None = first
        while entry is not None:
            load.add(entry)
            if taken and (load.exceeds(room) or len(taken) >= most):
                break
            taken.append(entry)
            self._charge(entry)
            self.remove(entry)
            entry = None if first.group is None else self._rider(first.group)
        self._share_fixed_cost(taken)
        return taken

    def _rider(self, group: Hashable) -> Entry | None:
        if not self._waiting:
            return None
        lowest = self._next()
        self._now = max(self._now, lowest.tag)
        able = [one for one in self._waiting.values() if group in one.lines]
        if not able:
            return None
        workflow = min(able, key=_tag)
        if workflow.tag > lowest.tag + self._ahead / workflow.weight:
            return None
        return workflow.first(group, self._ageing)

    def _charge(self, entry: Entry) -> None:
        workflow = self._waiting[entry.request.client.workflow]
        self._now = max(self._now, self._next().tag)
        workflow.tag += self._estimate.rate * entry.work / workflow.weight

    def _share_fixed_cost(self, taken: list[Entry]) -> None:
        share = self._estimate.fixed / len(taken)
        for entry in taken:
            client = entry.request.client
            workflow = self._waiting.get(client.workflow)
            if workflow is not None:
                workflow.tag += share / workflow.weight
            elif client.workflow in self._tags:
                self._tags[client.workflow] += share / client.weight


def _tag(workflow: _Workflow) -> float:
    return workflow.tag

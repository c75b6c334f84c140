"""What is drawn of many phases or many rounds: few enough for a page of 5 MB. Pure."""

from collections.abc import Sequence

from hybridflow.events import Iteration
from hybridflow.report.timeline import Phase

__all__ = ["MOST_PHASES", "MOST_ROUNDS", "fewer_phases", "fewer_rounds"]

MOST_PHASES = 500
"""Phases that are drawn: the longest."""

MOST_ROUNDS = 2000
"""Rounds that are drawn of one picture, or little more."""


def fewer_phases(phases: Sequence[Phase]) -> Sequence[Phase]:
    """Return all phases, or the longest of them in the order in which they began."""
    if len(phases) <= MOST_PHASES:
        return phases
    longest = sorted(phases, key=lambda phase: phase.seconds, reverse=True)[:MOST_PHASES]
    return sorted(longest, key=lambda phase: phase.start)


def fewer_rounds(iterations: Sequence[Iteration], names: Sequence[str]) -> Sequence[Iteration]:
    """Return all rounds, or the first, the last, and in each stretch the extremes of each figure.

    A line through them looks like one through all: no peak is lost.
    """
    if len(iterations) <= MOST_ROUNDS:
        return iterations
    stretch = -(-len(iterations) * 2 * len(names) // MOST_ROUNDS)
    kept = {0, len(iterations) - 1}
    for start in range(0, len(iterations), stretch):
        places = range(start, min(start + stretch, len(iterations)))
        for name in names:
            told = [place for place in places if name in iterations[place].values]
            if told:
                ordered = sorted((iterations[place].values[name], place) for place in told)
                kept |= {ordered[0][1], ordered[-1][1]}
    return [iterations[place] for place in sorted(kept)]

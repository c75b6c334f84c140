"""How long vendor jobs take: what the backend declares, corrected by what was measured.

::

    seconds = fixed + rate · work

The *work* of a request is what its circuits and shots would take by the backend's own declaration,
in seconds; where it declares nothing, a microsecond a shot, which at least compares requests. The
line through the measured vendor jobs, of which the latest count most, says how long that takes.
"""

import math

from hybridflow.records import Capabilities, PackedPub, Request

__all__ = ["Estimate", "work_of"]

_UNDECLARED_SHOT_SECONDS = 1e-6
_LEAST_PRECISION = 1e-5
_MEMORY = 0.95
_DOUBT = 0.05
"""How much the measured works must differ, relative to their square, for the line to follow."""


def work_of(request: Request, capabilities: Capabilities) -> float:
    """Return what a request asks of a device; greater than 0."""
    circuit, shot = capabilities.circuit_seconds, capabilities.shot_seconds
    if not circuit and not shot:
        shot = _UNDECLARED_SHOT_SECONDS
    return sum(pub.circuits * (circuit + _shots(pub) * shot) for pub in request.pubs)


def _shots(pub: PackedPub) -> float:
    # An estimator says a precision: its shots go with the inverse square.
    if pub.shots is not None:
        return pub.shots
    return max(1.0, max(pub.precision, _LEAST_PRECISION) ** -2) if pub.precision else 1.0


class Estimate:
    """Seconds of a vendor job, by its work.

    Parameters
    ----------
    capabilities
        What the backend declares.

    Attributes
    ----------
    fixed
        Seconds of a job without work.
    rate
        Seconds for each unit of work.
    margin
        Seconds by which the estimates were wrong of late, twice.
    """

    def __init__(self, capabilities: Capabilities) -> None:
        self._declared = bool(capabilities.circuit_seconds or capabilities.shot_seconds)
        self._first = self.fixed = capabilities.fixed_seconds
        self.rate = 1.0
        self.margin = 0.0
        self._count = self._works = self._seconds = self._squares = self._products = 0.0

    def seconds(self, work: float) -> float:
        """Return how long a vendor job takes."""
        return self.fixed + self.rate * work

    def within(self, seconds: float) -> float:
        """Return the most work that a vendor job of so many seconds can do; may be negative."""
        left = seconds - self.fixed
        if self.rate > 0:
            return left / self.rate
        return math.copysign(math.inf, left)

    def learn(self, work: float, seconds: float) -> None:
        """Take a measured vendor job into account."""
        wrong = 2 * abs(seconds - self.seconds(work)) if self._count else 0.0
        self.margin = _MEMORY * self.margin + (1 - _MEMORY) * wrong
        self._count = _MEMORY * self._count + 1
        self._works = _MEMORY * self._works + work
        self._seconds = _MEMORY * self._seconds + seconds
        self._squares = _MEMORY * self._squares + work * work
        self._products = _MEMORY * self._products + work * seconds
        self._follow()

    def _follow(self) -> None:
        work, seconds = self._works / self._count, self._seconds / self._count
        variance = self._squares / self._count - work * work
        covariance = self._products / self._count - work * seconds
        guess = 1.0 if self._declared else max(0.0, seconds - self._first) / work
        doubt = _DOUBT * work * work
        rate = (max(0.0, covariance) + doubt * guess) / (max(0.0, variance) + doubt)
        self.rate = min(rate, seconds / work)
        self.fixed = max(0.0, seconds - self.rate * work)

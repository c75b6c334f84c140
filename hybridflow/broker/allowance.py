"""How much may be started now: by the cap on batches, the run's budget and the slot's end.

Device seconds, which are billed, and seconds on the clock, which may hold a vendor's queue and the
way there, are estimated apart (``estimate.py``), each from the vendor jobs that were measured.
"""

import math
import time
from collections.abc import Sequence

from hybridflow.broker.estimate import Estimate
from hybridflow.broker.fair import Room
from hybridflow.broker.journal import Journal
from hybridflow.broker.work import Limits, VendorJob
from hybridflow.errors import BudgetError, DeadlineError, HybridflowError
from hybridflow.records import Capabilities, Resource, Usage

__all__ = ["Allowance"]

_OF_THE_TIME = 0.95
"""Part of the time that is left which a batch of several requests may fill: time goes on."""

_ROUNDING = 1e-6

_CLOCKS_SECONDS = 2.0
"""By how much the clock here may be behind that of Slurm, at most."""


class Allowance:
    """Estimates vendor jobs before they start, and books them after.

    Parameters
    ----------
    resource, capabilities
        What is driven.
    limits
        Bounds.
    journal
        Knows what other brokers of the run have booked.

    Attributes
    ----------
    device
        What vendor jobs cost, in device seconds.
    deadline
        Unix time at which the slot ends; None: it has no end. It may be set in any thread.
    """

    def __init__(
        self, resource: Resource, capabilities: Capabilities, limits: Limits, journal: Journal
    ) -> None:
        self.device = Estimate(capabilities)
        self.deadline = limits.deadline
        self._clock = Estimate(capabilities)
        self._resource = resource
        self._pubs = capabilities.max_pubs or float("inf")
        self._bytes = min(limits.batch_bytes, capabilities.max_bytes or limits.batch_bytes)
        self._overlaps = capabilities.lanes > 1 and not capabilities.serial
        self._lanes = max(1, min(capabilities.lanes, resource.max_in_flight))
        self._journal = journal
        self._booked = 0.0
        self._last_end = 0.0

    def room(self, running: Sequence[VendorJob]) -> Room:
        """Return what the next batch may hold."""
        work = self.device.within(self._resource.batch_seconds)
        if self._resource.budget_seconds is not None:
            work = min(work, self.device.within(self._budget_left(running)))
        if self.deadline is not None:
            left = self._time_left(running) - self._clock.margin
            work = min(work, self._clock.within(_OF_THE_TIME * left))
        return Room(self._pubs, self._bytes, work)

    def ahead(self, running: Sequence[VendorJob], requests: int, work: float) -> float:
        """Return how long what runs, and so many requests that wait, take; in any thread.

        The vendor job that the last of them ride in has room for more, and is not counted whole.
        """
        if self._overlaps and not work and len(running) < self._lanes:
            return 0.0
        left = sum(max(0.0, self._clock.seconds(job.load) - job.age) for job in running)
        most = self.device.within(self._resource.batch_seconds)
        batches = max(work / most if most > 0 else requests, requests / self._pubs)
        waiting = self._clock.rate * work + self._clock.fixed * math.floor(batches)
        return (left + waiting) / (self._lanes if self._overlaps else 1)

    def own(self) -> tuple[float, float]:
        """Return what a vendor job takes: seconds without work, and for each unit of work."""
        return self._clock.fixed, self._clock.rate

    def refusal(self, load: float, running: Sequence[VendorJob]) -> HybridflowError | None:
        """Return why work must not be started; None if it may."""
        return self._over_budget(load, running) or self._too_late(load, running)

    @property
    def time_is_up(self) -> bool:
        """Whether the slot's end has come: Slurm ends what runs in it, but not at the vendor."""
        return self.deadline is not None and time.time() > self.deadline - _CLOCKS_SECONDS

    def learn(self, job: VendorJob, usage: Usage) -> None:
        """Take note of how long a vendor job took that ended well."""
        now = time.monotonic()
        # The time in which it waited for ours before it was not its own.
        began = job.started if self._overlaps else max(job.started, self._last_end)
        self._last_end = now
        if job.load:
            self._clock.learn(job.load, now - began)
            self.device.learn(job.load, usage.qpu_seconds)

    def book(self, job: VendorJob, usage: Usage | None) -> None:
        """Book what a vendor job has cost; what is not known is booked as it was estimated."""
        self._booked += self.device.seconds(job.load) if usage is None else usage.qpu_seconds

    # The budget

    def _budget_left(self, running: Sequence[VendorJob]) -> float:
        assert self._resource.budget_seconds is not None
        return self._resource.budget_seconds - self._spent(running)

    def _spent(self, running: Sequence[VendorJob]) -> float:
        in_flight = sum(self.device.seconds(job.load) for job in running)
        return self._booked + self._journal.booked() + in_flight

    def _over_budget(self, load: float, running: Sequence[VendorJob]) -> BudgetError | None:
        budget = self._resource.budget_seconds
        if budget is None:
            return None
        spent, needed = self._spent(running), self.device.seconds(load)
        if spent + needed <= budget + _ROUNDING:
            return None
        return BudgetError(
            f"the request would take {needed:.3g} s of {self._resource.name!r}; of the run's "
            f"budget of {budget:g} s, {spent:.3g} s are used or under way: nothing was sent; raise "
            f"`budget_seconds` in [qpu.{self._resource.name}], or ask for fewer shots",
            resource=self._resource.name,
        )

    # The slot's end

    def _time_left(self, running: Sequence[VendorJob]) -> float:
        assert self.deadline is not None
        before = 0.0
        if not self._overlaps:
            before = sum(max(0.0, self._clock.seconds(job.load) - job.age) for job in running)
        return self.deadline - time.time() - before

    def _too_late(self, load: float, running: Sequence[VendorJob]) -> DeadlineError | None:
        # What cannot end before the slot does goes back to the engine, which has other slots.
        if self.deadline is None:
            return None
        left, needed = self._time_left(running), self._clock.seconds(load) + self._clock.margin
        if needed <= left:
            return None
        return DeadlineError(
            f"the slot of {self._resource.name!r} ends in {max(0.0, left):.0f} s, a vendor job "
            f"may take {needed:.0f} s: nothing was started; try again in another slot, or ask "
            "for a longer time limit",
            resource=self._resource.name,
        )

"""Vendor jobs that other brokers of the run have begun: waited for, or taken over from the dead."""

import logging
import time
from collections.abc import Sequence

from hybridflow.broker.intake import Intake
from hybridflow.broker.journal import Journal, LeftBehind
from hybridflow.broker.lanes import Lanes
from hybridflow.broker.outcomes import Outcomes
from hybridflow.broker.vendor import Vendor
from hybridflow.broker.work import VendorJob, Work
from hybridflow.errors import ResourceError, VendorJobError
from hybridflow.records import Capabilities, Resource

__all__ = ["Adoption"]

_log = logging.getLogger(__name__)
_LOOK_UP_SECONDS = 30.0


class Adoption:
    """Follows the vendor jobs of others, and makes those that are nobody's any more ours.

    Parameters
    ----------
    resource, capabilities
        What is driven.
    journal, vendor, lanes, outcomes, intake
        Who knows of such jobs, who can be asked about them, where they run on, who is told of
        them, and who waits for them.
    """

    def __init__(
        self,
        resource: Resource,
        capabilities: Capabilities,
        *,
        journal: Journal,
        vendor: Vendor,
        lanes: Lanes,
        outcomes: Outcomes,
        intake: Intake,
    ) -> None:
        self._resource = resource
        self._has_tags = capabilities.tags
        self._journal = journal
        self._vendor = vendor
        self._lanes = lanes
        self._outcomes = outcomes
        self._intake = intake
        self._left: list[LeftBehind] = []
        self._not_found_yet: list[LeftBehind] = []
        self._look_up_at = 0.0

    @property
    def waits(self) -> bool:
        """Whether there is something to look after, though nothing of ours happens."""
        return self._journal.awaits or bool(self._not_found_yet)

    def begin(self) -> None:
        """Adopt what is there when this broker begins."""
        self._adopt(self._journal.left_behind())

    def turn(self) -> None:
        """Look what has become of those that are waited for, and of those not found yet."""
        self.listen()
        left, self._left = self._left, []
        self._adopt(left)
        if self._not_found_yet and time.monotonic() >= self._look_up_at:
            self._look_up_at = time.monotonic() + _LOOK_UP_SECONDS
            again, self._not_found_yet = self._not_found_yet, []
            self._adopt(again)

    def listen(self) -> None:
        """Look what has become of those that are waited for, without asking the vendor."""
        for found in self._journal.elsewhere():
            if isinstance(found, LeftBehind):
                self._left.append(found)
            else:
                self._intake.ended(found)

    def _adopt(self, jobs: Sequence[LeftBehind]) -> None:
        for left in jobs:
            # Paid for, perhaps, and wanted by the run.
            job = VendorJob(Work([]), left.cuts, tag=left.tag, id=left.id)
            if job.id is not None or self._has_tags:
                self._attach(job, left)
            else:
                self._journal.uncertain(job)
                self._intake.ended(job.tag)

    def _attach(self, job: VendorJob, left: LeftBehind) -> None:
        try:
            job.id = job.id or self._vendor.find(left.tag, patiently=False)
        except ResourceError as error:
            # It is asked again later, and what waits for it is not to wait for that.
            _log.warning("vendor job with tag %s cannot be looked up now: %s", left.tag, error)
            self._not_found_yet.append(left)
            self._outcomes.fail(self._intake.attached(left.tag), error)
            return
        if job.id is None:
            never = VendorJobError(f"{self._resource.name!r} knows no vendor job {left.tag}")
            self._outcomes.void(job, never)
            self._intake.ended(job.tag)
            return
        self._lanes.running.append(job)
        self._outcomes.started(job)

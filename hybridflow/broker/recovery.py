"""What becomes of a vendor job that went wrong, so that nothing is paid for twice in silence.

::

    refused for now (network, 429, 5xx)   nothing was started: once more, after a pause; what can
                                          go elsewhere is declined
    failed for now, and not billed        the same
    failed for good                       the halves, until the guilty request stands alone and
                                          gets the vendor's reason
    backend lost   while it ran           a durable job is attached to; a simulator runs it again
                   while it started       found by its tag, or it never was; without tags nobody
                                          can say, and ``on_uncertain`` decides
"""

import logging
from collections.abc import Callable

from hybridflow.broker.intake import Intake
from hybridflow.broker.lanes import Lanes, is_free
from hybridflow.broker.outcomes import Outcomes
from hybridflow.broker.vendor import Vendor
from hybridflow.broker.work import Limits, VendorJob, Work
from hybridflow.errors import (
    BackendLostError,
    HybridflowError,
    ResourceError,
    UncertainError,
    VendorJobError,
)
from hybridflow.records import Capabilities, Resource, Usage

__all__ = ["Recovery"]

_log = logging.getLogger(__name__)


class Recovery:
    """Decides about vendor jobs that were refused, have failed or were lost."""

    def __init__(
        self,
        resource: Resource,
        capabilities: Capabilities,
        limits: Limits,
        *,
        vendor: Vendor,
        lanes: Lanes,
        outcomes: Outcomes,
        intake: Intake,
        finished: Callable[[], bool],
    ) -> None:
        self._resource = resource
        self._capabilities = capabilities
        self._is_free = is_free(capabilities)
        self._limits = limits
        self._vendor = vendor
        self._lanes = lanes
        self._outcomes = outcomes
        self._intake = intake
        self._finished = finished

    # Failed

    def refused(self, job: VendorJob, error: HybridflowError) -> None:
        """Deal with a job that the vendor did not take."""
        self._outcomes.void(job, error)
        self._intake.ended(job.tag)
        self._repeat_or_fail(job.work, error, was_billed=False, may_repeat=True)

    def failed(self, job: VendorJob, error: HybridflowError, *, may_repeat: bool) -> None:
        """Deal with a vendor job that has no results, and will have none.

        Parameters
        ----------
        job, error
            The job, and why.
        may_repeat
            Whether running its requests again pays for nothing twice.
        """
        usage = self._outcomes.void(job, error)
        self._intake.ended(job.tag)
        was_billed = usage != Usage()
        self._repeat_or_fail(job.work, error, was_billed=was_billed, may_repeat=may_repeat)

    def unknown(self, job: VendorJob, error: HybridflowError) -> None:
        """Deal with a vendor job of which nobody can say what came: it may well go on there.

        Its requests fail. It is asked about as long as this broker lives, and by later ones of the
        run; a request for the same waits for it.
        """
        requests = [*job.work.entries, *self._intake.attached(job.tag)]
        job.give_up()
        self._outcomes.fail(requests, error)

    def _repeat_or_fail(
        self, work: Work, error: HybridflowError, *, was_billed: bool, may_repeat: bool
    ) -> None:
        for_now = may_repeat and error.transient and not was_billed
        if for_now:
            work.entries = self._intake.decline(work.wanted, error)
        if for_now and self._waits(work):
            self._lanes.again.append(work)
        elif may_repeat and _may_be_a_circuits_fault(error) and len(work.entries) > 1:
            # One bad PUB must fail its own request alone.
            self._lanes.again.extend(work.halves())
        else:
            self._outcomes.fail(work.entries, error)

    def _waits(self, work: Work) -> bool:
        # Whether the vendor is asked once more, after a pause that holds for all.
        self._lanes.refusals.failed(self._limits)
        work.refusals.failed(self._limits)
        patience = self._limits.patience_seconds
        clocks = self._lanes.refusals, work.refusals
        return not any(clock.hopeless(self._limits, patience) for clock in clocks)

    # Lost

    def unanswered(self, job: VendorJob, error: HybridflowError) -> None:
        """Deal with a vendor whose answer to a start made no sense: it may have taken the job."""
        self._find(job, error)

    def lost(self, error: BackendLostError, starting: VendorJob | None = None) -> None:
        """Deal with the loss of the backend, perhaps while a job was being started."""
        _log.warning("the backend of %r was lost: %s", self._resource.name, error)
        jobs, self._lanes.running = self._lanes.running, []
        for job in jobs:
            job.work.losses += 1
            self._save(job, error)
        if starting is not None:
            starting.work.losses += 1
        self._intake.decline([], error)
        try:
            if not self._finished() or starting is not None:
                self._vendor.acquire_again(error)
        except BackendLostError:
            # Where there are tags, the next broker looks it up.
            if starting is not None and not self._capabilities.tags:
                self._unheard(starting, error)
            raise
        if starting is not None:
            self._find(starting, error)

    def _save(self, job: VendorJob, error: BackendLostError) -> None:
        if self._capabilities.durable_jobs:
            self._lanes.running.append(job)
            if job.work.losses > self._limits.attempts:
                self.unknown(job, error)
            return
        self._outcomes.void(job, error)
        self._intake.ended(job.tag)
        self._run_again_if_free(job.work, error)

    def _run_again_if_free(self, work: Work, error: HybridflowError) -> None:
        if self._is_free and work.losses == 1:
            self._lanes.again.append(work)
        elif self._is_free and len(work.entries) > 1:
            # Lost twice under the same work: one of the requests may be what kills the backend.
            self._lanes.again.extend(work.halves())
        else:
            self._outcomes.fail(work.entries, error)

    def _find(self, job: VendorJob, error: HybridflowError) -> None:
        if self._is_free or not self._capabilities.tags:
            self._unheard(job, error)
            return
        try:
            job.id = self._vendor.find(job.tag)
        except ResourceError as unanswered:
            _log.warning("vendor job %s cannot be looked up: %s", job.tag, unanswered)
            self._unheard(job, error)
            return
        if job.id is not None:
            self._lanes.running.append(job)
            self._outcomes.started(job)
        else:
            self.refused(job, error)

    def _unheard(self, job: VendorJob, error: HybridflowError) -> None:
        # Whether the vendor has taken it, nobody can say.
        if self._is_free:
            self._outcomes.void(job, error)
            self._intake.ended(job.tag)
            self._run_again_if_free(job.work, error)
            return
        advice = self._outcomes.uncertain(job)
        self._intake.ended(job.tag)
        if self._resource.on_uncertain == "repeat":
            self._lanes.again.append(job.work)
        else:
            self._outcomes.fail(job.work.entries, _uncertain(error, advice))


def _may_be_a_circuits_fault(error: HybridflowError) -> bool:
    # Or else (a wrong key, a device that is retired) the halves would fail as well.
    is_the_way = isinstance(error, ResourceError) and not isinstance(error, VendorJobError)
    return not error.transient and not is_the_way


def _uncertain(error: HybridflowError, advice: str) -> UncertainError:
    return UncertainError(
        f"{error} (that was while a vendor job was being started: whether that job runs, and is "
        f"paid for, is not known; {advice}; with `on_uncertain = "
        '"repeat"` in the site file it is repeated without asking)',
        resource=error.resource,
    )

"""What the dispatcher tells its ledger, and asks of it: the seam between the two.

::

    request ──admit──► None: it waits for a vendor job
                  │    Attached: a vendor job under way has it
                  └──► Reply: it was paid for already
    vendor job   intend ──► started ──► stored ──► delivered, for each request
                    │          └──► void                its requests wait again, or fail
                    └──► uncertain                      its id was lost, and nobody can say

The dispatcher knows nothing of files; everything here is called in its thread. What a step
announces is durable when its method returns: `intend` before the vendor is asked, `started` before
anything else, `stored` before anybody gets a result. Only `admit` and `intend` may raise: a job
that runs, or has run, is paid for, and goes on whatever becomes of its record.
"""

from collections.abc import Sequence
from typing import Protocol

from hybridflow.broker.entry import Entry
from hybridflow.broker.merging import Cut
from hybridflow.broker.work import VendorJob
from hybridflow.errors import HybridflowError
from hybridflow.records import ClientInfo, Record, Reply, Usage

__all__ = ["Attached", "Claimed", "Journal", "LeftBehind", "NoJournal"]


class Attached(Record, frozen=True, kw_only=True):
    """A request's results are to come from a vendor job under way, known by its tag."""

    tag: str


Claimed = Reply | Attached
"""What a request that is not to be paid for again gets."""


class LeftBehind(Record, frozen=True, kw_only=True):
    """A vendor job of a broker that has ended, whose results nobody has stored.

    Attributes
    ----------
    tag
        The tag it was started with.
    id
        The vendor's id; None: it was lost, or the vendor was never asked.
    cuts
        Each request's part of it, as in :attr:`VendorJob.cuts`.
    """

    tag: str
    id: str | None
    cuts: tuple[Cut, ...]


class Journal(Protocol):
    """A run's record of requests and vendor jobs, as the dispatcher sees it.

    Attributes
    ----------
    keeps
        Whether results are kept for the next equal request. Then a vendor job whose requests'
        owners have died goes on; or else it is stopped.
    """

    keeps: bool

    @property
    def has_places(self) -> bool:
        """Whether anything is known that a request could claim; in any thread."""

    def knows(self, entry: Entry) -> bool:
        """Whether `admit` would find something that the request need not be paid for again.

        Raises
        ------
        HybridflowError
            As `admit`.
        """

    @property
    def awaits(self) -> bool:
        """Whether requests are :class:`Attached` to vendor jobs of other brokers."""

    def admit(self, entry: Entry) -> Claimed | None:
        """Take note of a request; return what it need not be paid for again.

        A request may also be :class:`Attached` to a vendor job of this broker, or of another that
        is at work. It is asked about once more when that job has ended. One that has a key is given
        its ``entry.identity``.

        Raises
        ------
        HybridflowError
            If it must not be started (because whether it was paid for is uncertain, say): the
            request fails with that.
        """

    def intend(self, job: VendorJob, seconds: float = 0.0) -> None:
        """Note that the vendor is about to be asked for a job with ``job.work.entries``.

        It may cost so many device `seconds`, by an estimate.

        Raises
        ------
        HybridflowError
            If that cannot be made durable: the vendor is not asked, the requests fail with that.
        """

    def started(self, job: VendorJob) -> None:
        """Note the vendor's id, ``job.id``."""

    def stored(self, job: VendorJob, replies: Sequence[Reply], usage: Usage) -> None:
        """Keep the replies, one for each of ``job.cuts``, and book what the job has cost.

        The job may be one that was left behind: then ``job.work`` is empty.
        """

    def void(self, job: VendorJob, error: HybridflowError, usage: Usage) -> None:
        """Note that a job has no results (it failed, was stopped or refused), and what it cost."""

    def uncertain(self, job: VendorJob) -> str:
        """Note that nobody can say whether a job was started, and return what a person can do.

        With ``on_uncertain = "repeat"`` its requests go out in another job at once; or else they
        fail, and `admit` is to refuse equal ones until somebody has decided.
        """

    def delivered(self, entry: Entry) -> None:
        """Note that a request was given its reply."""

    def failed(self, entry: Entry, error: HybridflowError) -> None:
        """Note that a request was given an error."""

    def cancelled(self, entry: Entry) -> None:
        """Note that a request was cancelled."""

    def abandoned(self, entry: Entry) -> None:
        """Note that the process that made a request has died before it had the outcome.

        If a vendor job has the request, it goes on; its results are for the next equal request.
        """

    def gone(self, client: ClientInfo) -> None:
        """Note that a process has died: what it was `delivered` was perhaps for nothing."""

    def left_behind(self) -> Sequence[LeftBehind]:
        """Return the vendor jobs of brokers that have ended; asked once, when this one begins.

        Each is then `started` (if its id was lost and found), and `stored`, `void` or `uncertain`.
        """

    def close(self) -> None:
        """Note that this broker has ended, and that nothing comes any more."""

    def elsewhere(self) -> Sequence[str | LeftBehind]:
        """Return what has come of the vendor jobs of other brokers that requests are attached to.

        That is the tags of those that have ended, and those that are this broker's from now on.
        """

    def booked(self) -> float:
        """Return the QPU seconds that this run's other brokers have booked on this resource.

        What they have under way, and what is uncertain, counts as it was estimated.
        """


class NoJournal:
    """Keeps nothing: for a broker that belongs to no run."""

    keeps = False
    awaits = False
    has_places = False

    def knows(self, entry: Entry) -> bool:
        """Return False: nothing is known."""
        return False

    def admit(self, entry: Entry) -> Claimed | None:
        """Return None: nothing is known."""
        return None

    def intend(self, job: VendorJob, seconds: float = 0.0) -> None:
        """Do nothing; and so do the others."""

    def started(self, job: VendorJob) -> None:
        """Do nothing."""

    def stored(self, job: VendorJob, replies: Sequence[Reply], usage: Usage) -> None:
        """Do nothing."""

    def void(self, job: VendorJob, error: HybridflowError, usage: Usage) -> None:
        """Do nothing."""

    def uncertain(self, job: VendorJob) -> str:
        """Return what can be done without a record."""
        return "look at the vendor's list of jobs, then run it again"

    def delivered(self, entry: Entry) -> None:
        """Do nothing."""

    def failed(self, entry: Entry, error: HybridflowError) -> None:
        """Do nothing."""

    def cancelled(self, entry: Entry) -> None:
        """Do nothing."""

    def abandoned(self, entry: Entry) -> None:
        """Do nothing."""

    def gone(self, client: ClientInfo) -> None:
        """Do nothing."""

    def left_behind(self) -> Sequence[LeftBehind]:
        """Return nothing."""
        return ()

    def close(self) -> None:
        """Do nothing."""

    def elsewhere(self) -> Sequence[str | LeftBehind]:
        """Return nothing."""
        return ()

    def booked(self) -> float:
        """Return 0."""
        return 0.0

"""Who looks after a vendor job: this broker, another that is at work, or nobody any more.

A job is taken over only from a broker that has ended, as Slurm or the operating system says. Where
nobody can say, it is waited for as long as that broker writes, and some time after that.
"""

import logging
import time
from collections.abc import Sequence

from hybridflow.broker.journal import LeftBehind
from hybridflow.broker.ledger import steps as s
from hybridflow.broker.ledger.known import Job
from hybridflow.broker.ledger.notes import Notes
from hybridflow.errors import BackendLostError, ErrorRecord

__all__ = ["Custody"]

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.2


class Custody:
    """Knows the vendor jobs that this broker looks after, and those that it waits for.

    Parameters
    ----------
    notes
        What is known of the run.
    free
        Whether to run a request again costs nothing: then nothing is waited for or taken over.
    """

    def __init__(self, notes: Notes, *, free: bool) -> None:
        self._notes = notes
        self._free = free
        self._mine: set[str] = set()
        self._awaited: dict[str, float] = {}
        self._silent: set[str] = set()

    # This broker's

    def take(self, tag: str) -> None:
        """Look after a vendor job from now on."""
        self._mine.add(tag)

    def leave(self, tag: str) -> None:
        """Look after it no more: it has ended."""
        self._mine.discard(tag)

    def has(self, tag: str) -> bool:
        """Whether this broker looks after it."""
        return tag in self._mine

    # Those of others that are at work

    def is_silent(self, job: Job) -> bool:
        """Whether a job was waited for in vain, and still nobody can say what has become of it."""
        return job.tag in self._silent and self._is_left(job) is None

    def await_(self, job: Job) -> bool:
        """Wait for a job of another broker, which stores its results or ends; False: do not."""
        if not self._free:
            self._awaited.setdefault(job.tag, time.monotonic())
        return not self._free

    @property
    def awaits(self) -> bool:
        """Whether jobs are waited for."""
        return bool(self._awaited)

    def news(self) -> Sequence[str | LeftBehind]:
        """Return what has come of them: the tags of those that ended, and those left behind."""
        found: list[str | LeftBehind] = []
        if not self._awaited or time.monotonic() < self._notes.read_at + _LOOK_SECONDS:
            return found
        self._notes.read()
        for tag in list(self._awaited):
            job = self._notes.state.jobs[tag]
            is_left = self._is_left(job) if job.is_open else None
            if is_left:
                found.append(self._take_over(job))
            elif not job.is_open or (is_left is None and self._has_gone_silent(job)):
                found.append(tag)
            else:
                continue
            del self._awaited[tag]
        return found

    def _has_gone_silent(self, job: Job) -> bool:
        brokers = [opened.owner.name for opened in job.brokers]
        if not self._notes.is_silent(brokers, self._awaited[job.tag]):
            return False
        self._silent.add(job.tag)
        return True

    # Nobody's

    def left_behind(self) -> Sequence[LeftBehind]:
        """Return the vendor jobs of brokers that have ended, to be taken over."""
        found = []
        for job in list(self._notes.state.jobs.values()):
            if not self._is_for_us(job) or not self._is_orphan(job):
                continue
            if self._free:
                lost = ErrorRecord.of(BackendLostError("its simulator has ended"))
                self._notes.note(s.Voided(tag=job.tag, id=job.id, error=lost))
            else:
                found.append(self._take_over(job))
        return found

    def _is_for_us(self, job: Job) -> bool:
        # A name may be given to another device; its vendor would not know the job.
        opened, ours = job.opened, self._notes.opened
        return (opened.resource, opened.backend) == (ours.resource, ours.backend)

    def _is_orphan(self, job: Job) -> bool:
        if not job.is_open or self.has(job.tag):
            return False
        ended = self._is_left(job)
        if ended is None:
            _log.warning(
                "vendor job %s of broker %s on %s is not taken over: nobody can say whether that "
                "broker has ended",
                job.id or f"with tag {job.tag}",
                job.opened.owner.name,
                job.opened.owner.host,
            )
        return bool(ended)

    def _is_left(self, job: Job) -> bool | None:
        return self._notes.have_ended(job.brokers)

    def _take_over(self, job: Job) -> LeftBehind:
        self.take(job.tag)
        return LeftBehind(tag=job.tag, id=job.id, cuts=job.intended.cuts)

"""A run's ledger as people read it: all of it at once, checked, and with decisions of theirs.

A broker writes through ``journal.py`` instead.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from hybridflow.broker.ledger import steps as s
from hybridflow.broker.ledger.appender import Appender
from hybridflow.broker.ledger.known import Job, JobPhase, RequestPhase
from hybridflow.broker.ledger.owner import has_ended, this_process
from hybridflow.broker.ledger.reader import Reader
from hybridflow.broker.ledger.results import read_replies
from hybridflow.broker.ledger.state import State
from hybridflow.errors import InputError, LedgerError

__all__ = ["Book"]

_EVERY_SESSION = ""


class Book:
    """The ledger in a run's folder, as it is now.

    Parameters
    ----------
    run
        The run's folder.

    Attributes
    ----------
    state
        What its steps come to.

    Raises
    ------
    InputError
        If there is no ledger.
    LedgerError
        If it cannot be read.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.run = Path(run).absolute()
        self._folder = self.run / "ledger"
        if not self._folder.is_dir():
            raise InputError(
                f"there is no ledger in {run}: name the folder of a run that used a QPU"
            )
        self.state = State(_EVERY_SESSION)
        self._reader = Reader(self._folder)
        for opened, step in self._reader.news():
            self.state.apply(opened, step)

    # Checked

    def flaws(self) -> Iterator[str]:
        """Return what is damaged, or missing, in words."""
        for source in self._reader.sources:
            yield from map(str, source.damaged)
        for job in self.state.jobs.values():
            yield from self._flaws_of(job)

    def _flaws_of(self, job: Job) -> Iterator[str]:
        for request in job.intended.requests:
            if request not in self.state.requests:
                yield f"vendor job {job.id or job.tag}: the record of its request {request} is lost"
        if job.phase is not JobPhase.STORED:
            return
        try:
            count = len(read_replies(self._folder, job.tag))
        except LedgerError as error:
            yield f"vendor job {job.id}: {error}"
            return
        if count != len(job.intended.requests):
            yield f"vendor job {job.id}: {count} results for {len(job.intended.requests)} requests"

    def torn(self) -> list[str]:
        """Return the files whose last step was not written to its end, which is no damage."""
        return [str(source.torn) for source in self._reader.sources if source.torn]

    # Decided

    def resolve(self, tag: str, job_id: str | None) -> None:
        """Decide about a vendor job that nobody can look up.

        Parameters
        ----------
        tag
            The beginning of its tag.
        job_id
            The vendor's id of it; None: it is not there, and may be repeated.

        Raises
        ------
        InputError
            If there is no such job, it is known what has become of it, or its broker is at work.
        LedgerError
            If the decision cannot be written down.
        """
        job = self._undecided(tag)
        name = f"person-{uuid.uuid4().hex[:8]}"
        owner = this_process(name, "")
        brokers = (opened.owner for opened in job.brokers)
        open_ones = [broker for broker in brokers if broker.name not in self.state.closed]
        if job.is_open and any(has_ended(broker, owner) is False for broker in open_ones):
            raise InputError(f"the broker of vendor job {job.tag} is at work on it: let it end")
        opened = s.Opened(
            version=s.VERSION,
            owner=owner,
            resource=job.opened.resource,
            backend=job.opened.backend,
        )
        step = s.Started(tag=job.tag, id=job_id) if job_id else s.Resolved(tag=job.tag)
        book = Appender(self._folder, opened)
        book.add(step)
        book.add(s.Closed())
        book.commit(durable=True)
        book.close()
        self.state.apply(opened, step)

    def _undecided(self, tag: str) -> Job:
        found = [job for job in self.state.jobs.values() if job.tag.startswith(tag)]
        if len(found) != 1:
            raise InputError(
                f"{len(found)} vendor jobs in {self.run} have a tag that begins with {tag!r}: "
                "`hybridflow ledger show` has them"
            )
        (job,) = found
        if not job.is_open and job.phase is not JobPhase.UNCERTAIN:
            raise InputError(f"vendor job {job.tag} is {job.phase}: there is nothing to decide")
        return job

    # Looked up

    def count(self, phase: RequestPhase) -> int:
        """Return how many requests have come so far and no further."""
        return sum(request.phase is phase for request in self.state.requests.values())

"""QPU seconds that vendors have reported, by Slurm job: from the ledgers of runs.

::

    FOLDER/**/ledger ──►  VendorTime, one a vendor job  ──►  beside what Slurm has booked (usage.py)

Slurm's accounts are the site's own. A ledger belongs to the user whose run it is, who could write
anything into it: its seconds are information, nothing to bill by. What can be held to is held to:
they count only for jobs that Slurm knows as that user's, on a resource that Slurm gave to the job,
and once, however many copies there are of a run.
"""

import os
import pwd
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import msgspec

from hybridflow.broker.ledger.book import Book
from hybridflow.errors import InputError
from hybridflow.records import Record
from hybridflow.slurm.usage import BookedTime

__all__ = ["VendorTime", "find_runs", "vendor_times", "with_vendor_times"]

_LEDGER = "ledger"


class VendorTime(Record, frozen=True, kw_only=True):
    """What a vendor has reported of one vendor job.

    Attributes
    ----------
    user
        Whom the ledger belongs to.
    job
        Number of the Slurm job, or of its component, that started the vendor job; empty: none did.
    resource
        The site's name of the QPU.
    tag
        What tells the vendor job from all others.
    time
        When it was about to be started, in Unix time.
    qpu_seconds
        What the vendor bills.
    """

    user: str
    job: str
    resource: str
    tag: str
    time: float
    qpu_seconds: float


def find_runs(folders: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the folders of runs in these folders, at any depth; links are not followed.

    Raises
    ------
    InputError
        If one of them is no folder.
    """
    found: set[Path] = set()
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError(f"{folder} is no folder: name one that runs' folders lie in")
        found.update(_runs_in(Path(folder).absolute()))
    return sorted(found)


def _runs_in(folder: Path) -> Iterator[Path]:
    for place, folders, _ in os.walk(folder):
        if _LEDGER in folders and not Path(place, _LEDGER).is_symlink():
            folders.clear()  # a run holds no other
            yield Path(place)


def vendor_times(run: str | os.PathLike[str]) -> list[VendorTime]:
    """Return what vendors have reported in a run's ledger, of each vendor job.

    Raises
    ------
    InputError
        If there is no ledger.
    LedgerError
        If it cannot be read.
    """
    book = Book(run)
    user = _owner(book.run / _LEDGER)
    return [
        VendorTime(
            user=user,
            job=job.intended_by.owner.slurm_job,
            resource=job.intended_by.resource,
            tag=job.tag,
            time=job.intended.time,
            qpu_seconds=job.usage.qpu_seconds,
        )
        for job in book.state.jobs.values()
    ]


def _owner(folder: Path) -> str:
    number = folder.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # an account that is gone
        return str(number)


def with_vendor_times(
    booked: Collection[BookedTime], times: Iterable[VendorTime]
) -> tuple[list[BookedTime], float]:
    """Return booked times with the QPU seconds of their jobs, and the seconds of no such job.

    Those are of jobs that were not asked about, of runs outside Slurm, or of ledgers that speak of
    a job, or of a resource, which is not their user's.

    Parameters
    ----------
    booked
        What Slurm has booked.
    times
        What vendors have reported; of copies of a run, the vendor jobs may come several times.
    """
    seconds: dict[tuple[str, str, str], float] = {}
    for one in {(each.user, each.tag): each for each in times}.values():
        key = (one.user, one.job, one.resource)
        seconds[key] = seconds.get(key, 0.0) + one.qpu_seconds
    # Of a job that ran several times, the first entry has the seconds of all its runs.
    joined = [
        msgspec.structs.replace(
            each, qpu_seconds=seconds.pop((each.user, each.number, each.resource), 0.0)
        )
        for each in booked
    ]
    return joined, sum(seconds.values())

"""How long QPU slots were held, and by whom, as Slurm's accounting has it; vendors' time beside it.

::

    sacct, asked once ──►  BookedTime, one a job and resource  ──►  SlotUsage, sums
    site file ── names ──┘                                             ▲
    ledgers of runs ────►  VendorTime, by Slurm job and resource ──────┘

The slots' time is what a site bills by: seconds times slots, whether or not the QPU was at work.
The QPU seconds that a vendor bills are not in Slurm. They stand in the ledgers of runs, which
belong to their users: information, no account.
"""

import pwd
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from hybridflow.broker.ledger.book import Book
from hybridflow.errors import InputError, SlurmError
from hybridflow.records import Record
from hybridflow.site import Site
from hybridflow.slurm.commands import run_slurm
from hybridflow.slurm.qpus import slot_names
from hybridflow.slurm.text import amounts

__all__ = [
    "BookedTime",
    "SlotUsage",
    "SumBy",
    "VendorTime",
    "booked_times",
    "slot_usage",
    "vendor_times",
]

SumBy = Literal["user", "account", "resource"]
"""What may be told apart in a sum."""

_COLUMNS = ("JobID", "User", "Account", "ElapsedRaw", "AllocTRES", "JobIDRaw")
_SECONDS = 600.0  # A year of a large site is long, and slurmdbd takes its time.
_CURE = (
    "an administrator sets up slurmdbd, and `AccountingStorageTRES=gres/qpu,gres/qpu:NAME,"
    "license/NAME` in slurm.conf for the QPUs of the site"
)


class BookedTime(Record, frozen=True, kw_only=True):
    """How long a job, or a component of one, held slots of a resource.

    Attributes
    ----------
    job
        Number of the job, of a heterogeneous one the first component's; with ``_`` and its index,
        of an array's task.
    user, account
        Who is billed.
    resource
        The site's name of it, or Slurm's where the site file has none.
    slot_seconds
        Seconds, times slots.
    number
        What a process in it has as SLURM_JOB_ID: each component and each array's task its own.
    """

    job: str
    user: str
    account: str
    resource: str
    slot_seconds: int
    number: str


class VendorTime(Record, frozen=True, kw_only=True):
    """What vendors have billed for brokers of one Slurm job, on one resource.

    Attributes
    ----------
    vendor_jobs
        How many there were.
    qpu_seconds
        What they were billed, in seconds of the QPU.
    """

    vendor_jobs: int = 0
    qpu_seconds: float = 0.0

    def __add__(self, other: "VendorTime") -> "VendorTime":
        return VendorTime(
            vendor_jobs=self.vendor_jobs + other.vendor_jobs,
            qpu_seconds=self.qpu_seconds + other.qpu_seconds,
        )


class SlotUsage(Record, frozen=True, kw_only=True):
    """A sum of booked times.

    Attributes
    ----------
    user, account, resource
        Whose time it is; None: of all.
    jobs
        How many jobs it comes from.
    slot_seconds
        Seconds, times slots.
    vendor_jobs, qpu_seconds
        What vendors have billed in these jobs, as far as runs were named; None: none was.
    """

    user: str | None
    account: str | None
    resource: str | None
    jobs: int
    slot_seconds: int
    vendor_jobs: int | None = None
    qpu_seconds: float | None = None


def booked_times(
    site: Site,
    start: datetime,
    end: datetime,
    *,
    users: Collection[str] = (),
    accounts: Collection[str] = (),
    resources: Collection[str] = (),
) -> list[BookedTime]:
    """Return what Slurm booked of QPU slots; of a job, what falls between two times.

    Counted are all GRES ``qpu``, and the GRES and licences of the site's resources. Of a job that
    was requeued all runs count; of one that is running, the time until `end`.

    Parameters
    ----------
    site
        Names the resources.
    start, end
        From when, and until when, in local time; `end` must not be in the future.
    users, accounts, resources
        Whose time, and on what; empty: all.

    Raises
    ------
    InputError
        If `start` is not before `end`, a name is empty, or there is no such resource.
    SlurmError
        If Slurm does not answer, or keeps no accounts of QPUs.
    """
    if start >= end:
        raise InputError(f"the start, {start}, must be before the end, {end}")
    if "" in (*users, *accounts):
        raise InputError("the name of a user or an account must not be empty")
    names = _names(site)
    lines = _sacct(start, end, users, accounts).splitlines()
    booked = [entry for line in lines for entry in _entries(line, names)]
    if not booked:
        _check_booked(names)
    known = {*site.resources, *(entry.resource for entry in booked)}
    if unknown := sorted(set(resources) - known):
        raise InputError(f'no QPU "{unknown[0]}"; known are: {", ".join(sorted(known))}')
    return [entry for entry in booked if not resources or entry.resource in resources]


def vendor_times(books: Iterable[Book]) -> dict[tuple[str, str, str], VendorTime]:
    """Return what vendors have billed, by the Slurm job of the broker, its resource and user.

    A user could write anything into a ledger of his own. So it speaks for jobs of the user alone
    whom its folder belongs to, and a vendor job of which there are copies counts once.

    Parameters
    ----------
    books
        Ledgers of runs.

    Returns
    -------
    dict
        By ``(SLURM_JOB_ID, resource, user)``; brokers outside Slurm are left out.
    """
    found: dict[tuple[str, str, str], VendorTime] = {}
    seen: set[tuple[str, str]] = set()
    for book in books:
        user = _owner(book.run / "ledger")
        for job in book.state.jobs.values():
            key = job.opened.owner.slurm_job, job.opened.resource, user
            if key[0] and (user, job.tag) not in seen:
                seen.add((user, job.tag))
                cost = VendorTime(vendor_jobs=1, qpu_seconds=job.usage.qpu_seconds)
                found[key] = found.get(key, VendorTime()) + cost
    return found


def _owner(folder: Path) -> str:
    number = folder.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # an account that is gone
        return str(number)


def slot_usage(
    booked: Collection[BookedTime],
    by: Collection[SumBy],
    vendors: Mapping[tuple[str, str, str], VendorTime] | None = None,
) -> list[SlotUsage]:
    """Return the sums of booked times, one for each combination of what is told apart.

    Parameters
    ----------
    booked
        What Slurm has booked.
    by
        What to tell apart.
    vendors
        What vendors have billed in these jobs: see :func:`vendor_times`. None: it is not known.
    """
    groups: dict[tuple[str | None, ...], list[BookedTime]] = {}
    for entry in booked:
        key = tuple(getattr(entry, name) if name in by else None for name in get_args(SumBy))
        groups.setdefault(key, []).append(entry)
    ordered = sorted(groups.items(), key=lambda item: [name or "" for name in item[0]])
    return [_sum(key, entries, vendors) for key, entries in ordered]


def _sum(
    key: tuple[str | None, ...],
    entries: Collection[BookedTime],
    vendors: Mapping[tuple[str, str, str], VendorTime] | None,
) -> SlotUsage:
    user, account, resource = key
    # A job that was requeued is booked once a run, and has one number.
    numbers = {(entry.number, entry.resource, entry.user) for entry in entries}
    known = vendors or {}
    cost = sum((known[number] for number in numbers if number in known), VendorTime())
    return SlotUsage(
        user=user,
        account=account,
        resource=resource,
        jobs=len({entry.job for entry in entries}),
        slot_seconds=sum(entry.slot_seconds for entry in entries),
        vendor_jobs=None if vendors is None else cost.vendor_jobs,
        qpu_seconds=None if vendors is None else cost.qpu_seconds,
    )


def _names(site: Site) -> dict[str, str]:
    # Of resources, by what accounts call them.
    found: dict[str, str] = {}
    for resource in site.resources:
        gres, licence = slot_names(site, resource)
        found |= {gres: resource, f"license/{licence}": resource}
    return found


def _sacct(
    start: datetime, end: datetime, users: Collection[str], accounts: Collection[str]
) -> str:
    options = [
        "--allusers",
        "--allocations",  # no steps: their time is the job's
        "--duplicates",  # all runs of a job that was requeued
        "--truncate",  # of a job, what falls between the two times
        "--noconvert",
        "--noheader",
        "--parsable2",
        f"--format={','.join(_COLUMNS)}",
        f"--starttime={start.isoformat(timespec='seconds')}",
        f"--endtime={end.isoformat(timespec='seconds')}",
    ]
    options += [f"--user={','.join(users)}"] if users else []
    options += [f"--accounts={','.join(accounts)}"] if accounts else []
    try:
        return run_slurm("sacct", *options, timeout=_SECONDS)
    except SlurmError as error:
        if "accounting storage is disabled" in str(error).lower():
            raise SlurmError(f"this Slurm keeps no accounts: {_CURE}") from error
        raise


def _entries(line: str, names: dict[str, str]) -> Iterator[BookedTime]:
    words = line.split("|")
    if len(words) != len(_COLUMNS) or not words[3].isdecimal():
        raise SlurmError(f"`sacct` says {line!r}, and was asked for {', '.join(_COLUMNS)}")
    job, user, account, seconds, tres, number = words
    for resource, slots in _slots(tres, names).items():
        yield BookedTime(
            job=job.partition("+")[0],
            user=user,
            account=account,
            resource=resource,
            slot_seconds=slots * int(seconds),
            number=number,
        )


def _slots(tres: str, names: dict[str, str]) -> dict[str, int]:
    held = amounts(tres)
    typed = {name: count for name, count in held.items() if name.startswith("qpu:")}
    # Slurm books a slot by its type, as far as it was told to, and once more without.
    untyped = held.pop("qpu", 0) - sum(typed.values())
    counted = {name: count for name, count in held.items() if name in typed or name in names}
    if untyped > 0:
        counted["qpu"] = untyped
    slots: dict[str, int] = {}
    for name, count in counted.items():
        resource = names.get(name, name.removeprefix("qpu:"))
        slots[resource] = slots.get(resource, 0) + count
    return slots


def _check_booked(names: dict[str, str]) -> None:
    # Nothing was used, or nothing is written down: a sum of zero must not hide the second.
    config = run_slurm("scontrol", "show", "config")
    tres = re.search(r"^AccountingStorageTRES *= *(\S+)", config, re.MULTILINE)
    booked = [name.removeprefix("gres/") for name in tres[1].split(",")] if tres else []
    if not any(name.partition(":")[0] == "qpu" or name in names for name in booked):
        raise SlurmError(f"this Slurm keeps no accounts of QPUs: {_CURE}")

"""How long QPU slots were held, and by whom, as Slurm's accounting has it.

::

    sacct, asked once ──►  BookedTime, one a job and resource  ──►  SlotUsage, sums
    site file ── names ──┘        ▲
    ledgers ── vendor_usage.py ───┘  QPU seconds, as information

This time is what a site bills by: seconds times slots, whether or not the QPU was at work. The QPU
seconds that a vendor bills are not in Slurm; the ledgers of runs have them.
"""

import re
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Literal, get_args

from hybridflow.errors import InputError, SlurmError
from hybridflow.records import Record
from hybridflow.site import Site
from hybridflow.slurm.commands import run_slurm
from hybridflow.slurm.qpus import slot_names
from hybridflow.slurm.text import amounts

__all__ = ["BookedTime", "SlotUsage", "SumBy", "booked_times", "slot_usage"]

SumBy = Literal["user", "account", "resource"]
"""What may be told apart in a sum."""

_COLUMNS = ("JobID", "JobIDRaw", "User", "Account", "ElapsedRaw", "AllocTRES")
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
    number
        What its own processes know it by, each component and each task of an array another.
    user, account
        Who is billed.
    resource
        The site's name of it, or Slurm's where the site file has none.
    slot_seconds
        Seconds, times slots.
    qpu_seconds
        What vendors have reported of its vendor jobs; None where no ledger was looked at.
    """

    job: str
    number: str
    user: str
    account: str
    resource: str
    slot_seconds: int
    qpu_seconds: float | None = None


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
    qpu_seconds
        What vendors have reported; None where no ledger was looked at.
    """

    user: str | None
    account: str | None
    resource: str | None
    jobs: int
    slot_seconds: int
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


def slot_usage(booked: Collection[BookedTime], by: Collection[SumBy]) -> list[SlotUsage]:
    """Return the sums of booked times, one for each combination of what is told apart."""
    groups: dict[tuple[str | None, ...], list[BookedTime]] = {}
    for entry in booked:
        key = tuple(getattr(entry, name) if name in by else None for name in get_args(SumBy))
        groups.setdefault(key, []).append(entry)
    ordered = sorted(groups.items(), key=lambda item: [name or "" for name in item[0]])
    return [_sum(key, entries) for key, entries in ordered]


def _sum(key: tuple[str | None, ...], entries: Collection[BookedTime]) -> SlotUsage:
    user, account, resource = key
    reported = [entry.qpu_seconds for entry in entries if entry.qpu_seconds is not None]
    return SlotUsage(
        user=user,
        account=account,
        resource=resource,
        jobs=len({entry.job for entry in entries}),
        slot_seconds=sum(entry.slot_seconds for entry in entries),
        qpu_seconds=sum(reported) if reported else None,
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
    if len(words) != len(_COLUMNS) or not words[4].isdecimal():
        raise SlurmError(f"`sacct` says {line!r}, and was asked for {', '.join(_COLUMNS)}")
    job, number, user, account, seconds, tres = words
    for resource, slots in _slots(tres, names).items():
        yield BookedTime(
            job=job.partition("+")[0],
            number=number,
            user=user,
            account=account,
            resource=resource,
            slot_seconds=slots * int(seconds),
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

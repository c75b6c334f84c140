"""``hybridflow usage``: what runs have used of QPUs, and how long QPU slots were held."""

import json
import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybridflow import environment
from hybridflow.cli.table import echo_table

if TYPE_CHECKING:
    from hybridflow.broker.ledger.book import Book
    from hybridflow.broker.ledger.figures import QpuUsage, RunKey
    from hybridflow.slurm import SlotUsage
    from hybridflow.slurm.usage import SumBy

__all__ = ["command"]

_SLOT_KEYS: "tuple[SumBy, ...]" = ("user", "account", "resource")
_RUN_KEYS: "tuple[RunKey, ...]" = ("task", "workflow", "resource", "user")
_RUN_COLUMNS = {
    "requests": "requests",
    "reused": "reused",
    "uncertain": "uncertain",
    "vendor_jobs": "vendor jobs",
    "requests_per_job": "requests a job",
    "shots": "shots",
    "qpu_seconds": "QPU seconds",
}
_TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])
_EXAMPLE = "Example: hybridflow usage runs/h2o runs/n2 --by task,workflow,resource"


def _split(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    names = [name for value in values for name in value.split(",")]
    known = dict.fromkeys((*_RUN_KEYS, *_SLOT_KEYS))
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is not one of: {', '.join(known)}")
    return tuple(dict.fromkeys(names))


@click.command("usage", epilog=_EXAMPLE)
@click.argument("run_dirs", metavar="[RUN_DIR]...", nargs=-1, type=click.Path())
@click.option(
    "--by",
    multiple=True,
    callback=_split,
    metavar="KEYS",
    help="What to tell apart, with commas: of runs task, workflow, resource, user; of slots user, "
    "account, resource [default: resource of runs, all of slots].",
)
@click.option(
    "--start", type=_TIME, metavar="TIME", help="From [default: first day of the end's month]."
)
@click.option("--end", type=_TIME, metavar="TIME", help="Until, exclusive [default: now].")
@click.option("--user", "users", multiple=True, metavar="NAME", help="This one's; repeatable.")
@click.option("--account", "accounts", multiple=True, metavar="NAME", help="Repeatable.")
@click.option("--resource", "resources", multiple=True, metavar="NAME", help="Repeatable.")
@click.option(
    "--runs",
    multiple=True,
    metavar="DIR",
    type=click.Path(),
    help="A run's folder, or one with runs in it: what vendors billed stands beside; repeatable.",
)
@click.option("--site", metavar="FILE", help="Site file [default: HYBRIDFLOW_SITE, or built in].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    run_dirs: tuple[str, ...],
    by: tuple[str, ...],
    as_json: bool,
    **slots: Any,
) -> None:
    """Sum what runs have used of QPUs or, without RUN_DIR, the time for which QPU slots were held.

    Of runs: requests, those of them that got results which had been paid for before, those that may
    have been paid for without a result, vendor jobs and requests in each, shots, and QPU seconds as
    the vendor bills them. They are in the ledgers of the runs' folders; without RUN_DIR, but with a
    key of runs alone, that is the run of HYBRIDFLOW_RUN.

    Of slots, as Slurm's accounting has it: a slot second is one slot, held for one second. Only
    here are the options --start to --site of use. TIME is a day, as in 2026-01-31, or has the hour
    besides, as in 2026-01-31T14:30; of a job that is longer, only what lies between counts. With
    --runs, what vendors have billed to the brokers in these jobs stands beside, by the runs'
    ledgers.
    """
    if not run_dirs and set(by) - set(_SLOT_KEYS):
        run_dirs = (_this_run(by),)
    if run_dirs:
        _refuse(by, slots)
        _show_runs(run_dirs, [key for key in _RUN_KEYS if key in (by or ("resource",))], as_json)
    else:
        _show_slots([key for key in _SLOT_KEYS if not by or key in by], as_json, **slots)


def _this_run(keys: Sequence[str]) -> str:
    run = os.environ.get(environment.RUN)
    if not run:
        raise click.UsageError(
            f"--by {','.join(keys)} sums what runs have used: name their folders (RUN_DIR)"
        )
    return run


def _refuse(keys: Sequence[str], slots: dict[str, Any]) -> None:
    for key in keys:
        if key not in _RUN_KEYS:
            raise click.UsageError(f"--by {key} is for slots only; of runs: {', '.join(_RUN_KEYS)}")
    names = {"users": "user", "accounts": "account", "resources": "resource"}
    given = [names.get(name, name) for name, value in slots.items() if value and name != "site"]
    if given:
        options = ", ".join(f"--{name}" for name in given)
        raise click.UsageError(f"{options}: for slots only, without RUN_DIR")


# --- runs ----------------------------------------------------------------------------------------


def _show_runs(run_dirs: Sequence[str], keys: "Sequence[RunKey]", as_json: bool) -> None:
    import msgspec

    from hybridflow.broker.ledger.book import Book
    from hybridflow.broker.ledger.figures import qpu_usage

    usage = qpu_usage([Book(run) for run in run_dirs], keys)
    if as_json:
        click.echo(json.dumps({"usage": msgspec.to_builtins(usage)}))
        return
    echo_table([(*keys, *_RUN_COLUMNS.values()), *(_run_row(entry, keys) for entry in usage)])


def _run_row(usage: "QpuUsage", shown: Sequence[str]) -> tuple[str, ...]:
    names = (getattr(usage, key) or "-" for key in shown)
    values = (getattr(usage, column) for column in _RUN_COLUMNS)
    return (
        *names,
        *(f"{value:.2f}" if isinstance(value, float) else str(value) for value in values),
    )


# --- slots ---------------------------------------------------------------------------------------


def _show_slots(
    keys: "Sequence[SumBy]",
    as_json: bool,
    *,
    start: datetime | None,
    end: datetime | None,
    users: tuple[str, ...],
    accounts: tuple[str, ...],
    resources: tuple[str, ...],
    runs: tuple[str, ...],
    site: str | None,
) -> None:
    import msgspec

    from hybridflow.site import load_site
    from hybridflow.slurm import booked_times, slot_usage, vendor_times

    now = datetime.now().replace(microsecond=0)
    end = min(end or now, now)
    start = start or _month_of(end)
    booked = booked_times(
        load_site(site), start, end, users=users, accounts=accounts, resources=resources
    )
    usage = slot_usage(booked, keys, vendor_times(_books(runs)) if runs else None)
    if as_json:
        window = {"start": start.isoformat(), "end": end.isoformat()}
        click.echo(json.dumps(window | {"usage": msgspec.to_builtins(usage)}))
        return
    click.echo(f"{start.isoformat()} to {end.isoformat()}")
    columns = ("jobs", "slot seconds", *(("vendor jobs", "QPU seconds") if runs else ()))
    echo_table([(*keys, *columns), *(_slot_row(entry, keys) for entry in usage)])


def _books(folders: Sequence[str]) -> "Iterator[Book]":
    from hybridflow.broker.ledger.book import Book

    for folder in map(Path, folders):
        below = [] if (folder / "ledger").is_dir() else sorted(folder.glob("*/ledger"))
        for run in [ledger.parent for ledger in below] or [folder]:
            yield Book(run)


def _month_of(end: datetime) -> datetime:
    # The end is exclusive: that of a month belongs to it.
    return (end - timedelta(seconds=1)).replace(day=1, hour=0, minute=0, second=0)


def _slot_row(usage: "SlotUsage", shown: Sequence[str]) -> tuple[str, ...]:
    names = (getattr(usage, key) or "-" for key in shown)
    row = (*names, str(usage.jobs), str(usage.slot_seconds))
    if usage.qpu_seconds is None:
        return row
    return (*row, str(usage.vendor_jobs), f"{usage.qpu_seconds:.2f}")

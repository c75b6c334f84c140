"""``hybridflow usage``: how long QPU slots were held, by user, account and resource."""

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from hybridflow.cli.table import echo_table

if TYPE_CHECKING:
    from hybridflow.slurm import SlotUsage
    from hybridflow.slurm.usage import SumBy

__all__ = ["command"]

_KEYS: "tuple[SumBy, ...]" = ("user", "account", "resource")
_TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])


@click.command("usage", epilog="Example: hybridflow usage --start 2026-01-01 --by account")
@click.option(
    "--start", type=_TIME, metavar="TIME", help="From [default: first day of the end's month]."
)
@click.option("--end", type=_TIME, metavar="TIME", help="Until, exclusive [default: now].")
@click.option("--user", "users", multiple=True, metavar="NAME", help="This one's; repeatable.")
@click.option("--account", "accounts", multiple=True, metavar="NAME", help="Repeatable.")
@click.option("--resource", "resources", multiple=True, metavar="NAME", help="Repeatable.")
@click.option(
    "--by",
    multiple=True,
    type=click.Choice(_KEYS),
    help="What to tell apart; repeatable [default: all three].",
)
@click.option("--site", metavar="FILE", help="Site file [default: HYBRIDFLOW_SITE, or built in].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    start: datetime | None,
    end: datetime | None,
    users: tuple[str, ...],
    accounts: tuple[str, ...],
    resources: tuple[str, ...],
    by: "tuple[SumBy, ...]",
    site: str | None,
    as_json: bool,
) -> None:
    """Sum the time for which QPU slots were held, as Slurm's accounting has it.

    A slot second is one slot, held for one second. TIME is a day, as in 2026-01-31, or has the
    hour besides, as in 2026-01-31T14:30; of a job that is longer, only what lies between counts.

    The QPU seconds that a vendor bills are not among them: Slurm does not know them. Those of a
    run are on the page that `hybridflow report` makes of it.
    """
    import msgspec

    from hybridflow.site import load_site
    from hybridflow.slurm import booked_times, slot_usage

    now = datetime.now().replace(microsecond=0)
    end = min(end or now, now)
    start = start or _month_of(end)
    booked = booked_times(
        load_site(site), start, end, users=users, accounts=accounts, resources=resources
    )
    usage = slot_usage(booked, by or _KEYS)
    if as_json:
        window = {"start": start.isoformat(), "end": end.isoformat()}
        click.echo(json.dumps(window | {"usage": msgspec.to_builtins(usage)}))
        return
    click.echo(f"{start.isoformat()} to {end.isoformat()}")
    shown = [key for key in _KEYS if not by or key in by]
    echo_table([(*shown, "jobs", "slot seconds"), *(_row(entry, shown) for entry in usage)])


def _month_of(end: datetime) -> datetime:
    # The end is exclusive: that of a month belongs to it.
    return (end - timedelta(seconds=1)).replace(day=1, hour=0, minute=0, second=0)


def _row(usage: "SlotUsage", shown: "list[SumBy]") -> tuple[str, ...]:
    names = (getattr(usage, key) or "-" for key in shown)
    return (*names, str(usage.jobs), str(usage.slot_seconds))

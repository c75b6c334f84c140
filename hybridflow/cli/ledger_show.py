"""``hybridflow ledger show``: a run's vendor jobs, and what has become of its requests."""

import json
import time
from typing import TYPE_CHECKING, Any

import click

from hybridflow.cli.table import echo_table

if TYPE_CHECKING:
    from hybridflow.broker.ledger.book import Book
    from hybridflow.broker.ledger.known import Job

__all__ = ["command"]

_TITLES = ("sent", "resource", "vendor job", "state", "requests", "shots", "QPU seconds", "tag")


@click.command("show", epilog="Example: hybridflow ledger show runs/h2o --json")
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run_dir: str, as_json: bool) -> None:
    """Show a run's vendor jobs, the oldest first, and how many requests have come how far.

    It can be looked at while the run goes on. A vendor job is intended before it is started, then
    started, and stored when its results are; void if it has none. One that is uncertain was sent,
    perhaps, and cannot be looked up: `hybridflow ledger resolve` takes a decision about it.
    """
    from hybridflow.broker.ledger.book import Book

    book = Book(run_dir)
    if as_json:
        click.echo(json.dumps(_shown(book)))
        return
    if book.state.jobs:
        echo_table([_TITLES, *map(_row, book.state.jobs.values())])
    click.echo(_requests(book))


def _row(job: "Job") -> tuple[str, ...]:
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(job.intended.time)),
        job.opened.resource,
        job.id or "-",
        job.phase.value,
        str(len(job.intended.requests)),
        str(job.usage.shots),
        f"{job.usage.qpu_seconds:.2f}",
        job.tag[:8],
    )


def _shown(book: "Book") -> dict[str, Any]:
    jobs = [
        {
            "sent": job.intended.time,
            "resource": job.opened.resource,
            "vendor_job_id": job.id,
            "state": job.phase.value,
            "requests": len(job.intended.requests),
            "shots": job.usage.shots,
            "qpu_seconds": job.usage.qpu_seconds,
            "tag": job.tag,
            "error": job.error.message if job.error else None,
        }
        for job in book.state.jobs.values()
    ]
    return {
        "vendor_jobs": jobs,
        "requests": len(book.state.requests),
        "reused": _reused(book),
        "phases": _counts(book),
    }


def _counts(book: "Book") -> dict[str, int]:
    from hybridflow.broker.ledger.known import RequestPhase

    return {phase.value: book.count(phase) for phase in RequestPhase}


def _reused(book: "Book") -> int:
    return sum(request.reused for request in book.state.requests.values())


def _requests(book: "Book") -> str:
    parts = [f"{count} {phase}" for phase, count in _counts(book).items() if count]
    reused = _reused(book)
    more = [f"{reused} of them with results that were paid for before"] if reused else []
    return f"{len(book.state.requests)} requests: {', '.join([*parts, *more]) or 'none yet'}"

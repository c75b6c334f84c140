"""``hybridflow ledger show``: a run's vendor jobs, and what has become of its requests."""

import time
from typing import TYPE_CHECKING

import click

from hybridflow.cli.table import echo_table

if TYPE_CHECKING:
    from hybridflow.broker.ledger.book import Book
    from hybridflow.broker.ledger.known import Job

__all__ = ["command"]

_TITLES = ("sent", "resource", "vendor job", "state", "requests", "shots", "QPU seconds", "tag")


@click.command("show", epilog="Example: hybridflow ledger show runs/h2o")
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path())
def command(run_dir: str) -> None:
    """Show a run's vendor jobs, the oldest first, and how many requests have come how far.

    It can be looked at while the run goes on. A vendor job is intended before it is started, then
    started, and stored when its results are; void if it has none. One that is uncertain was sent,
    perhaps, and cannot be looked up: `hybridflow ledger resolve` takes a decision about it.
    """
    from hybridflow.broker.ledger.book import Book

    book = Book(run_dir)
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


def _requests(book: "Book") -> str:
    from hybridflow.broker.ledger.known import RequestPhase

    counts = {phase: book.count(phase) for phase in RequestPhase}
    parts = [f"{count} {phase.value}" for phase, count in counts.items() if count]
    reused = sum(request.reused for request in book.state.requests.values())
    more = [f"{reused} of them with results that were paid for before"] if reused else []
    return f"{len(book.state.requests)} requests: {', '.join([*parts, *more]) or 'none yet'}"

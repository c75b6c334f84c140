"""``hybridflow ledger verify``: whether a run's record is whole."""

import click

__all__ = ["command"]


@click.command(
    "verify",
    epilog="Exit status: 3 if something is damaged.\n\nExample: hybridflow ledger verify runs/h2o",
)
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path())
def command(run_dir: str) -> None:
    """Check every step and every result of a run's ledger against its checksum.

    A last step that was not written to its end is no damage: its writer was killed, and nothing
    that it announced had happened.
    """
    from hybridflow.broker.ledger.book import Book
    from hybridflow.errors import LedgerError

    book = Book(run_dir)
    flaws = list(book.flaws())
    for line in (*book.torn(), *flaws):
        click.echo(line)
    if flaws:
        raise LedgerError(
            f"the ledger of {run_dir} is damaged in {len(flaws)} place(s): what was hit is paid "
            "for once more when it is asked for; all else is used as before",
            transient=False,
        )
    click.echo(f"{len(book.state.jobs)} vendor jobs, {len(book.state.requests)} requests: whole")

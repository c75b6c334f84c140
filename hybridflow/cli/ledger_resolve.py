"""``hybridflow ledger resolve``: a decision about a vendor job that cannot be looked up."""

import click

__all__ = ["command"]


@click.command(
    "resolve", epilog="Example: hybridflow ledger resolve runs/h2o 5232b4af --job-id d1ab2c3"
)
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path())
@click.argument("tag", metavar="TAG")
@click.option("--job-id", metavar="ID", help="The vendor has it, under this id: fetch its results.")
@click.option("--repeat", is_flag=True, help="It is not there, or may be paid for twice.")
def command(run_dir: str, tag: str, job_id: str | None, repeat: bool) -> None:
    """Decide about a vendor job whose id was lost: the beginning of its TAG is enough.

    It is looked for at the vendor by hand, around the time that `hybridflow ledger show` tells. The
    decision counts from when the run goes on.
    """
    from hybridflow.broker.ledger.book import Book

    if bool(job_id) == repeat:
        raise click.UsageError("say either --job-id ID or --repeat")
    Book(run_dir).resolve(tag, job_id)
    what = f"is vendor job {job_id}" if job_id else "may be repeated"
    click.echo(f"{tag} {what}; go on with the run in {run_dir}")

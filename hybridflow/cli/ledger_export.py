"""``hybridflow ledger export``: a run's record as lines of JSON, for other programs."""

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hybridflow.broker.ledger.known import Job, RequestRecord

__all__ = ["command"]


@click.command("export", epilog="Example: hybridflow ledger export runs/h2o > ledger.jsonl")
@click.argument("run_dir", metavar="RUN_DIR", type=click.Path())
def command(run_dir: str) -> None:
    """Print each vendor job and each request of a run as one line of JSON.

    Times are in seconds since 1970. Requests of equal digest ask for the same; a request's vendor
    job is the one whose results it got.
    """
    from hybridflow.broker.ledger.book import Book

    book = Book(run_dir)
    for job in book.state.jobs.values():
        click.echo(json.dumps(_job(job)))
    for request in book.state.requests.values():
        click.echo(json.dumps(_request(request)))


def _job(job: "Job") -> dict[str, Any]:
    return {
        "kind": "vendor job",
        "tag": job.tag,
        "id": job.id,
        "state": job.phase.value,
        "resource": job.opened.resource,
        "backend": job.opened.backend,
        "broker": job.opened.owner.name,
        "host": job.opened.owner.host,
        "slurm_job": job.opened.owner.slurm_job,
        "sent": job.intended.time,
        "requests": list(job.intended.requests),
        "shares": [cut.share for cut in job.intended.cuts],
        "qpu_seconds": job.usage.qpu_seconds,
        "shots": job.usage.shots,
        "error": job.error.message if job.error else "",
    }


def _request(request: "RequestRecord") -> dict[str, Any]:
    admitted = request.admitted
    return {
        "kind": "request",
        "id": admitted.request,
        "digest": admitted.digest.hex(),
        "key": admitted.key,
        "state": request.phase.value,
        "vendor_job": request.place.job.id if request.place else None,
        "reused": request.reused,
        "arrived": admitted.time,
        "pubs": admitted.pubs,
        "circuits": admitted.circuits,
        "shots": admitted.shots,
        "user": admitted.client.user,
        "task": admitted.client.task,
        "host": admitted.client.host,
        "pid": admitted.client.pid,
        "session": request.opened.owner.session,
        "error": request.error.message if request.error else "",
    }

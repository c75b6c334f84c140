"""What a person is told who has to decide about a vendor job that nobody can look up."""

import time
from pathlib import Path

from hybridflow.broker.ledger.known import Job

__all__ = ["uncertain", "what_to_do"]


def uncertain(job: Job, run: Path, asks: bool) -> str:
    """Return what is not known about a vendor job and, if a person is asked, what to do."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.intended.time))
    known = f"{_unknown(job)}: it was sent to {job.opened.resource!r} at {when} with "
    known += f"{len(job.intended.requests)} requests and the tag {job.tag}"
    if not asks:
        return f"{known}; `on_uncertain` in the site file says that it is not paid for twice"
    return f"{known}; {what_to_do(run, job.tag)}"


def what_to_do(run: Path, tag: str) -> str:
    """Return what a person can do about a vendor job that may or may not be there."""
    command = f"hybridflow ledger resolve {run} {tag}"
    return (
        f"look at the vendor's list of jobs: if it is there, run `{command} --job-id ID`; if not, "
        f"`{command} --repeat`; then go on with the run"
    )


def _unknown(job: Job) -> str:
    if not job.is_open:
        return "whether a vendor job was started is not known, since its id was lost"
    return (
        f"what has become of vendor job {job.id or '(no id)'} is not known, since nobody can say "
        f"whether its broker on {job.opened.owner.host} has ended"
    )

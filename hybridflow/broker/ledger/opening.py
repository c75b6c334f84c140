"""Opens the journal that a broker is to keep: in the folder of the run that it belongs to."""

import contextlib
import os
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path

from hybridflow import environment
from hybridflow.broker.journal import Journal, NoJournal
from hybridflow.broker.lanes import is_free
from hybridflow.broker.ledger.folders import sync_folder
from hybridflow.broker.ledger.journal import LedgerJournal
from hybridflow.broker.ledger.owner import this_process
from hybridflow.broker.ledger.reader import Reader
from hybridflow.broker.ledger.state import State
from hybridflow.records import Capabilities, Resource

__all__ = ["open_journal", "slurm_jobs_left"]


def open_journal(
    resource: Resource,
    capabilities: Capabilities,
    *,
    environ: Mapping[str, str] = os.environ,
    ended_jobs: Collection[str] = (),
) -> Journal:
    """Return the journal of a new broker in this process; without a run, it keeps nothing.

    Parameters
    ----------
    resource, capabilities
        What the broker drives.
    environ
        Names the run.
    ended_jobs
        Slurm jobs that have ended: what brokers in them have left behind is taken over.

    Raises
    ------
    LedgerError
        If the run's ledger was written by a newer version, or others may write to it.
    """
    run = environ.get(environment.RUN)
    if not run:
        return NoJournal()
    with contextlib.suppress(OSError):  # whoever writes first will say so
        _make(Path(run).absolute(), durable=not is_free(capabilities))
    name = f"{resource.name}-{uuid.uuid4().hex[:8]}"
    owner = this_process(name, environment.session(environ), environ)
    return LedgerJournal(
        Path(run).absolute(),
        resource,
        owner,
        free=is_free(capabilities),
        job_ended=lambda job: True if job in ended_jobs else None,
    )


def _make(run: Path, *, durable: bool) -> None:
    missing = [folder for folder in (run, *run.parents) if not folder.exists()]
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in missing if durable else ():
        sync_folder(folder.parent)


def slurm_jobs_left(run: Path, resource: str) -> set[str]:
    """Return the Slurm jobs whose brokers have begun vendor jobs and not said how they ended.

    Raises
    ------
    LedgerError
        If the run's ledger cannot be read.
    """
    state = State("")
    for opened, step in Reader(run / "ledger").news():
        state.apply(opened, step)
    return {
        job.opened.owner.slurm_job
        for job in state.jobs.values()
        if job.opened.resource == resource and job.is_open
    } - {""}

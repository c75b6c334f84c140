"""Who writes a ledger's file, and whether it has ended: nobody else may take over its vendor jobs.

On the same machine the operating system knows, elsewhere Slurm, which is asked by a function that
is given from above. Where neither knows, nothing is taken over.
"""

import contextlib
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

from hybridflow import environment
from hybridflow.kernel import process_born, process_namespace
from hybridflow.records import Record

__all__ = ["JobEnded", "Owner", "has_ended", "is_over", "nobody_knows", "this_process"]

JobEnded = Callable[[str], bool | None]
"""Whether a Slurm job has ended; None: not known."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_MACHINE = Path("/etc/machine-id")


class Owner(Record, frozen=True, kw_only=True):
    """A process, so that no other is ever taken for it.

    Attributes
    ----------
    name
        Name of the broker.
    session
        The execution of the workflow that it belongs to: a run that is resumed has several.
    host, machine, boot
        The machine, and what tells one life of it from the next.
    namespace, pid, born
        The process: its space of process ids, its id, and when it was started (in clock ticks).
    slurm_job, slurm_restarts
        Its Slurm job, and how often that was requeued before.
    """

    name: str
    session: str
    host: str
    machine: str
    boot: str
    namespace: int
    pid: int
    born: int
    slurm_job: str = ""
    slurm_restarts: int = 0


def this_process(name: str, session: str, environ: Mapping[str, str] = os.environ) -> Owner:
    """Return this process as an owner."""
    return Owner(
        name=name,
        session=session,
        host=platform.node(),
        machine=_line(_MACHINE),
        boot=_line(_BOOT),
        namespace=process_namespace(),
        pid=os.getpid(),
        born=process_born(os.getpid()) or 0,
        slurm_job=environ.get(environment.SLURM_JOB, ""),
        slurm_restarts=int(environ.get(environment.SLURM_RESTARTS) or 0),
    )


def nobody_knows(job: str) -> bool | None:
    """Return None: there is no Slurm to ask."""
    return None


def has_ended(owner: Owner, here: Owner, job_ended: JobEnded = nobody_knows) -> bool | None:
    """Whether a process has ended; None if nobody can say.

    Parameters
    ----------
    owner
        The process.
    here
        This process.
    job_ended
        Asked about the Slurm job of a process of another machine.
    """
    if owner.boot == here.boot:
        if owner.namespace == here.namespace:
            return process_born(owner.pid) != owner.born
    elif (owner.host, owner.machine) == (here.host, here.machine):
        return True  # the machine was started again
    if not owner.slurm_job:
        return None
    if owner.slurm_job == here.slurm_job:
        return True if owner.slurm_restarts < here.slurm_restarts else None
    return job_ended(owner.slurm_job)


def is_over(owner: Owner, here: Owner) -> bool | None:
    """Whether the execution of a workflow that a process belongs to is over; None: not known.

    It is when the process that began it has ended: what that had started may still be at work.
    """
    _, *process = owner.session.split("-")
    if len(process) != 3 or not all(map(str.isdecimal, process)) or owner.boot != here.boot:
        return None  # somebody has named it, or it was begun elsewhere
    pid, born, namespace = map(int, process)
    return process_born(pid) != born if namespace == here.namespace else None


def _line(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text().strip()
    return ""

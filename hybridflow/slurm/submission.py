"""Submitting jobs, waiting for them, cancelling them."""

import re
import time
from collections.abc import Callable

from hybridflow.errors import JobFailedError, JobRefusedError, SlurmError
from hybridflow.slurm.commands import run_slurm
from hybridflow.slurm.jobs import Job
from hybridflow.slurm.queries import JobInfo, SlurmState, Watch
from hybridflow.slurm.script import script

__all__ = ["PATIENCE_SECONDS", "cancel", "check_completed", "submit", "wait", "wait_for_end"]

PATIENCE_SECONDS = 600.0
"""How long :func:`wait` puts up with a Slurm that does not answer, in seconds."""

_MEANINGS = {
    SlurmState.FAILED: "failed",
    SlurmState.TIMEOUT: "reached its time limit: ask for a longer --walltime",
    SlurmState.DEADLINE: "could not end before its deadline",
    SlurmState.CANCELLED: "was cancelled",
    SlurmState.PREEMPTED: "was preempted by a job of higher priority: submit it again",
    SlurmState.NODE_FAIL: "lost a node: submit it again",
    SlurmState.BOOT_FAIL: "lost a node, which did not boot: submit it again",
    SlurmState.OUT_OF_MEMORY: "ran out of memory: ask for more",
    SlurmState.VANISHED: "has vanished: Slurm knows nothing of it any more",
    SlurmState.REVOKED: "was taken over by another cluster of the federation",
}
_TRANSIENT = {SlurmState.PREEMPTED, SlurmState.NODE_FAIL, SlurmState.BOOT_FAIL}


def submit(job: Job) -> str:
    """Submit a job from the current folder and return its number.

    Raises
    ------
    JobRefusedError
        If Slurm does not take it: Slurm's own words.
    SlurmError
        If Slurm could not be reached, or has no ``sbatch`` here.
    """
    answer = run_slurm("sbatch", "--parsable", script=script(job), refused=JobRefusedError)
    number = re.search(r"^(\d+)(;\S+)?$", answer, re.MULTILINE)
    if number is None:
        raise SlurmError(f"sbatch did not say the number of the job, but: {answer.strip()!r}")
    return number[1]


def cancel(*jobs: str) -> None:
    """Cancel jobs; those that have ended stay as they are.

    Raises
    ------
    SlurmError
        If Slurm could not be reached, or refuses.
    """
    if jobs:
        run_slurm("scancel", *jobs)


def wait(
    job: str,
    *,
    on_change: Callable[[JobInfo], None] | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> JobInfo:
    """Wait until a job has completed.

    A controller that is down for a while is waited for.

    Parameters
    ----------
    job
        Its number.
    on_change
        Called with each new state.
    patience_seconds
        How long Slurm may not answer, in seconds.

    Returns
    -------
    JobInfo
        What Slurm says of the completed job.

    Raises
    ------
    JobFailedError
        If the job has not completed, or waits for what cannot come (it is not cancelled then):
        says why, and what to do; ``transient`` where submitting it again may help.
    SlurmError
        If Slurm does not answer for too long.
    """
    info = wait_for_end(job, on_change=on_change, patience_seconds=patience_seconds)
    check_completed(info)
    return info


def wait_for_end(
    job: str,
    *,
    on_change: Callable[[JobInfo], None] | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> JobInfo:
    """Wait until a job has ended, well or not, or waits for what cannot come; see :func:`wait`."""
    watch, answered = Watch([job]), time.monotonic()
    before: JobInfo | None = None
    while True:
        try:
            info, answered = watch.look()[job], time.monotonic()
        except SlurmError as error:
            if not error.transient or time.monotonic() - answered > patience_seconds:
                raise
        else:
            if on_change is not None and (before is None or _shown(info) != _shown(before)):
                on_change(info)
            # A reason is believed when it is seen twice: Slurm's two schedulers may differ.
            if info.state.final or (info.hopeless and before is not None and before.hopeless):
                return info
            before = info
        time.sleep(watch.interval_seconds)


def _shown(info: JobInfo) -> tuple[SlurmState, str, str]:
    return info.state, info.reason, info.nodes


def check_completed(info: JobInfo) -> None:
    """Raise what keeps a job from being completed, if anything does.

    Raises
    ------
    JobFailedError
        If it has failed, or waits for what cannot come.
    """
    if info.hopeless:
        raise JobFailedError(
            f"Slurm job {info.group} waits for what cannot come ({info.reason}) in partition "
            f"{info.partition!r}: scancel {info.group}, and ask for something else"
        )
    if info.state is SlurmState.COMPLETED:
        return
    text = _MEANINGS.get(info.state, f"is {info.state.value}")
    status = f", exit status {info.exit_status}" if info.exit_status else ""
    reason = f" ({info.reason})" if info.reason else ""
    raise JobFailedError(
        f"Slurm job {info.group} {text}{status}{reason}", transient=info.state in _TRANSIENT
    )

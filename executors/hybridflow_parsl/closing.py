"""When workers stop taking tasks: a margin before the end of the Slurm job that they stand in.

A task that begins before may run into the end of the job; Parsl then tries it again elsewhere, as
often as ``Config(retries=…)`` allows.
"""

import logging
import time
from collections.abc import Mapping

from hybridflow.errors import DeadlineError, SlurmError
from hybridflow.walltime import job_deadline

__all__ = ["MARGIN_SECONDS", "NO_DRAIN", "closing_time", "drain_seconds"]

MARGIN_SECONDS = 60.0
"""Seconds before the job's end in which no task is begun, unless a quarter of the time is less."""

NO_DRAIN = "--drain_period=None"
"""What Parsl's worker pool is told where nobody has said when it should stop taking tasks."""

_log = logging.getLogger(__name__)


def closing_time(environ: Mapping[str, str]) -> float | None:
    """Return when workers in this Slurm job stop taking tasks (Unix time); None: never.

    Where Slurm does not say when the job ends, a warning does.
    """
    try:
        deadline = job_deadline(environ)
    except SlurmError as error:
        _log.warning("when this job ends is not known, its end may cut tasks: %s", error)
        return None
    if deadline is None:
        return None
    return deadline - min(MARGIN_SECONDS, max(0.0, deadline - time.time()) / 4)


def drain_seconds(closing: float) -> int:
    """Return how long workers that start now take tasks, in seconds.

    Raises
    ------
    DeadlineError
        If they should take none.
    """
    left = int(closing - time.time())
    if left < 1:
        raise DeadlineError(
            "the Slurm job around this ends soon: no further tasks are begun; submit it again with "
            "a longer walltime",
            transient=False,
        )
    return left

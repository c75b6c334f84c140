"""When a Slurm job ends: what is left of its time limit, as an absolute time; looked at again.

The plugin's ``NAME_QRMI_JOB_TIMEOUT_SECONDS`` is the whole limit. Newer Slurm says the end in the
job's environment; older ones are asked, and so is every Slurm from time to time: a time limit may
be changed while the job runs.
"""

import threading
from collections.abc import Callable, Mapping

from hybridflow import environment, squeue
from hybridflow.errors import SlurmError

__all__ = ["LOOK_SECONDS", "DeadlineWatch", "job_deadline"]

LOOK_SECONDS = 60.0
"""Time between two looks at a job's end, in seconds: one question for each slot."""


def job_deadline(environ: Mapping[str, str]) -> float | None:
    """Return the time at which the Slurm job of this process ends at the latest.

    In a heterogeneous job it is the end of the component that this process is in.

    Parameters
    ----------
    environ
        The job's variables.

    Returns
    -------
    float or None
        Unix time in seconds; None outside a job, and for a job without a time limit.

    Raises
    ------
    SlurmError
        If Slurm was asked and did not say.
    """
    if not environment.in_slurm_job(environ):
        return None
    said = environ.get(environment.JOB_END, "")
    if said.isdecimal() and environment.HET_SIZE not in environ:
        return float(said)
    return squeue.ask(environ).end


class DeadlineWatch:
    """Asks Slurm now and then when the job ends, and tells of every change; a context manager.

    Does nothing outside a job. While Slurm does not answer, what it has said before holds.

    Parameters
    ----------
    environ
        The job's variables.
    known
        What is known of the end so far.
    tell
        Called with each new end, in a thread of the watch's own.
    interval_seconds
        Time between two looks, in seconds.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        known: float | None,
        tell: Callable[[float | None], None],
        interval_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._environ = environ
        self._known = known
        self._tell = tell
        self._interval_seconds = interval_seconds
        self._closing = False
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hybridflow-deadline", daemon=True)

    def __enter__(self) -> "DeadlineWatch":
        if environment.in_slurm_job(self._environ):
            self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._closing = True  # a question that is under way is not waited for
        self._hurry.set()

    def look_now(self) -> None:
        """Have the next look taken at once: something has ended, perhaps because the job does."""
        self._hurry.set()

    def _run(self) -> None:
        while True:
            self._hurry.wait(self._interval_seconds)
            if self._closing:
                return
            self._hurry.clear()
            self._look()

    def _look(self) -> None:
        try:
            job = squeue.ask(self._environ)
        except SlurmError:
            return  # slurmctld may be down for a while; the limit that was set still holds
        # That it is being cancelled now does not make now the end of its time.
        if not job.ends_early and job.end != self._known:
            self._known = job.end
            self._tell(job.end)

"""The jobs of the blocks that a workflow has asked for: submitted, watched together, cancelled.

::

    driver ── BlockJobs ──► sbatch, squeue (one question for all jobs), scancel
      │  lease
      └─────► sweeper.py    cancels what is left when the driver is gone, however it went

All jobs of one workflow have names with one beginning, by which the sweeper finds them, also one
that was being submitted when the driver died.
"""

import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from hybridflow import environment
from hybridflow.errors import JobFailedError, SlurmError
from hybridflow.lease import Lease
from hybridflow.slurm.jobs import Job
from hybridflow.slurm.queries import FIRST_SECONDS, JobInfo, Watch
from hybridflow.slurm.submission import PATIENCE_SECONDS, cancel, check_completed, submit

__all__ = ["BlockJobs"]

SWEEP_SECONDS = 60.0
"""Time that :meth:`BlockJobs.close` gives the sweeper, in seconds."""

_log = logging.getLogger(__name__)


class BlockJobs:
    """The jobs of one workflow's blocks; may be used from several threads.

    Parameters
    ----------
    folder
        For the driver's lease and what the sweeper has to say; made when the first job is
        submitted.

    Attributes
    ----------
    family
        The beginning of all jobs' names.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.family = f"hybridflow-{secrets.token_hex(4)}"
        self._folder = Path(folder).absolute()
        self._lock = threading.Lock()
        self._watch = Watch([])
        self._seen: dict[str, JobInfo] = {}
        self._hopeless: dict[str, JobInfo] = {}
        self._given_up: dict[str, JobInfo] = {}
        self._cancelled: set[str] = set()
        self._next = 0.0
        self._answered = 0.0
        self._lease: Lease | None = None
        self._sweeper: subprocess.Popen[bytes] | None = None

    def name(self, label: str) -> str:
        """Return the name for a job of this workflow, such as ``hybridflow-1a2b3c4d-qpu-0``."""
        return f"{self.family}-{label}"

    def submit(self, job: Job) -> str:
        """Submit a job, whose name is one of :meth:`name`, and return its number.

        Raises
        ------
        JobRefusedError
            If Slurm does not take it.
        SlurmError
            If Slurm could not be reached.
        """
        assert job.name.startswith(self.name("")), job.name
        with self._lock:
            if self._lease is None:
                self._lease = self._guard()
            number = submit(job)
            self._watch.add(number)
            self._seen[number] = JobInfo(id=number, group=number, name=job.name)
            self._answered = time.monotonic()
            self._next = self._answered + self._watch.interval_seconds
        return number

    def _guard(self) -> Lease:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lease = Lease.hold(self._folder / f"{self.family}.lease")
        said = os.open(lease.path.with_suffix(".out"), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            self._sweeper = subprocess.Popen(
                [sys.executable, "-m", "hybridflow.slurm.sweeper", str(lease.path), self.family],
                env=environment.clean(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                # Neither Ctrl-C nor the end of the terminal is for it.
                start_new_session=True,
            )
        except BaseException:
            lease.close()
            raise
        finally:
            os.close(said)
        return lease

    def look(self) -> dict[str, JobInfo]:
        """Return the state of each job, by its number.

        Slurm is asked once for all of them, and the more seldom the longer nothing has changed. In
        between, and while it does not answer, the states are those that were seen last.

        Raises
        ------
        SlurmError
            If Slurm has not answered for ten minutes.
        """
        with self._lock:
            if self._seen and time.monotonic() >= self._next:
                self._ask()
            return dict(self._seen)

    def look_soon(self) -> None:
        """Ask Slurm at the next :meth:`look`: something has happened to a block."""
        with self._lock:
            self._watch.interval_seconds = FIRST_SECONDS
            self._next = min(self._next, self._answered + FIRST_SECONDS)

    def problem(self, number: str) -> JobFailedError | None:
        """Return why a job has ended, or can never start; None if nothing is wrong with it.

        A job that has completed, or was cancelled here, is as it should be.
        """
        with self._lock:
            if number in self._given_up:
                return _never_starts(self._given_up[number])
            info = self._seen[number]
            if not info.state.final or number in self._cancelled:
                return None
        try:
            check_completed(info)
        except JobFailedError as error:
            return error
        return None

    def cancel(self, *numbers: str) -> None:
        """Cancel jobs; those that have ended stay as they are.

        Raises
        ------
        SlurmError
            If Slurm could not be reached.
        """
        with self._lock:
            self._cancel([n for n in numbers if not self._seen[n].state.final])

    def close(self) -> None:
        """Cancel what is left of all jobs, and wait for that; may be called twice."""
        with self._lock:
            if self._lease is not None and self._sweeper is not None:
                self._lease.close()
                try:
                    self._sweeper.wait(SWEEP_SECONDS)
                except subprocess.TimeoutExpired:
                    _log.warning(
                        "jobs named %s may be left: process %d still tries to cancel them",
                        self.name("*"),
                        self._sweeper.pid,
                    )

    def _cancel(self, numbers: Sequence[str]) -> None:
        if numbers:
            cancel(*numbers)
            self._cancelled |= set(numbers)
            self._next = 0.0

    def _ask(self) -> None:
        try:
            self._seen = self._watch.look()
        except SlurmError as error:
            self._next = time.monotonic() + self._watch.interval_seconds
            if not error.transient or time.monotonic() - self._answered > PATIENCE_SECONDS:
                raise
        else:
            self._answered = time.monotonic()
            self._next = self._answered + self._watch.interval_seconds
            self._give_up_hopeless()

    def _give_up_hopeless(self) -> None:
        # A reason is believed when it is seen twice: Slurm's two schedulers may differ.
        hopeless = {number: info for number, info in self._seen.items() if info.hopeless}
        twice = {number: hopeless[number] for number in hopeless if number in self._hopeless}
        self._hopeless = hopeless
        self._given_up |= twice
        left = [number for number in self._given_up if not self._seen[number].state.final]
        try:
            self._cancel(left)
        except SlurmError as error:
            if not error.transient:
                raise  # else the next look tries again


def _never_starts(info: JobInfo) -> JobFailedError:
    return JobFailedError(
        f"Slurm job {info.group} waited for what cannot come ({info.reason}) in partition "
        f"{info.partition!r} and was cancelled: correct [slurm] of the site file"
    )

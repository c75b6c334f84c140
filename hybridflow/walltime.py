"""When a Slurm job ends: what is left of its time limit, as an absolute time.

The plugin's ``NAME_QRMI_JOB_TIMEOUT_SECONDS`` is the whole limit. Newer Slurm says the end in the
job's environment; older ones are asked, once, at the door.
"""

import subprocess
from collections.abc import Mapping

from hybridflow import environment
from hybridflow.errors import SlurmError

__all__ = ["job_deadline"]

_ANSWER_SECONDS = 10.0
_UNLIMITED = ("N/A", "NONE", "Unknown")


def job_deadline(environ: Mapping[str, str]) -> float | None:
    """Return the time at which the Slurm job of this process ends at the latest.

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
    if said.isdecimal():
        return float(said)
    return _ask(environ[environment.SLURM_JOB], environ)


def _ask(job: str, environ: Mapping[str, str]) -> float | None:
    answer = _squeue(job, environ)
    # A heterogeneous job, or an array, answers with a line for each of its jobs.
    for line in answer.splitlines():
        number, _, end = line.strip().partition(" ")
        if number == job and end.strip().isdecimal():
            return float(end)
        if number == job and end.strip() in _UNLIMITED:
            return None
    raise SlurmError(f"squeue does not say when job {job} ends: {answer.strip()!r}")


def _squeue(job: str, environ: Mapping[str, str]) -> str:
    # Not through slurm/commands.py: the door stands below that room, and waits for less long.
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%A %e"]
    try:
        done = subprocess.run(
            command,
            env={**environ, "SLURM_TIME_FORMAT": "%s"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise SlurmError(
            f"squeue did not answer in {_ANSWER_SECONDS:g} s", transient=True
        ) from error
    except subprocess.CalledProcessError as error:
        raise SlurmError(f"squeue says: {error.stderr.strip()}", transient=True) from error
    except OSError as error:
        raise SlurmError(f"squeue cannot be started: {error.strerror}") from error
    return done.stdout

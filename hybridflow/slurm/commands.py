"""Slurm's commands, run with a time limit; what goes wrong becomes an error with Slurm's own words.

This is the one place of the project that starts them, but for the local cluster and the workers
that ``srun`` carries to other nodes (``allocation.py``).
"""

import os
import re
import subprocess
from collections.abc import Mapping

from hybridflow import environment
from hybridflow.errors import SlurmError

__all__ = ["COMMAND_SECONDS", "run_slurm"]

COMMAND_SECONDS = 60.0
"""Time limit of one command, in seconds: a busy controller takes its time."""

_TRANSIENT = re.compile(
    r"unable to contact slurm|socket timed out|connection (refused|timed out|reset)|communication"
    r"|zero bytes were transmitted|standby mode|resource temporarily unavailable|munge|database"
    r"|not responding",
    re.IGNORECASE,
)

_UNCONFIGURED = "Could not establish a configuration source"


def run_slurm(
    program: str,
    *arguments: str,
    script: str | None = None,
    refused: type[SlurmError] = SlurmError,
    timeout: float = COMMAND_SECONDS,
) -> str:
    """Run one of Slurm's commands and return what it printed.

    Parameters
    ----------
    program
        Name of the command, such as ``"squeue"``.
    *arguments
        Its arguments.
    script
        What it reads from its standard input.
    refused
        Class of the error if Slurm was reached and did not do it.
    timeout
        Time limit in seconds.

    Raises
    ------
    SlurmError
        If the command is not here, took too long, or failed; ``transient`` where Slurm's daemons
        could not be reached.
    """
    line = " ".join([program, *arguments])
    try:
        done = subprocess.run(
            [program, *arguments],
            input=script or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=_variables(os.environ),
            check=False,
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"there is no command `{program}` here: run this on a machine with Slurm's commands, "
            "or put them into PATH"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"`{line}` took longer than {timeout:g} s", transient=True) from error
    if done.returncode == 0:
        return done.stdout
    words = _words(done.stderr or done.stdout) or f"exit status {done.returncode}"
    if _TRANSIENT.search(words):
        raise SlurmError(f"Slurm cannot be reached: `{line}` says: {words}", transient=True)
    if _UNCONFIGURED in words:
        raise SlurmError(
            f"`{program}` finds no Slurm to ask: there is no slurm.conf on this machine, and "
            'SLURM_CONF names none; for a local cluster, run `eval "$(hybridflow cluster env)"`, '
            "and on a site a machine of its Slurm"
        )
    raise refused(f"`{line}` failed: {words}")


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    # A job that is submitted from inside a slot, or from a worker, is in neither. English errors.
    ours = (environment.BROKER, environment.ROLE)
    return {name: value for name, value in environ.items() if name not in ours} | {"LC_ALL": "C"}


def _words(output: str) -> str:
    lines = [re.sub(r"^\w+: (error: )?", "", line.strip()) for line in output.splitlines()]
    return "; ".join(dict.fromkeys(filter(None, lines)))

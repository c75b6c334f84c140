"""Commands that are run against a local cluster; a failure becomes an error with their words."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from hybridflow.errors import ClusterError

__all__ = ["run"]


def run(
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end.

    Parameters
    ----------
    command
        Program and arguments.
    environ
        What is added to its environment, so that Slurm's commands find the cluster.
    check
        Whether a failure is an error, or the caller's to see.
    env
        Its environment; this process's if not given.
    **options
        For :func:`subprocess.run`; by default, output is captured as text and the time limit is a
        minute.

    Raises
    ------
    ClusterError
        If it fails or takes too long: with what it said.
    """
    variables = {**(os.environ if env is None else env), **environ}
    settings = {"capture_output": True, "text": True, "timeout": 60.0, **options}
    if "input" not in settings:
        settings.setdefault("stdin", subprocess.DEVNULL)
    try:
        done = subprocess.run(command, env=variables, check=False, **settings)
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"`{' '.join(command)}` took longer than {error.timeout:g} s") from error
    if check and done.returncode != 0:
        raise ClusterError(
            f"`{' '.join(command)}` failed with exit status {done.returncode}: "
            f"{done.stderr or done.stdout or 'it said nothing'}"
        )
    return done

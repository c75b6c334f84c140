"""Cancels what is left of a workflow's blocks when its driver is gone, however it went.

``python -m hybridflow.slurm.sweeper LEASE FAMILY`` waits for the end of the driver's lease, and
then cancels all jobs of this user whose names begin with FAMILY. It runs beside the driver, on the
same machine (``block_jobs.py``). Where it is killed, too, workers end by themselves, as they watch
a lease of their own, and so does a job that starts later.
"""

import argparse
import contextlib
import os
import pwd
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hybridflow.errors import SlurmError
from hybridflow.lease import Watch
from hybridflow.slurm.queries import all_jobs
from hybridflow.slurm.submission import PATIENCE_SECONDS, cancel

__all__ = ["main"]

_WAIT_SECONDS = 3600.0
_SECONDS_BETWEEN_LOOKS = 2.0
_LOOKS_AFTER_DEATH = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Wait for the driver's end, and sweep; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hybridflow.slurm.sweeper",
        description="Cancel all jobs named FAMILY-… when the lease LEASE is lost.",
        epilog="example: python -m hybridflow.slurm.sweeper run/f.lease hybridflow-1a2b3c4d",
    )
    parser.add_argument("lease", metavar="LEASE", help="file of the driver's lease")
    parser.add_argument("family", metavar="FAMILY", help="beginning of the jobs' names")
    chosen = parser.parse_args(arguments)
    # What ends the driver may be sent to all processes of its user; this one has still to work.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    _await_end(chosen.lease)
    released = not os.path.exists(chosen.lease)
    # A job that was being submitted when the driver died may appear a moment later.
    status = _sweep(chosen.family, looks=1 if released else _LOOKS_AFTER_DEATH)
    _tidy(Path(chosen.lease))
    return status


def _tidy(lease: Path) -> None:
    said = lease.with_suffix(".out")
    with contextlib.suppress(FileNotFoundError):
        if said.stat().st_size == 0:
            said.unlink()
    lease.unlink(missing_ok=True)


def _await_end(lease: str) -> None:
    watch = Watch(lease)
    while watch.wait(_WAIT_SECONDS) is None:
        pass
    watch.close()


def _sweep(family: str, looks: int) -> int:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while looks:
        try:
            left = _jobs_of(family)
            cancel(*left)
        except SlurmError as error:
            print(f"hybridflow: {error}", file=sys.stderr, flush=True)
            if not error.transient or time.monotonic() > deadline:
                return 1
        else:
            looks -= 1
        if looks:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    return 0


def _jobs_of(family: str) -> list[str]:
    user = pwd.getpwuid(os.getuid()).pw_name
    return sorted(
        {
            job.group
            for job in all_jobs()
            if job.name.startswith(f"{family}-") and job.user == user and not job.state.final
        }
    )


if __name__ == "__main__":
    sys.exit(main())

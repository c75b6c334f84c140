"""What tests on a Slurm cluster share: waiting for it, and looking at the processes of a site."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import psutil

SECONDS = 100.0
"""Patience with engines that start inside Slurm jobs on a busy machine, in seconds."""


def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until `condition()` holds; not too often, since it may ask Slurm."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def processes_of(site: Path) -> list[psutil.Process]:
    """Return the processes that were started with a site file, on all nodes of the cluster."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HYBRIDFLOW_SITE") == str(site):
                found.append(process)
    return found

"""The commands that our executors start: Parsl's own programs, and what is put in front of them.

All of them run with the driver's interpreter, whatever ``PATH`` says, each under the door or a
keeper (``hybridflow/launch.py``), and end with the driver's lease (``hybridflow/lease.py``).
"""

import os
import sys
from collections.abc import Mapping, Sequence

from hybridflow import environment
from hybridflow.site import Site

__all__ = ["INTERCHANGE", "WORKER_POOL", "detached", "with_variables"]

WORKER_POOL = (sys.executable, "-m", "hybridflow_parsl.pool")
INTERCHANGE = (sys.executable, "-m", "parsl.executors.high_throughput.interchange")


def detached(command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command` out of reach of the terminal's Ctrl-C.

    The driver decides what an interrupt means, and needs the interchange for its clean-up.
    """
    return ["setsid", *command]


def with_variables(command: Sequence[str], site: Site, variables: Mapping[str, str]) -> list[str]:
    """Return the command line that runs `command` with variables, the driver's site and its run.

    A provider's job script does not always carry the driver's environment over.
    """
    settings = dict(variables)
    if site.path:
        settings[environment.SITE] = site.path
    if run := os.environ.get(environment.RUN):
        settings[environment.RUN] = os.path.abspath(run)
    settings[environment.SESSION] = environment.session(os.environ)
    return ["env", *(f"{name}={value}" for name, value in settings.items()), *command]

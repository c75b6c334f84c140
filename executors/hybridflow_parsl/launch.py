"""The commands that our executors start: Parsl's own programs, each under the door or a keeper.

All of them run with the driver's interpreter, whatever ``PATH`` says, and end with the driver's
lease (``hybridflow/lease.py``).
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybridflow import environment
from hybridflow.environment import Role
from hybridflow.site import Site

__all__ = ["INTERCHANGE", "WORKER_POOL", "detached", "in_slot", "kept", "with_variables"]

WORKER_POOL = (sys.executable, "-m", "hybridflow_parsl.pool")
INTERCHANGE = (sys.executable, "-m", "parsl.executors.high_throughput.interchange")


def in_slot(command: Sequence[str], site: Site, resource: str, lease: Path) -> list[str]:
    """Return the command line that runs `command` inside a slot."""
    chosen = ["--site", site.path] if site.path else []
    door = [sys.executable, "-m", "hybridflow", "slot", "run", *chosen, "--resource", resource]
    return [*door, "--lease", str(lease), "--", *command]


def kept(command: Sequence[str], lease: Path, role: Role | None = None) -> list[str]:
    """Return the command line that runs `command` under a keeper, for a role if there is one."""
    chosen = ["--role", role.value] if role else []
    keeper = [sys.executable, "-m", "hybridflow.keeper", *chosen]
    return [*keeper, "--lease", str(lease), "--", *command]


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
    return ["env", *(f"{name}={value}" for name, value in settings.items()), *command]

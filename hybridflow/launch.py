"""The commands that engines start: their own programs, under the door or a keeper, and their ends.

An engine's package makes the command lines of its workers here and starts them where it will. When
one has ended, what it wrote and its exit status become an error of ours: the door's and the
keeper's own words stand behind ``error:`` or ``hybridflow:``, and the door's exit status tells
whose fault it is (``cli/__init__.py``).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from hybridflow.environment import Role
from hybridflow.errors import (
    AcquireError,
    BrokerLostError,
    HybridflowError,
    NoSlotError,
    WorkerLostError,
)
from hybridflow.keeper import GRACE_SECONDS
from hybridflow.site import Site

__all__ = ["TRY_AGAIN", "in_slot", "kept", "launch_error"]

TRY_AGAIN = 75
"""Exit status of the door when starting it again may help."""

_OURS = ("error: ", "hybridflow: ")
_LINES = 3
_RESOURCE_FAILED = 3


def in_slot(command: Sequence[str], site: Site, resource: str, lease: Path) -> list[str]:
    """Return the command line that runs `command` inside a slot."""
    chosen = ["--site", site.path] if site.path else []
    door = [sys.executable, "-m", "hybridflow", "slot", "run", *chosen, "--resource", resource]
    return [*door, "--lease", str(lease), "--", *command]


def kept(
    command: Sequence[str],
    lease: Path,
    role: Role | None = None,
    *,
    grace_seconds: float = GRACE_SECONDS,
) -> list[str]:
    """Return the command line that runs `command` under a keeper, for a role if there is one."""
    chosen = ["--role", role.value] if role else []
    if grace_seconds != GRACE_SECONDS:
        chosen += ["--grace", str(grace_seconds)]
    keeper = [sys.executable, "-m", "hybridflow.keeper", *chosen]
    return [*keeper, "--lease", str(lease), "--", *command]


def launch_error(
    who: str, role: Role, status: int | None, output: str, *, came_up: bool, log: str | None = None
) -> HybridflowError:
    """Return an error that says why a program of an engine, started here, has ended.

    Parameters
    ----------
    who
        Who has no workers now, as the beginning of a sentence.
    role
        What the workers are for.
    status
        Exit status of the door or the keeper, if it is known.
    output
        What they and the program wrote, or its end.
    came_up
        Whether the workers had come up before.
    log
        Where more of it stands, if it stays there.
    """
    where = f" (more in {log})" if log else ""
    if role is Role.CLASSICAL:
        return WorkerLostError(
            f"{who} has no workers: {_last_words(output)}{where}", transient=False
        )
    text = f"{who} has no QPU slot: {_last_words(output)}{where}"
    if status == _RESOURCE_FAILED:
        return AcquireError(text)
    if status == TRY_AGAIN:
        kind = BrokerLostError if came_up else AcquireError
        return kind(text, transient=True)
    return NoSlotError(text)


def _last_words(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    ours = [line.partition(": ")[2] for line in lines if line.startswith(_OURS)]
    return "; ".join(ours[-2:]) or "\n".join(lines[-_LINES:])

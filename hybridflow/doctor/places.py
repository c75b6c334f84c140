"""Checks of places: folders for sockets and temporary files, and where variables point."""

import difflib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hybridflow import environment
from hybridflow.doctor.finding import Finding, hint, ok, problem
from hybridflow.doctor.surroundings import Surroundings
from hybridflow.door import base_folder
from hybridflow.errors import NoSlotError, SiteError
from hybridflow.slot import current_slot

__all__ = ["socket_paths", "temporary_folder", "variables"]


def temporary_folder(s: Surroundings) -> Iterator[Finding]:
    """Whether TMPDIR can be used: programs take another folder in silence if not."""
    named = s.environ.get("TMPDIR")
    if named is None:
        yield ok(f"temporary files go to {tempfile.gettempdir()}")
    elif not Path(named).is_dir() or not os.access(named, os.W_OK | os.X_OK):
        yield problem(
            f"TMPDIR names {named}, which is no folder that you can write to: each program takes "
            "another one instead, and says nothing",
            "TMPDIR",
            "make the folder, in the job's script if it is one of the node's, or unset TMPDIR",
        )
    else:
        yield ok(f"temporary files go to {named}", "TMPDIR")


def socket_paths(s: Surroundings) -> Iterator[Finding]:
    """Whether the path of each broker's socket is short enough for the operating system."""
    usual = Path(tempfile.gettempdir())
    for name in s.site.resources if s.site else ():
        try:
            base = base_folder(name, s.environ)
        except SiteError as error:
            yield problem(str(error), f"[qpu.{name}]", "give the resource a shorter name")
            continue
        if base == Path("/tmp") != usual:
            yield hint(
                f"{usual} is too long for the path of a socket of {name}: /tmp is used instead",
                "TMPDIR",
                "set TMPDIR to a shorter path if /tmp will not do",
            )


def variables(s: Surroundings) -> Iterator[Finding]:
    """Whether hybridflow's own variables are spelt rightly and point to something."""
    known = (*environment.OWN, *environment.PLUGIN_NOTES)
    for name in sorted(s.environ):
        if name.startswith("HYBRIDFLOW_") and name not in known:
            yield hint(
                f"{name} is no variable of hybridflow's, and has no effect{_meant(name)}",
                name,
                f"correct it; there are: {', '.join(environment.OWN)}",
            )
    yield from _broker(s)
    yield from _run(s)
    yield from _role(s)


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, environment.OWN, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _broker(s: Surroundings) -> Iterator[Finding]:
    try:
        slot = current_slot(s.environ)
    except NoSlotError as error:
        yield problem(
            str(error), environment.BROKER, "unset it, and enter a slot: hybridflow slot run"
        )
        return
    if slot is not None:
        yield ok(f"this process is in a slot of {slot.resource}", environment.BROKER)


def _run(s: Surroundings) -> Iterator[Finding]:
    run = s.environ.get(environment.RUN)
    # A folder that is not there yet is made.
    if run and Path(run).exists() and not (Path(run).is_dir() and os.access(run, os.W_OK)):
        yield problem(
            f"the run's folder {run} is no folder that you can write to",
            environment.RUN,
            "name another one, or unset it",
        )


def _role(s: Surroundings) -> Iterator[Finding]:
    role = s.environ.get(environment.ROLE)
    if role is not None and role not in list(environment.Role):
        yield problem(
            f"{role!r} is no role of a worker", environment.ROLE, "unset it: engines set it"
        )

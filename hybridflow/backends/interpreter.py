"""Other interpreters, in which backends may run: where they are, and whether they will do.

A site file names one with the key ``interpreter``: a Python, or the folder of a virtual
environment. ``hybridflow env create`` makes such environments.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hybridflow import environment
from hybridflow.backends.hello import PROTOCOL, Hello
from hybridflow.errors import SiteError
from hybridflow.wire import OLDEST_QPY

__all__ = ["ask", "check", "data_folder", "located", "python_of", "variables"]

_OURS = frozenset({"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"})
"""Variables that would put this interpreter's packages into the other one."""

_ANSWER_SECONDS = 120.0


def data_folder() -> Path:
    """Return the user's folder of hybridflow, in which ``envs/`` has the environments made."""
    import platformdirs

    return platformdirs.user_data_path("hybridflow")


def located(named: str, site_folder: Path) -> Path:
    """Return the path that a site file names: beside the file, or else in :func:`data_folder`."""
    path = Path(named).expanduser()
    beside = site_folder / path
    elsewhere = data_folder() / path
    return elsewhere if elsewhere.exists() and not beside.exists() else beside


def python_of(path: str | os.PathLike[str], resource: str) -> str:
    """Return the Python at a path, which may be the folder of a virtual environment.

    Raises
    ------
    SiteError
        If there is none.
    """
    place = Path(path)
    python = place / "bin" / "python" if place.is_dir() else place
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise SiteError(
            f"key `qpu.{resource}.interpreter`: there is no Python at {python}; make an "
            "environment with `hybridflow env create NAME PACKAGE…` and name it: "
            'interpreter = "envs/NAME"',
            resource=resource,
        )
    return str(python)


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a program in another interpreter is started with."""
    clean = environment.clean(environ)
    return {name: value for name, value in clean.items() if name not in _OURS}


def ask(python: str) -> Hello:
    """Return what an interpreter has.

    Raises
    ------
    SiteError
        If it does not answer: it is no Python, or hybridflow is not installed in it.
    """
    try:
        ran = subprocess.run(
            [python, "-P", "-m", "hybridflow.backends.hello"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=variables(os.environ),
            timeout=_ANSWER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SiteError(f"{python} cannot be asked what is installed there: {error}") from error
    try:
        return msgspec.json.decode(ran.stdout, type=Hello)
    except msgspec.DecodeError as error:
        words = ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"]
        raise SiteError(
            f"{python} has no hybridflow that could run a backend ({words[-1]}); make its "
            "environment with `hybridflow env create`"
        ) from error


def check(found: Hello | None, python: str) -> Hello:
    """Return what an interpreter has said of itself, if both sides can understand each other.

    Raises
    ------
    SiteError
        If they cannot: names the versions.
    """
    if found is None or found.protocol != PROTOCOL:
        theirs = "none" if found is None else f"{found.protocol} (hybridflow {found.hybridflow})"
        raise SiteError(
            f"hybridflow in {python} speaks another protocol of hosted backends: {theirs}, where "
            f"{PROTOCOL} is needed; make that environment again with `hybridflow env create`"
        )
    if found.qpy < OLDEST_QPY:
        raise SiteError(
            f"Qiskit {found.qiskit} in {python} reads QPY up to version {found.qpy}, and circuits "
            f"are sent in {OLDEST_QPY} or newer; install a newer Qiskit there"
        )
    return found

"""Environments of their own for backends whose packages do not fit to ours: by venv and pip.

::

    <user's data>/hybridflow/envs/NAME/    a virtual environment
        bin/python                         what a site file names as `interpreter`
        hybridflow.json                    what was asked for; written last: without it, unfinished
        pip.log                            what pip said
        ../.lock                           held while one is made

hybridflow is installed into each as it is installed here (the same source tree, or the same
version), together with the packages in one step, so that pip finds versions that fit to one
another. What is installed here is not touched.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from hybridflow.backends.hello import Hello
from hybridflow.backends.interpreter import ask, check, data_folder, variables
from hybridflow.errors import InputError, ResourceError

__all__ = ["Environment", "create", "environments", "envs_folder", "own_requirement", "remove"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MARK, _LOG = "hybridflow.json", "pip.log"
_ELSEWHERE = frozenset({"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_PYTHON"})
"""Variables with which pip would install somewhere else."""

_LAST_LINES = 8

Step = Callable[[str], AbstractContextManager[object]]
"""Shows that a step is under way, given its name."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """An environment that was made.

    Attributes
    ----------
    name, path
        Its name and its folder.
    packages
        What was asked for; None: it was never finished.
    """

    name: str
    path: str
    packages: tuple[str, ...] | None

    @property
    def python(self) -> str:
        """Its Python."""
        return str(Path(self.path) / "bin" / "python")


class _Mark(msgspec.Struct, frozen=True):
    packages: tuple[str, ...]


def envs_folder() -> Path:
    """Return where environments are made, if nothing else is said."""
    return data_folder() / "envs"


def create(
    name: str, packages: Sequence[str], step: Step, *, folder: Path | None = None
) -> tuple[Environment, Hello]:
    """Make an environment with hybridflow and packages.

    Parameters
    ----------
    name
        Its name: a folder of this name is made.
    packages
        What pip is to install: names, with versions or extras.
    step
        Shows each step while it lasts.
    folder
        Where; :func:`envs_folder` if not given.

    Returns
    -------
    tuple
        The environment, and what its interpreter says of itself.

    Raises
    ------
    InputError
        If there is one of this name, or pip finds no versions that fit.
    ResourceError
        If it could not be made.
    SiteError
        If it would not do for a backend.
    """
    _check(name, packages)
    place = ((folder or envs_folder()) / name).absolute()
    with _alone(place) as lock:
        _make_room(place)
        try:
            found = _make(place, packages, step, lock)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        (place / _MARK).write_bytes(msgspec.json.encode(_Mark(tuple(packages))))
    return Environment(name=name, path=str(place), packages=tuple(packages)), found


def _make(place: Path, packages: Sequence[str], step: Step, lock: int) -> Hello:
    with step(f"make {place}"):
        _run([sys.executable, "-m", "venv", str(place)], place, lock)
    python = str(place / "bin" / "python")
    with step(f"install hybridflow {' '.join(packages)}"):
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
        _run([*pip, *own_requirement(), *packages], place, lock)
    with step("check"):
        return check(ask(python), python)


@contextmanager
def _alone(place: Path) -> Iterator[int]:
    """Keep others from making or removing an environment there, by a lock that is yielded.

    Programs that are run meanwhile hold it, too: of one that was killed, pip may still be at work.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(
                f"another process changes the environments in {place.parent}: wait for its end",
                transient=True,
            ) from None
        yield lock.fileno()


def _check(name: str, packages: Sequence[str]) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"an environment's name has letters, digits and `._-` only, and begins with one of the "
            f"first two, not {name!r}"
        )
    for package in packages:
        if package.startswith("-"):
            raise InputError(f"{package!r} is no package: options of pip are set in its own files")


def _make_room(place: Path) -> None:
    if not place.exists():
        return
    if not (place / "pyvenv.cfg").exists():
        raise InputError(f"{place} exists and is no virtual environment: choose another name")
    if (place / _MARK).exists():
        raise InputError(
            f"there is an environment in {place}; remove it first: hybridflow env remove "
            f"{place.name}"
        )
    shutil.rmtree(place)  # one that was never finished: whoever made it was killed


def own_requirement() -> list[str]:
    """Return what pip is to be told to install this hybridflow: its source tree, or its version."""
    own = distribution("hybridflow")
    direct = msgspec.json.decode(own.read_text("direct_url.json") or "null")
    if direct is None:
        return [f"hybridflow=={own.version}"]
    url = direct["url"]
    if direct.get("dir_info", {}).get("editable"):
        return ["--editable", unquote(urlsplit(url).path)]
    source = direct.get("vcs_info")
    if source is not None:
        url = f"{source['vcs']}+{url}@{source['commit_id']}"
    return [f"hybridflow @ {url}"]


def _run(command: Sequence[str], place: Path, lock: int) -> None:
    environ = {k: v for k, v in variables(os.environ).items() if k not in _ELSEWHERE}
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environ,
            pass_fds=[lock],
        )
    except OSError as error:
        raise ResourceError(f"{command[0]} could not be run: {error}") from error
    if place.is_dir():
        with (place / _LOG).open("a", encoding="utf-8") as log:
            log.write(ran.stdout)
    if ran.returncode:
        raise _failure(ran.stdout)


def _failure(output: str) -> InputError | ResourceError:
    lines = [line for line in output.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("ERROR")] or lines
    words = "\n".join(said[-_LAST_LINES:])
    if "ResolutionImpossible" in output or "No matching distribution" in output:
        return InputError(f"pip finds no versions that fit to hybridflow and one another:\n{words}")
    return ResourceError(f"the environment could not be made:\n{words}")


def environments(folder: Path | None = None) -> Iterator[Environment]:
    """Return the environments in a folder, by name; also those that were never finished."""
    for place in sorted((folder or envs_folder()).glob("*/pyvenv.cfg")):
        yield _environment(place.parent)


def _environment(place: Path) -> Environment:
    try:
        packages = msgspec.json.decode((place / _MARK).read_bytes(), type=_Mark).packages
    except (OSError, msgspec.DecodeError):
        packages = None
    return Environment(name=place.name, path=str(place), packages=packages)


def remove(name: str, folder: Path | None = None) -> Environment:
    """Remove an environment.

    Raises
    ------
    InputError
        If there is none of this name.
    ResourceError
        If it cannot be removed.
    """
    known = {found.name: found for found in environments(folder)}
    if name not in known:
        raise InputError(
            f"there is no environment {name!r} in {folder or envs_folder()}; there are: "
            f"{', '.join(known) or 'none'}"
        )
    place = Path(known[name].path)
    with _alone(place):
        try:
            shutil.rmtree(place)
        except OSError as error:
            raise ResourceError(f"{place} cannot be removed: {error}") from error
    return known[name]

"""Compiles the plugin, and writes the configuration with which Slurm loads it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from hybridflow.errors import InputError, MissingProgramError
from hybridflow.slurm.spank import slots

__all__ = ["build", "configure"]

_HERE = Path(__file__).parent
_SOURCE = _HERE / "spank_hybridflow.c"
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
_COMPILE_SECONDS = 60


def build(folder: str | os.PathLike[str]) -> Path:
    """Compile the plugin, and put its helper and its command-line filter beside it.

    Parameters
    ----------
    folder
        Where ``spank_hybridflow.so``, ``slots.py`` and ``cli_filter.lua`` go; made if need be. Only
        its owner may write there, since slurmd runs the helper as root.

    Returns
    -------
    Path
        The plugin.

    Raises
    ------
    MissingProgramError
        If there is no C compiler, or Slurm's headers are not installed.
    """
    place = Path(folder).absolute()
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    plugin = place / "spank_hybridflow.so"
    _compile(_compiler(), plugin)
    for name, mode in ((slots.__file__, 0o755), (_HERE / "cli_filter.lua", 0o644)):
        copy = Path(shutil.copy(name, place))
        copy.chmod(mode)
    plugin.chmod(0o755)
    return plugin


def _compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc")
    if found is None:
        raise MissingProgramError(
            "the plugin needs a C compiler, not found on this machine; install one (Debian, "
            "Ubuntu: apt-get install gcc libc6-dev)"
        )
    return found


def _compile(compiler: str, plugin: Path) -> None:
    done = subprocess.run(
        [compiler, *_FLAGS, "-o", str(plugin), str(_SOURCE)],
        capture_output=True,
        text=True,
        timeout=_COMPILE_SECONDS,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if "slurm/" in done.stderr and "No such file" in done.stderr:
        raise MissingProgramError(
            "the plugin needs Slurm's headers, slurm/slurm.h and slurm/spank.h, not found on this "
            "machine; install them (Debian, Ubuntu: apt-get install libslurm-dev)"
        )
    if done.returncode != 0:
        raise MissingProgramError(f"{compiler} cannot compile {_SOURCE}:\n{done.stderr}")


def configure(
    etc: str | os.PathLike[str],
    plugin: Path,
    *,
    definitions: str | os.PathLike[str],
    state: str | os.PathLike[str],
    python: str | os.PathLike[str] = sys.executable,
    timeout_seconds: int = 60,
) -> dict[str, str]:
    """Write ``plugstack.conf``, ``qpus.names`` and ``cli_filter.lua`` into a folder.

    slurmd must be started (again) after that: it looks only then whether a plugin has an epilog.

    Parameters
    ----------
    etc
        The folder of ``slurm.conf``.
    plugin
        What :func:`build` made.
    definitions
        The definitions of the QPUs: a file of slurmd's user alone, mode 0600.
    state
        Folder for what jobs have acquired on a node; lost when the machine restarts.
    python
        The interpreter of the helper, 3.11 or newer. For types of vendors it has ``qrmi``.
    timeout_seconds
        Patience with a vendor, for all QPUs of a job together.

    Returns
    -------
    dict
        The settings of ``slurm.conf`` besides ``PlugStackConfig`` that the plugin needs.

    Raises
    ------
    InputError
        If the definitions cannot be read, or say something wrong.
    """
    folder = Path(etc)
    try:
        names = list(slots.names(Path(definitions)))
    except slots.Refusal as error:
        raise InputError(str(error)) from error
    files = {
        "qpus.names": names,
        "plugstack.conf": [
            " ".join(_plugstack(folder, plugin, definitions, state, python, timeout_seconds))
        ],
        "cli_filter.lua": [(_HERE / "cli_filter.lua").read_text(encoding="utf-8").rstrip("\n")],
    }
    for name, lines in files.items():
        file = folder / name
        file.write_text("\n".join([*lines, ""]), encoding="utf-8")
        file.chmod(0o644)
    return {"CliFilterPlugins": "cli_filter/lua"}


def _plugstack(
    etc: Path,
    plugin: Path,
    definitions: str | os.PathLike[str],
    state: str | os.PathLike[str],
    python: str | os.PathLike[str],
    timeout_seconds: int,
) -> Iterator[str]:
    yield from ("required", str(plugin))
    yield f"names={etc / 'qpus.names'}"
    yield f"definitions={os.fspath(definitions)}"
    yield f"state={os.fspath(state)}"
    yield f"python={os.fspath(python)}"
    yield f"helper={plugin.with_name('slots.py')}"
    yield f"timeout={timeout_seconds}"

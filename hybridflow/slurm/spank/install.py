"""Compiles the plugin, and writes the configuration with which Slurm loads it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from hybridflow.errors import InputError, MissingProgramError
from hybridflow.slurm.spank import slots

__all__ = ["build", "configure"]

_HERE = Path(__file__).parent
_SOURCE = _HERE / "spank_hybridflow.c"
_FILTER = _HERE / "cli_filter.lua"
_EPILOG = _HERE / "epilog_slurmctld.sh"
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
_COMPILE_SECONDS = 60


def build(folder: str | os.PathLike[str]) -> Path:
    """Compile the plugin, and put its helper and its command-line filter beside it.

    Parameters
    ----------
    folder
        Where ``spank_hybridflow.so``, ``slots.py``, ``cli_filter.lua`` and ``epilog_slurmctld.sh``
        go; made if need be. Only its owner may write there, since slurmd runs the helper as root.

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
    for name, mode in ((slots.__file__, 0o755), (_FILTER, 0o644), (_EPILOG, 0o755)):
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
    grants: str | os.PathLike[str] | None = None,
    python: str | os.PathLike[str] = sys.executable,
    timeout_seconds: int = 60,
) -> dict[str, str]:
    """Write what Slurm needs for the plugin into a folder.

    That is ``plugstack.conf``, ``qpus.names``, ``cli_filter.lua`` and ``epilog_slurmctld.sh``.
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
        Folder for what jobs have on a node, credentials with it; lost when the machine restarts.
    grants
        Folder for what jobs have acquired, if it is to outlive the node: shared with slurmctld.
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
    settings = {
        "definitions": os.fspath(definitions),
        "grants": os.fspath(grants or state),
        "python": os.fspath(python),
        "helper": str(plugin.with_name("slots.py")),
        "timeout": str(timeout_seconds),
    }
    own = {"names": str(folder / "qpus.names"), "state": os.fspath(state)}
    _write(folder / "qpus.names", "\n".join([*names, ""]))
    _write(folder / "plugstack.conf", f"required {plugin} {_words(own | settings)}\n")
    _write(folder / _FILTER.name, _FILTER.read_text(encoding="utf-8"))
    settings["SLURM_CONF"] = str(folder / "slurm.conf")
    epilog = _write(folder / _EPILOG.name, _with_settings(settings), 0o755)
    return {"CliFilterPlugins": "cli_filter/lua", "EpilogSlurmctld": str(epilog)}


def _write(file: Path, text: str, mode: int = 0o644) -> Path:
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)
    return file


def _words(settings: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


def _with_settings(settings: Mapping[str, str]) -> str:
    text = _EPILOG.read_text(encoding="utf-8")
    for name, value in settings.items():
        line = f"{name}={shlex.quote(value)}"
        text = re.sub(rf"(?m)^{name}=.*$", line.replace("\\", r"\\"), text)
    return text

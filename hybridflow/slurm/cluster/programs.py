"""The programs of a local cluster, found on this machine, and what to do when they are missing."""

import os
import shutil
from collections.abc import Iterable

from hybridflow.errors import MissingProgramError

__all__ = ["ACCOUNTING", "BASIC", "find_programs"]

BASIC = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "scontrol": "slurm-client",
    "sinfo": "slurm-client",
    "squeue": "slurm-client",
}
"""Programs of every cluster, and the Debian package of each."""

ACCOUNTING = {
    "slurmdbd": "slurmdbd",
    "sacctmgr": "slurm-client",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}
"""Programs of a cluster with accounting besides, and the Debian package of each."""

_DAEMONS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find_programs(accounting: bool = False) -> dict[str, str]:
    """Return the path of each program.

    Daemons are found in the folders of the administrator's programs too, which are not on an
    ordinary user's ``PATH``.

    Raises
    ------
    MissingProgramError
        If some are not installed: which, and the packages that have them.
    """
    wanted = BASIC | (ACCOUNTING if accounting else {})
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_DAEMONS])
    found = {name: shutil.which(name, path=path) for name in wanted}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        raise MissingProgramError(
            f"a local Slurm cluster needs {_listed(missing)}, not found on this machine; install "
            f"them (Debian, Ubuntu: apt-get install {_listed({wanted[n] for n in missing}, ' ')})"
        )
    return {name: place for name, place in found.items() if place is not None}


def _listed(names: Iterable[str], separator: str = ", ") -> str:
    return separator.join(sorted(names))

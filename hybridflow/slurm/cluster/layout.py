"""The folder of a local cluster: what lies where, and who may read it.

::

    FOLDER/etc/     slurm.conf and its companions       SLURM_CONF points here
           munge/   the socket that all of Slurm authenticates with
           keys/    the munge key                       the maker's alone
           log/     one log a daemon
           run/     process ids
           state/   of slurmctld
           spool/   of each slurmd: batch scripts
           db/      of MariaDB, with accounting
           plugin/  the SPANK plugin and its helper
           slots/   credentials of jobs, each node's
           grants/  what jobs have acquired, each node's; slurmctld sees it too

A cluster made by root runs the jobs of all users, who must reach the first two, their batch
scripts and the plugin; the folder of anybody else's is that user's alone.
"""

import os
import pwd
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hybridflow.errors import InputError

__all__ = ["Layout"]

_PATH = re.compile(r"[A-Za-z0-9_./+-]+")
_SOCKET_BYTES = 107
# The longest socket below the folder: a step's, `spool/c64/c64_4294967295.4294967295`.
_LONGEST = len("/spool/c64/c64_4294967295.4294967295")


@dataclass(frozen=True)
class Layout:
    """The paths of one cluster; :meth:`make` makes the folders."""

    folder: Path
    user: str
    open_to_all: bool

    @classmethod
    def make(cls, folder: str | os.PathLike[str] | None) -> Self:
        """Make a cluster's folders.

        Parameters
        ----------
        folder
            A folder that does not exist yet, or is empty; a new one for temporary files if None.

        Raises
        ------
        InputError
            If it has something in it, cannot be made, or its name is too long or of strange
            characters for Slurm.
        """
        user = _user_name()
        if folder is None:
            place = Path(tempfile.mkdtemp(prefix="hybridflow-cluster-"))
        else:
            place = Path(folder).absolute()
            _check_name(place)
            _take(place)
        layout = cls(place, user, os.geteuid() == 0)
        try:
            layout._make_folders()
        except FileExistsError as error:
            raise InputError(f"another local cluster starts in {place}; name another") from error
        return layout

    @property
    def mode(self) -> int:
        """Mode of what users of the cluster must reach."""
        return 0o755 if self.open_to_all else 0o700

    @property
    def etc(self) -> Path:
        """Folder of the configuration."""
        return self.folder / "etc"

    @property
    def slurm_conf(self) -> Path:
        """Slurm's configuration."""
        return self.etc / "slurm.conf"

    @property
    def environ(self) -> dict[str, str]:
        """What Slurm's programs need in their environment to find the cluster."""
        return {"SLURM_CONF": str(self.slurm_conf)}

    @property
    def log(self) -> Path:
        """Folder of the daemons' logs."""
        return self.folder / "log"

    @property
    def munge_socket(self) -> Path:
        """The socket of munge."""
        return self.folder / "munge" / "socket"

    @property
    def munge_key(self) -> Path:
        """The key of munge."""
        return self.folder / "keys" / "munge.key"

    @property
    def database(self) -> Path:
        """Folder of MariaDB's data."""
        return self.folder / "db" / "data"

    @property
    def database_socket(self) -> Path:
        """The socket of MariaDB."""
        return self.folder / "db" / "socket"

    def _make_folders(self) -> None:
        for name in ("keys", "log", "run", "state", "db"):
            (self.folder / name).mkdir(mode=0o700)
        for place in (self.etc, self.munge_socket.parent, self.folder / "spool"):
            place.mkdir()
            place.chmod(self.mode)
        self.folder.chmod(self.mode)


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        raise InputError(
            f"user {os.geteuid()} has no name here (no line in /etc/passwd), and Slurm needs one: "
            "add the user"
        ) from error


def _take(place: Path) -> None:
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = os.lstat(place)
        empty = not any(place.iterdir())
    except OSError as error:
        raise InputError(f"the cluster's folder {place} cannot be made: {error}") from error
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
        raise InputError(f"{place} is not a folder of this user's own; name another one")
    if not empty:
        raise InputError(
            f"{place} has something in it; a local cluster needs a folder of its own, which it "
            "removes at its end"
        )


def _check_name(place: Path) -> None:
    if not _PATH.fullmatch(str(place)):
        raise InputError(
            f"{place} cannot hold a local cluster: Slurm allows letters, digits and . _ + - in it"
        )
    if len(str(place)) + _LONGEST > _SOCKET_BYTES:
        raise InputError(
            f"{place} is too long a name for a local cluster's folder: at most "
            f"{_SOCKET_BYTES - _LONGEST} bytes, since sockets lie in it"
        )

"""Accounting of a local cluster: MariaDB and slurmdbd, and an account for its maker.

slurmdbd reaches MariaDB through a socket in a folder that is its user's alone; there is no
password, and nothing listens on a port but slurmdbd itself, which asks for munge's credentials.
"""

from collections.abc import Mapping

from hybridflow.slurm.cluster.commands import run
from hybridflow.slurm.cluster.daemons import Daemons
from hybridflow.slurm.cluster.layout import Layout
from hybridflow.slurm.cluster.network import answers_at, answers_on

__all__ = ["ACCOUNT", "add_account", "start_accounting"]

ACCOUNT = "hybridflow"
"""Name of the account of whoever makes the cluster."""

# Durable storage is for those who want to keep it: this database ends with its cluster.
_DATABASE = ("--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=8M")


def start_accounting(
    layout: Layout, daemons: Daemons, programs: Mapping[str, str], port: int
) -> None:
    """Make a database, and start MariaDB and slurmdbd.

    Parameters
    ----------
    layout
        The cluster's folder, with its configuration files written.
    daemons
        Where the two are added.
    programs
        The path of each program.
    port
        The port of slurmdbd.

    Raises
    ------
    ClusterError
        If one of them does not come up.
    """
    _make_database(layout, programs["mariadb-install-db"])
    daemons.start(
        "mariadbd",
        "mariadbd",
        "--no-defaults",
        f"--user={layout.user}",
        f"--datadir={layout.database}",
        f"--socket={layout.database_socket}",
        f"--pid-file={layout.folder / 'run' / 'mariadbd.pid'}",
        "--skip-networking",
        *_DATABASE,
    )
    daemons.wait("mariadbd", lambda: answers_at(layout.database_socket))
    daemons.start(
        "slurmdbd",
        "slurmdbd",
        "-D",
        environ={**layout.environ, "MYSQL_UNIX_PORT": str(layout.database_socket)},
    )
    daemons.wait("slurmdbd", lambda: answers_on(port))


def add_account(layout: Layout, programs: Mapping[str, str]) -> None:
    """Make the account of this user; slurmctld must have made itself known to slurmdbd.

    Raises
    ------
    ClusterError
        If slurmdbd refuses.
    """
    for what in (
        ["account", ACCOUNT],
        ["user", layout.user, f"account={ACCOUNT}", f"defaultaccount={ACCOUNT}"],
    ):
        run([programs["sacctmgr"], "--immediate", "add", *what], layout.environ)


def _make_database(layout: Layout, program: str) -> None:
    command = [
        program,
        "--no-defaults",
        f"--datadir={layout.database}",
        # No --user: with it the script would change the owner of a folder of the system's.
        "--auth-root-authentication-method=socket",
        f"--auth-root-socket-user={layout.user}",
        "--skip-name-resolve",
        "--skip-test-db",
        *_DATABASE,
    ]
    run(command, {})

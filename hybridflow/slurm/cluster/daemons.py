"""The daemons of one cluster, by name: started, waited for, ended."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import MappingProxyType

from hybridflow.errors import ClusterError, InputError
from hybridflow.slurm.cluster import sweeper
from hybridflow.slurm.cluster.daemon import Daemon
from hybridflow.slurm.cluster.layout import Layout

__all__ = ["Daemons"]

_LOOK_SECONDS = 0.05
_EMPTY: Mapping[str, str] = MappingProxyType({})
# What ends at once, unless the machine is very busy; killed before, it would lose its state.
_SERVICE_SECONDS = 30.0


class Daemons:
    """The daemons of one cluster, and the sweeper, which removes its folder when all have ended.

    Parameters
    ----------
    layout
        The cluster's folder.
    programs
        The path of each program.
    timeout_seconds
        Patience with each daemon.
    """

    def __init__(self, layout: Layout, programs: Mapping[str, str], timeout_seconds: float) -> None:
        self._layout = layout
        self._programs = programs
        self._timeout_seconds = timeout_seconds
        self._running: dict[str, Daemon] = {}
        self._stack = ExitStack()
        self._keep_open = self._start_sweeper()

    def start(
        self,
        name: str,
        program: str,
        *arguments: str,
        environ: Mapping[str, str] = _EMPTY,
        grace_seconds: float = _SERVICE_SECONDS,
    ) -> None:
        """Start a daemon.

        Parameters
        ----------
        name
            What people call it.
        program, *arguments
            What is run; it must stay in the foreground.
        environ
            Its environment besides ``PATH``: nothing of the developer's, since what a job sees is
            what its user submitted it with.
        grace_seconds
            Time between SIGTERM and SIGKILL when it is ended.
        """
        if name in self._running:
            raise InputError(f"{name} is running already")
        self._running[name] = Daemon(
            name,
            [self._programs[program], *arguments],
            {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", **environ},
            log=self._layout.log / f"{name}.out",
            keep_open=self._keep_open,
            umask=0o777 & ~self._layout.mode,
            grace_seconds=grace_seconds,
        )

    def wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        """Wait until a daemon is ready.

        Raises
        ------
        ClusterError
            If it ends, or is not ready in time: with the end of its log.
        """
        daemon = self._running[name]
        deadline = time.monotonic() + self._timeout_seconds
        while not is_ready():
            status = daemon.exit_status()
            if status is not None:
                raise _failure(daemon, f"ended with exit status {status}")
            if time.monotonic() > deadline:
                raise _failure(daemon, f"is not ready after {self._timeout_seconds:g} s")
            time.sleep(_LOOK_SECONDS)

    def end(self, name: str) -> None:
        """End a daemon and all that it has started, in good order."""
        self._pop(name).close()

    def kill(self, name: str) -> None:
        """End a daemon and all that it has started at once."""
        self._pop(name).kill()

    def close(self) -> None:
        """End all daemons, all at once, and have the folder removed."""
        for daemon in self._running.values():
            daemon.let_go()
        while self._running:
            self._running.popitem()[1].close()
        self._stack.close()

    def _pop(self, name: str) -> Daemon:
        if name not in self._running:
            raise InputError(f"{name} is not running; running are {', '.join(self._running)}")
        return self._running.pop(name)

    def _start_sweeper(self) -> int:
        reader, writer = os.pipe()
        try:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", sweeper.__file__),
                    *(str(reader), str(self._layout.folder)),
                ],
                env={},
                pass_fds=[reader],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        except BaseException:
            os.close(writer)
            raise
        finally:
            os.close(reader)
        self._stack.callback(process.wait)
        self._stack.callback(os.close, writer)
        self._stack.callback(os.write, writer, b".")
        return writer


def _failure(daemon: Daemon, what: str) -> ClusterError:
    return ClusterError(
        f"{daemon.name} {what}: the local cluster cannot be used; the end of its log:\n"
        f"{daemon.tail()}"
    )

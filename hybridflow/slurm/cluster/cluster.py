"""A real Slurm cluster of several nodes on this machine: made in seconds, gone without trace."""

import functools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hybridflow.errors import ClusterError, InputError
from hybridflow.slurm.cluster import sweeper
from hybridflow.slurm.cluster.daemon import Daemon
from hybridflow.slurm.cluster.files import write_files
from hybridflow.slurm.cluster.layout import Layout
from hybridflow.slurm.cluster.ports import Ports
from hybridflow.slurm.cluster.programs import find_programs
from hybridflow.slurm.cluster.shape import Shape

__all__ = ["SlurmCluster"]

_LOOK_SECONDS = 0.05
_GRACE_SECONDS = 5.0


class SlurmCluster:
    """A munge, a slurmctld and a slurmd for each node, on this machine; a context manager.

    Node ``q1`` holds the QPU slots, ``c1``, ``c2``, … are for classical work; partitions ``main``
    (the default: all nodes), ``qpu`` (``q1``) and ``classical`` (the others). Each node claims four
    cores. Everything of it, jobs included, ends with :meth:`stop` and with the process that
    made it, however that ends.

    Parameters
    ----------
    nodes
        Nodes in all, at least 1.
    qpus
        Slots of each QPU that ``q1`` holds, as GRES: ``{"aer_a": 1, "aer_b": 2}``.
    licenses
        Slots of each QPU that belongs to no node, as licences.
    accounting
        Whether there is a database of finished jobs (MariaDB and slurmdbd), for ``sacct``.
    folder
        Where it lives: a folder that is made, and removed at the end; one for temporary files if
        not given.
    settings
        Further settings of ``slurm.conf``, which win over the cluster's own.
    timeout_seconds
        Patience with each daemon at the start.

    Raises
    ------
    InputError
        If the arguments cannot be.

    Examples
    --------
    >>> with SlurmCluster(nodes=2, qpus={"aer_a": 1}) as cluster:  # doctest: +SKIP
    ...     print(cluster.run(["srun", "--gres=qpu:aer_a:1", "hostname"]).stdout)
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        qpus: Mapping[str, int] | None = None,
        licenses: Mapping[str, int] | None = None,
        accounting: bool = False,
        folder: str | os.PathLike[str] | None = None,
        settings: Mapping[str, str] | None = None,
        timeout_seconds: float = 30.0,
    ) -> None:
        self.shape = Shape(
            node_count=nodes,
            qpus=qpus or {},
            licenses=licenses or {},
            accounting=accounting,
            settings=settings or {},
        )
        self._wanted = folder
        self._timeout_seconds = timeout_seconds
        self._layout: Layout | None = None
        self._daemons: dict[str, Daemon] = {}
        self._stack = ExitStack()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes, that of the QPUs first."""
        return self.shape.nodes

    @property
    def folder(self) -> Path:
        """Where it lives; logs are in ``log/``."""
        return self._place.folder

    @property
    def environ(self) -> dict[str, str]:
        """What to add to ``os.environ`` so that Slurm's commands talk to this cluster."""
        return {"SLURM_CONF": str(self._place.slurm_conf)}

    def start(self) -> Self:
        """Start it and wait until all nodes are idle.

        Raises
        ------
        MissingProgramError
            If Slurm, or another program, is not installed.
        ClusterError
            If a daemon does not come up: which, and the end of its log.
        """
        if self._layout is not None:
            raise InputError(f"the cluster in {self._layout.folder} has been started already")
        self._programs = find_programs(self.shape.accounting)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it, with all its jobs, and remove its folder. May be called twice."""
        for daemon in reversed(self._daemons.values()):
            daemon.close()
        self._daemons.clear()
        self._stack.close()
        self._layout = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def run(self, command: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command of Slurm's, or any other, against this cluster.

        Parameters
        ----------
        command
            Program and arguments.
        **options
            For :func:`subprocess.run`; by default, output is captured as text and the time limit
            is a minute. With ``check=False``, a failure is the caller's to see.

        Returns
        -------
        subprocess.CompletedProcess
            What it printed.

        Raises
        ------
        ClusterError
            If it fails: with what it said.
        """
        check = options.pop("check", True)
        environment = {**options.pop("env", os.environ), **self.environ}
        settings = {"capture_output": True, "text": True, "timeout": 60.0, **options}
        done = subprocess.run(command, env=environment, check=False, **settings)
        if check and done.returncode != 0:
            raise ClusterError(
                f"`{' '.join(command)}` failed with exit status {done.returncode}: "
                f"{done.stderr or done.stdout or 'it said nothing'}"
            )
        return done

    def restart_controller(self) -> None:
        """End slurmctld in good order and start it again; jobs go on meanwhile.

        Raises
        ------
        ClusterError
            If it does not come up again.
        """
        self._daemons.pop("slurmctld").close()
        self._start_controller()

    def kill_node(self, name: str) -> None:
        """End a node's slurmd and everything on the node at once, as if it lost power.

        Slurm notices after ``SlurmdTimeout`` seconds; until then the node's jobs look alive.
        """
        self._daemons.pop(self._node_daemon(name)).kill()

    def start_node(self, name: str) -> None:
        """Start a node again that was killed, and wait until it is idle.

        Raises
        ------
        ClusterError
            If it does not come up.
        """
        self._start_node(name)
        self._await_nodes([name])

    # Starting

    def _start(self) -> None:
        self._layout = Layout.make(self._wanted)
        self._keep_open = self._start_sweeper()
        ports = self._stack.enter_context(Ports())
        self._ports = {name: ports.take() for name in ("slurmctld", *self.nodes)}
        write_files(self.shape, self._layout, self._ports)
        self._start_munge()
        self._start_controller()
        for name in self.nodes:
            self._start_node(name)
        self._await_nodes(self.nodes)

    def _start_sweeper(self) -> int:
        reader, writer = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", sweeper.__file__, str(reader), str(self.folder)],
            pass_fds=[reader],
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        os.close(reader)
        self._stack.callback(process.wait)
        self._stack.callback(os.close, writer)
        return writer

    def _start_munge(self) -> None:
        place = self._place
        self._start_daemon(
            "munged",
            "munged",
            "--foreground",
            f"--socket={place.munge_socket}",
            f"--key-file={place.munge_key}",
            f"--pid-file={place.folder / 'run' / 'munged.pid'}",
            f"--seed-file={place.folder / 'keys' / 'munged.seed'}",
        )
        self._await("munged", lambda: _answers(socket.AF_UNIX, str(place.munge_socket)))

    def _start_controller(self) -> None:
        self._start_daemon("slurmctld", "slurmctld", "-D")
        self._await("slurmctld", self._controller_answers)

    def _start_node(self, name: str) -> None:
        if self._node_daemon(name) in self._daemons:
            raise InputError(f"the node {name} is running already")
        self._start_daemon(self._node_daemon(name), "slurmd", "-D", "-N", name)

    def _start_daemon(self, name: str, program: str, *arguments: str, **variables: str) -> None:
        place = self._place
        self._daemons[name] = Daemon(
            name,
            [self._programs[program], *arguments],
            # Nothing of the developer's: what a job sees is what its user submitted it with.
            {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", **self.environ, **variables},
            log=place.log / f"{name}.out",
            keep_open=self._keep_open,
            umask=0o777 & ~place.mode,
            grace_seconds=_GRACE_SECONDS,
        )

    def _controller_answers(self) -> bool:
        ping = [self._programs["scontrol"], "ping"]
        return "is UP" in self.run(ping, check=False).stdout

    def _await_nodes(self, names: Sequence[str]) -> None:
        for name in names:
            self._await(self._node_daemon(name), functools.partial(self._is_ready, name))

    def _is_ready(self, name: str) -> bool:
        # Slurm believes for a while that a node lives which was killed: ask its slurmd too.
        if not _answers(socket.AF_INET, ("127.0.0.1", self._ports[name])):
            return False
        query = [self._programs["sinfo"], "--noheader", f"--nodes={name}", "--format=%T"]
        states = self.run(query, check=False).stdout.split()
        return bool(states) and all(state in ("idle", "mixed", "allocated") for state in states)

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        daemon = self._daemons[name]
        deadline = time.monotonic() + self._timeout_seconds
        while not ready():
            status = daemon.exit_status()
            if status is not None:
                raise ClusterError(
                    f"{name} ended with exit status {status}; the end of its log:\n{daemon.tail()}"
                )
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{name} is not ready after {self._timeout_seconds:g} s; the end of its "
                    f"log:\n{daemon.tail()}"
                )
            time.sleep(_LOOK_SECONDS)

    def _node_daemon(self, name: str) -> str:
        if name not in self.nodes:
            raise InputError(f"there is no node {name!r}; there are {', '.join(self.nodes)}")
        return f"slurmd-{name}"

    @property
    def _place(self) -> Layout:
        if self._layout is None:
            raise InputError("the cluster is not running: use `with SlurmCluster(…) as cluster:`")
        return self._layout


def _answers(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as probe, suppress(OSError):
        probe.connect(address)
        return True
    return False

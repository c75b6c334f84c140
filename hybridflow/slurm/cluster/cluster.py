"""A real Slurm cluster of several nodes on this machine: made in seconds, gone without trace."""

import functools
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hybridflow.errors import InputError
from hybridflow.slurm.cluster.accounting import add_account, start_accounting
from hybridflow.slurm.cluster.commands import run
from hybridflow.slurm.cluster.daemons import Daemons
from hybridflow.slurm.cluster.files import write_files
from hybridflow.slurm.cluster.layout import Layout
from hybridflow.slurm.cluster.network import answers_at, answers_on
from hybridflow.slurm.cluster.plugin import Definitions, install_plugin
from hybridflow.slurm.cluster.ports import Ports
from hybridflow.slurm.cluster.programs import find_programs
from hybridflow.slurm.cluster.shape import Shape

if TYPE_CHECKING:
    import subprocess

__all__ = ["SlurmCluster"]

_JOB_SECONDS = 3.0
"""What jobs have for their last words when the cluster ends."""

_UP = frozenset({"idle", "mixed", "allocated"})


@dataclass(frozen=True)
class _Running:
    # What a cluster has from its start to its end.
    layout: Layout
    programs: Mapping[str, str]
    ports: Ports
    daemons: Daemons


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
    plugin
        Whether jobs ask for slots with ``--qpu=NAME``: the SPANK plugin is compiled and loaded.
    definitions
        The QPUs' definitions for the plugin: a file (mode 0600), or what would stand in one; if
        None, each QPU is of type ``aer``.
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
        plugin: bool = False,
        definitions: Definitions | None = None,
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
        if definitions is not None and not plugin:
            raise InputError("definitions are for the plugin: say plugin=True as well")
        self._plugin = plugin
        self._definitions = definitions
        self._wanted_folder = folder
        self._timeout_seconds = timeout_seconds
        self._state: _Running | None = None
        self._stack = ExitStack()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes, that of the QPUs first."""
        return self.shape.nodes

    @property
    def folder(self) -> Path:
        """Where it lives; logs are in ``log/``."""
        return self._running.layout.folder

    @property
    def environ(self) -> dict[str, str]:
        """What to add to ``os.environ`` so that Slurm's commands talk to this cluster."""
        return self._running.layout.environ

    def start(self) -> Self:
        """Start it and wait until all nodes are up.

        Raises
        ------
        MissingProgramError
            If Slurm, or another program, is not installed.
        ClusterError
            If a daemon does not come up: which, and the end of its log.
        InputError
            If the folder or the definitions cannot be used.
        """
        if self._state is not None:
            raise InputError(f"the cluster in {self.folder} is running already")
        programs = find_programs(self.shape.accounting)
        with ExitStack() as stack:
            stack.callback(self._forget)
            ports = stack.enter_context(closing(Ports(self._port_names)))
            layout = Layout.make(self._wanted_folder)
            daemons = stack.enter_context(closing(Daemons(layout, programs, self._timeout_seconds)))
            self._state = _Running(layout, programs, ports, daemons)
            self._start_all()
            self._stack = stack.pop_all()
        return self

    def stop(self) -> None:
        """End it, with all its jobs, and remove its folder. May be called twice."""
        self._stack.close()

    def _forget(self) -> None:
        self._state = None

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
            ``check=False``: a failure is the caller's to see. All others are those of
            :func:`subprocess.run`; by default, output is captured as text and the time limit is a
            minute.

        Returns
        -------
        subprocess.CompletedProcess
            What it printed.

        Raises
        ------
        ClusterError
            If it fails or takes too long: with what it said.
        """
        return run(command, self.environ, **options)

    def restart_controller(self) -> None:
        """End slurmctld in good order and start it again; jobs go on meanwhile.

        Raises
        ------
        ClusterError
            If it does not come up again.
        """
        self._running.daemons.end("slurmctld")
        self._start_controller()

    def kill_node(self, name: str) -> None:
        """End a node's slurmd and everything on the node at once, as if it lost power.

        Slurm notices after ``SlurmdTimeout`` seconds (60, see ``settings``); until then the node's
        jobs look alive. ``scontrol update nodename=… state=down reason=…`` tells it at once.
        """
        self._running.daemons.kill(self._daemon_of(name))

    def start_node(self, name: str) -> None:
        """Start a node again that was killed, and wait until it is up.

        Raises
        ------
        ClusterError
            If it does not come up.
        """
        self._start_nodes([name])

    # Starting

    @property
    def _running(self) -> _Running:
        if self._state is None:
            raise InputError("the cluster is not running: use `with SlurmCluster(…) as cluster:`")
        return self._state

    @property
    def _port_names(self) -> list[str]:
        return ["slurmctld", *(["slurmdbd"] if self.shape.accounting else []), *self.nodes]

    def _start_all(self) -> None:
        state = self._running
        settings = dict(self.shape.settings)
        if self._plugin:
            settings = install_plugin(self.shape, state.layout, self._definitions) | settings
        write_files(self.shape, state.layout, state.ports.numbers, settings)
        self._start_munge()
        if self.shape.accounting:
            start_accounting(
                state.layout, state.daemons, state.programs, state.ports.numbers["slurmdbd"]
            )
        self._start_controller()
        if self.shape.accounting:
            add_account(state.layout, state.programs)
        self._start_nodes(self.nodes)

    def _start_munge(self) -> None:
        layout, daemons = self._running.layout, self._running.daemons
        daemons.start(
            "munged",
            "munged",
            "--foreground",
            # A socket that its user alone can reach is an error to munged, unless told otherwise.
            *([] if layout.open_to_all else ["--force"]),
            f"--socket={layout.munge_socket}",
            f"--key-file={layout.munge_key}",
            f"--pid-file={layout.folder / 'run' / 'munged.pid'}",
            f"--seed-file={layout.folder / 'keys' / 'munged.seed'}",
        )
        daemons.wait("munged", lambda: answers_at(layout.munge_socket))

    def _start_controller(self) -> None:
        daemons = self._running.daemons
        daemons.start("slurmctld", "slurmctld", "-D", environ=self.environ)
        daemons.wait("slurmctld", self._controller_answers)

    def _start_nodes(self, names: Sequence[str]) -> None:
        daemons = self._running.daemons
        for name in names:
            daemons.start(
                self._daemon_of(name),
                "slurmd",
                *("-D", "-N", name),
                environ=self.environ,
                grace_seconds=_JOB_SECONDS,
            )
        for name in names:
            daemons.wait(self._daemon_of(name), functools.partial(self._is_up, name))

    def _daemon_of(self, node: str) -> str:
        if node not in self.nodes:
            raise InputError(f"there is no node {node!r}; there are {', '.join(self.nodes)}")
        return f"slurmd-{node}"

    def _controller_answers(self) -> bool:
        return "is UP" in self._ask("scontrol", "ping")

    def _is_up(self, node: str) -> bool:
        # Slurm believes for a while that a node lives which was killed: ask its slurmd too.
        if not answers_on(self._running.ports.numbers[node]):
            return False
        return self._ask("sinfo", "--noheader", f"--nodes={node}", "--format=%T").strip() in _UP

    def _ask(self, program: str, *arguments: str) -> str:
        return self.run([self._running.programs[program], *arguments], check=False).stdout

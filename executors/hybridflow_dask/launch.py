"""The command lines of Dask's workers, each under the door or a keeper, and their environment.

All of them run with the driver's interpreter, whatever ``PATH`` says, and end with the driver's
lease (``hybridflow/lease.py``).
"""

import copy
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import dask
from distributed.security import Security

from hybridflow import environment
from hybridflow.environment import Role, thread_limits
from hybridflow.launch import in_slot, kept
from hybridflow.site import Site
from hybridflow.slurm import Allocation
from hybridflow_dask.folder import PrivateFolder
from hybridflow_dask.labels import QPU, resource_label
from hybridflow_dask.workers import GRACE_SECONDS

__all__ = ["Launch", "on_disk"]

_WORKER = (sys.executable, "-m", "distributed.cli.dask_worker")
_NODE = (sys.executable, "-m", "hybridflow_dask.node")
_PRELOAD = "hybridflow_dask.preload"
_DEATH_SECONDS = 60

_ROLES = ("client", "scheduler", "worker")
_PEM_FIELDS = (
    "tls_ca_file",
    *(f"tls_{role}_{part}" for role in _ROLES for part in ("cert", "key")),
)


@dataclass(frozen=True)
class Launch:
    """What the command lines of a cluster's workers have in common.

    Attributes
    ----------
    site
        Where resources and numbers are defined.
    folder
        The cluster's folder: workers put there what they write to disk.
    lease
        The driver's lease.
    host
        Address that workers on this machine listen on; None: there are none.
    security
        The cluster's keys and certificates, as files.
    allocation
        The nodes of classical workers; None: this machine, or those of blocks.
    """

    site: Site
    folder: PrivateFolder
    lease: Path
    host: str | None
    security: Security
    allocation: Allocation | None = None

    def quantum(self, scheduler: str, name: str, resource: str, tasks: int) -> list[str]:
        """Return the command line of a worker inside a slot.

        Its nanny starts it again when it dies, and the slot with its broker lives on.
        """
        amounts = f"{QPU}={tasks} {resource_label(resource)}={tasks}"
        worker = [*self._worker(scheduler, name, self.host), "--nanny", "--nthreads", str(tasks)]
        return in_slot([*worker, "--resources", amounts], self.site, resource, self.lease)

    def on_each_node(self, scheduler: str, member: str, workers: int) -> list[str]:
        """Return the command line of a block's classical workers on one of its nodes.

        Their nanny starts them again when they die; see ``node.py``.
        """
        options = {
            "--member": member,
            "--workers": workers,
            "--threads": self.site.classical.threads,
        }
        node = [*_NODE, *(str(word) for option in options.items() for word in option), "--"]
        command = [*node, *self._worker(scheduler, None, None), "--nthreads", "1"]
        return kept(command, self.lease, Role.CLASSICAL, grace_seconds=GRACE_SECONDS)

    def classical(self, scheduler: str, name: str) -> list[str]:
        """Return the command line of a classical worker: one process, one task at a time.

        It has no nanny: what a nanny has started may have no child processes.
        """
        # On another node, it finds its address by itself: that of the way to the scheduler.
        host = None if self.allocation else self.host
        worker = [*self._worker(scheduler, name, host), "--no-nanny", "--nthreads", "1"]
        keeper = kept(worker, self.lease, Role.CLASSICAL, grace_seconds=GRACE_SECONDS)
        return [*self._node(name), *keeper]

    def _node(self, name: str) -> list[str]:
        if self.allocation is None:
            return []
        number = int(name.rpartition("-")[2])
        return self.allocation.srun(1, first=number % self.allocation.nodes)

    def variables(self, role: Role) -> dict[str, str]:
        """Return the environment for those command lines, on this machine."""
        chosen = os.environ | self.settings()
        if role is Role.CLASSICAL:
            chosen |= _pre_spawn() | thread_limits(self.site.classical.threads)
        return chosen

    def settings(self) -> dict[str, str]:
        """Return what that environment has for workers of both kinds."""
        # As Dask's own clusters hand their configuration to the processes they start.
        config = dask.config.serialize(dask.config.global_config)
        chosen = {"DASK_INTERNAL_INHERIT_CONFIG": config}
        if self.site.path:
            chosen[environment.SITE] = self.site.path
        if run := os.environ.get(environment.RUN):
            chosen[environment.RUN] = os.path.abspath(run)
        chosen[environment.SESSION] = environment.session(os.environ)
        return chosen

    def _worker(self, scheduler: str, name: str | None, host: str | None) -> list[str]:
        options = {
            **({"--name": name} if name else {}),
            **({"--host": host} if host else {}),
            # Of its pages; without it, they can be seen from everywhere.
            "--dashboard-address": f"{host or '127.0.0.1'}:0",
            "--local-directory": str(self.folder.path),
            "--death-timeout": str(_DEATH_SECONDS),
            "--preload": _PRELOAD,
        } | self._keys()

        return [
            *_WORKER,
            scheduler,
            "--no-dashboard",
            *(word for option in options.items() for word in option),
        ]

    def _keys(self) -> dict[str, str]:
        files = self.security.get_tls_config_for_role("worker")
        names = {"--tls-ca-file": "ca_file", "--tls-cert": "cert", "--tls-key": "key"}
        return {option: files[name] for option, name in names.items() if files[name]}


def _pre_spawn() -> dict[str, str]:
    # What a nanny would have set.
    settings = dask.config.get("distributed.nanny.pre-spawn-environ", default={})
    return {name: str(value) for name, value in settings.items()}


def on_disk(security: Security, folder: PrivateFolder) -> Security:
    """Return the same security with its keys and certificates in files.

    Command lines can name files, and the keys of ``Security.temporary()`` live in memory only.
    """
    saved = copy.copy(security)
    written: dict[str, str] = {}
    for field in _PEM_FIELDS:
        text = getattr(security, field)
        if text and "\n" in text:  # as Dask tells a text from a path
            written[text] = written.get(text) or folder.write(f"{field}.pem", text)
            setattr(saved, field, written[text])
    return saved

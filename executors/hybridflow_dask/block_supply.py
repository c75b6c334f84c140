"""Members that are blocks of Slurm, for a driver outside: what the site's ``[slurm.blocks]`` says.

::

    elastic       a group of quantum blocks for each resource ── quantum_block
                  the classical group ────────────────────────── classical_block
    coscheduled   one group with one block of both kinds ─────── coscheduled_block

All of them are made in a folder that the nodes see, too: keys, the lease, what blocks print.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from hybridflow.environment import Role
from hybridflow.errors import InputError
from hybridflow.site import Blocks, Site
from hybridflow.slurm import (
    BlockJobs,
    Job,
    blocks_here,
    classical_block,
    coscheduled_block,
    driver_address,
    quantum_block,
)
from hybridflow.slurm.blocks import classical_cpus
from hybridflow_dask.blocks import Block, Lookout
from hybridflow_dask.groups import CoscheduledGroup, Group
from hybridflow_dask.launch import Launch
from hybridflow_dask.members import Member, worker_name
from hybridflow_dask.supply import Processes, Supply, shared_folder

__all__ = ["Coscheduled", "Elastic", "supply_for"]

_log = logging.getLogger(__name__)

_CLASSICAL_IDLE_SECONDS = 120.0
_DURATION_SECONDS = 5.0  # Dask's own


def supply_for(site: Site, on_end: Callable[[Member], None], log_dir: Path | None) -> "Supply":
    """Return where workers come from here, by the site file and by where this process runs.

    Parameters
    ----------
    site
        The site.
    on_end
        Called with a member that has ended by itself.
    log_dir
        Folder for what members print; the cluster's own, which is removed with it, if not given.
    """
    blocks = blocks_here(site)
    if blocks is None:
        return Processes(site, on_end, log_dir)
    kind = Elastic if blocks.kind == "elastic" else Coscheduled
    return kind(site, on_end, log_dir, blocks)


class _InBlocks(Supply):
    # What both kinds of blocks share.
    def __init__(
        self,
        site: Site,
        on_end: Callable[[Member], None],
        log_dir: Path | None,
        blocks: Blocks,
    ) -> None:
        super().__init__(site, on_end, log_dir)
        self._blocks = blocks
        self._jobs: BlockJobs | None = None

    def host(self) -> str:
        """Return the address of this machine that the nodes can reach."""
        return driver_address(self._site)

    def worker_host(self, host: str) -> str | None:
        """Return None: on its node, a worker finds its address by itself."""
        return None

    def base(self) -> str:
        """Return the folder of the run, or this one: it must be on a shared file system."""
        return shared_folder()

    def begin(self, launch: Launch) -> None:
        """Take what members are started with."""
        super().begin(launch)
        self._jobs = BlockJobs(launch.folder.path)
        self._lookout = Lookout(self._jobs)

    async def end(self) -> None:
        """Cancel the jobs of all blocks that are left."""
        if self._jobs is not None:
            await self._lookout.close()
            await asyncio.to_thread(self._jobs.close)

    def _workers_each(self, workers: int | None) -> int:
        assert self._site.slurm is not None
        number = workers or self._site.classical.workers or classical_cpus(self._site)
        return number * self._site.slurm.for_classical().nodes

    def _block(self, name: str, describe: Callable[[str, str], Job]) -> Block:
        assert self._jobs is not None

        def described(job: str, output: str) -> Job:
            made = describe(job, output)
            variables = made.variables | self._launch.settings()
            return msgspec.structs.replace(made, variables=variables)

        return Block(
            name,
            described,
            jobs=self._jobs,
            lookout=self._lookout,
            folder=self._folder,
            on_end=self._on_end,
            log_stays=self._log_dir is not None,
        )


class Elastic(_InBlocks):
    """Quantum blocks and classical ones apart, each as many as its tasks need."""

    def groups(
        self, resources: Sequence[str], workers: int | None, tasks: int | None
    ) -> list[Group]:
        """Return a group of quantum blocks for each resource, and the classical one."""
        least, most = self._blocks.quantum
        groups = []
        for each in map(self._site.resource, resources):
            number = tasks or each.tasks_per_slot
            spec = {"cls": partial(self._quantum, each.name, number)}
            groups.append(Group(Role.QUANTUM, each.name, spec, size=least, most=most, tasks=number))
        few, many = (0, 0) if workers == 0 else self._blocks.classical
        spec = {"cls": partial(self._classical, workers or self._site.classical.workers)}
        each_has = self._workers_each(workers)
        groups.append(Group(Role.CLASSICAL, "", spec, size=few, workers=each_has))
        self.limits = dict.fromkeys((group.label for group in groups[:-1]), (least, most))
        self.limits[groups[-1].label] = few, many
        return groups

    def adapting(self, role: Role) -> dict[str, Any]:
        """Return what gives a block back that was idle for so long; a QPU is the scarcer one."""
        idle = self._blocks.idle
        seconds = idle if role is Role.QUANTUM else max(idle, _CLASSICAL_IDLE_SECONDS)
        # A member goes when it was found idle so many times in a row.
        interval = min(1.0, max(0.1, seconds / 4))
        return {
            "interval": interval,
            "wait_count": math.ceil(seconds / interval) + 1,
            "target_duration": max(_DURATION_SECONDS, idle),
        }

    def _quantum(self, resource: str, tasks: int, scheduler: str, *, name: str) -> Block:
        command = self._launch.quantum(scheduler, name, resource, tasks)
        return self._block(
            name,
            lambda job, output: quantum_block(
                command, self._site, resource, name=job, output=output
            ),
        )

    def _classical(self, workers: int, scheduler: str, *, name: str) -> Block:
        command = self._launch.on_each_node(scheduler, name, workers)
        return self._block(
            name, lambda job, output: classical_block(command, self._site, name=job, output=output)
        )


class Coscheduled(_InBlocks):
    """One block, a heterogeneous job: its workers of both kinds come and go together."""

    def groups(
        self, resources: Sequence[str], workers: int | None, tasks: int | None
    ) -> list[Group]:
        """Return the one group."""
        if len(resources) != 1 or workers == 0:
            raise InputError(
                "a co-scheduled job has the slot of one resource, and classical workers beside it: "
                'name one resource in `resources`, or choose kind = "elastic" in [slurm.blocks]'
            )
        _log.warning(
            "A co-scheduled job holds its QPU slot to its end, also while nothing runs on it"
        )
        resource = self._site.resource(resources[0])
        chosen = tasks or resource.tasks_per_slot, workers or self._site.classical.workers
        spec = {"cls": partial(self._both, resource.name, *chosen)}
        return [CoscheduledGroup(resource.name, spec, workers=1 + self._workers_each(workers))]

    def _both(self, resource: str, tasks: int, workers: int, scheduler: str, *, name: str) -> Block:
        quantum = self._launch.quantum(scheduler, worker_name(name, Role.QUANTUM), resource, tasks)
        classical = self._launch.on_each_node(scheduler, name, workers)
        return self._block(
            name,
            lambda job, output: coscheduled_block(
                quantum, classical, self._site, resource, name=job, output=output
            ),
        )

"""Blocks: the jobs of workers that a workflow outside Slurm asks for, as descriptions.

::

    elastic       quantum_block     door ── workers                       one job a QPU slot
                  classical_block   srun ── workers, once a node          one job each
    coscheduled   coscheduled_block component 0: launcher ── door ── workers
                                    component 1:    └─ srun ── workers, once a node

What they ask for stands in the site file (``[slurm]``), and that they are wanted in
``[slurm.blocks]``. The engines give the commands; ``block_jobs.py`` submits the jobs, looks after
them, and sees to it that none outlives the workflow.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence

import msgspec

from hybridflow import environment
from hybridflow.component import Component
from hybridflow.errors import SlurmError
from hybridflow.site import Blocks, Site
from hybridflow.slurm.allocation import way_to
from hybridflow.slurm.commands import run_slurm
from hybridflow.slurm.coscheduled import slurm_of
from hybridflow.slurm.jobs import Job

__all__ = [
    "blocks_here",
    "classical_block",
    "classical_cpus",
    "coscheduled_block",
    "driver_address",
    "quantum_block",
]


def blocks_here(site: Site, environ: Mapping[str, str] = os.environ) -> Blocks | None:
    """Return how workers come from Slurm here; None inside a job, and where the site has none."""
    if site.slurm is None or environment.in_slurm_job(environ):
        return None
    return site.slurm.blocks


def quantum_block(
    command: Sequence[str], site: Site, resource: str, *, name: str, output: str
) -> Job:
    """Return the job of one elastic QPU block.

    Parameters
    ----------
    command
        The door and its workers; it runs in the batch script.
    site
        What to ask Slurm for stands in its ``[slurm]`` table.
    resource
        Name of the resource.
    name
        The job's name; see :meth:`~hybridflow.slurm.BlockJobs.name`.
    output
        File for what the job prints, in Slurm's form.

    Raises
    ------
    SiteError
        If the site has no ``[slurm]`` table.
    InputError
        If a value cannot stand in a job script.
    """
    component = slurm_of(site).for_quantum(resource)
    return _job(command, site, (component,), name, output)


def classical_block(command: Sequence[str], site: Site, *, name: str, output: str) -> Job:
    """Return the job of one elastic classical block, which runs `command` once on each node.

    See :func:`quantum_block`.
    """
    component = slurm_of(site).for_classical()
    line = list(command) if component.nodes == 1 else [*_LAUNCHER, "--", *command]
    return _job(line, site, (component,), name, output)


def coscheduled_block(
    quantum_command: Sequence[str],
    classical_command: Sequence[str],
    site: Site,
    resource: str,
    *,
    name: str,
    output: str,
) -> Job:
    """Return a heterogeneous job with a QPU slot and classical nodes, and workers on both.

    Component 0 runs the quantum command, and component 1 the classical one, once on each node. The
    job ends when both have ended, or one of them with a failure. See :func:`quantum_block`.
    """
    slurm = slurm_of(site)
    components = (slurm.for_quantum(resource), slurm.for_classical())
    quantum = ("--quantum", shlex.join(quantum_command))
    return _job([*_LAUNCHER, *quantum, "--", *classical_command], site, components, name, output)


_LAUNCHER = (sys.executable, "-m", "hybridflow.slurm.launcher")


def _job(
    command: Sequence[str],
    site: Site,
    components: tuple[Component, ...],
    name: str,
    output: str,
) -> Job:
    slurm = slurm_of(site)
    return Job(
        name=name,
        command=tuple(command),
        components=tuple(_run_once(component) for component in components),
        modules=slurm.modules,
        setup=slurm.setup,
        variables={environment.SITE: site.path} if site.path else {},
        output=output,
    )


def _run_once(component: Component) -> Component:
    # The engine asks for another block at once; Slurm would start the lost one again minutes later.
    return msgspec.structs.replace(component, extra=(*component.extra, "--no-requeue"))


def classical_cpus(site: Site) -> int:
    """Return how many CPUs a classical block has on each node, as far as the site file says it."""
    component = slurm_of(site).for_classical()
    tasks = component.tasks or component.nodes
    return max(1, tasks // component.nodes) * (component.cpus or 1)


def driver_address(site: Site) -> str:
    """Return the address of this machine by which the workers of blocks can reach it.

    Raises
    ------
    SlurmError
        If Slurm does not tell the nodes' addresses, or they cannot be reached from here.
    """
    slurm = slurm_of(site)
    if slurm.blocks is not None and slurm.blocks.address is not None:
        return slurm.blocks.address
    partition = slurm.for_classical().partition
    chosen = [f"--partition={partition}"] if partition else []
    nodes = run_slurm("sinfo", "--noheader", "--Node", "--format=%o", *chosen).split()
    if not nodes:
        raise SlurmError(
            f"Slurm knows no node of the partition {partition!r} of [slurm.classical]: correct the "
            "site file"
        )
    return way_to(nodes[0])

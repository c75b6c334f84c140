"""Where the blocks of a workflow come from: this machine, this job, or jobs of Slurm's."""

import os
from pathlib import Path

from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider

from hybridflow.environment import Role
from hybridflow.site import Site
from hybridflow.slurm import (
    BlockJobs,
    blocks_here,
    classical_cpus,
    current_allocation,
    driver_address,
)
from hybridflow_parsl.allocation import AllocationProvider
from hybridflow_parsl.coscheduled import CoscheduledProvider, Pair
from hybridflow_parsl.providers import BlockProvider, ElasticProvider

__all__ = ["address_for", "block_providers", "provider_here", "workers_for"]


def block_providers(
    site: Site, resource: str | None = None, *, folder: str | os.PathLike[str]
) -> tuple[BlockProvider, BlockProvider] | None:
    """Return the providers of both executors where the site wants blocks from Slurm.

    Parameters
    ----------
    site
        Its table ``[slurm.blocks]`` says which kind of blocks.
    resource
        Name of the resource; the site's default if not given.
    folder
        Folder of Parsl's run directories, which all nodes share.

    Returns
    -------
    tuple of BlockProvider or None
        That of the QPU executor and that of the classical one, which need one another; None inside
        a Slurm job, and where the site has no such table.

    Raises
    ------
    SiteError
        If the site has no such resource.
    """
    blocks = blocks_here(site)
    if blocks is None:
        return None
    name = site.resource(resource).name
    jobs = BlockJobs(Path(folder) / "blocks")
    if blocks.kind == "elastic":
        return (
            ElasticProvider(site, Role.QUANTUM, name, jobs),
            ElasticProvider(site, Role.CLASSICAL, name, jobs),
        )
    pair = Pair(site, name, jobs)
    return (
        CoscheduledProvider(site, Role.QUANTUM, name, jobs, pair),
        CoscheduledProvider(site, Role.CLASSICAL, name, jobs, pair),
    )


def provider_here() -> LocalProvider:
    """Return where classical workers come from if nobody says: the job's nodes, or this machine."""
    allocation = current_allocation()
    if allocation is None:
        return LocalProvider()  # type: ignore[no-untyped-call]
    return AllocationProvider(allocation)


def workers_for(site: Site, provider: ExecutionProvider) -> int:
    """Return how many classical workers a node has, if nobody says."""
    if isinstance(provider, AllocationProvider):
        return site.classical.workers or provider.allocation.cpus
    if isinstance(provider, BlockProvider):
        return site.classical.workers or classical_cpus(site)
    return site.classical.worker_count


def address_for(provider: ExecutionProvider) -> str | None:
    """Return the address of this machine for workers of a provider; None: they try all it has."""
    if isinstance(provider, AllocationProvider):
        return provider.allocation.address()
    if isinstance(provider, BlockProvider):
        return driver_address(provider.site)
    # Parsl would listen on, and probe, every interface of the machine.
    return "127.0.0.1" if isinstance(provider, LocalProvider) else None

"""The job of ``hybridflow submit``: a QPU slot and classical nodes that start together."""

from collections.abc import Sequence

import msgspec

from hybridflow import environment
from hybridflow.errors import InputError, SiteError
from hybridflow.site import Site, Slurm
from hybridflow.slurm.jobs import Job

__all__ = ["coscheduled_job", "slurm_of"]


def coscheduled_job(
    command: Sequence[str],
    site: Site,
    *,
    resource: str | None = None,
    nodes: int | None = None,
    walltime: str | None = None,
    name: str = "hybridflow",
    output: str | None = None,
) -> Job:
    """Return a heterogeneous job that runs a command beside a QPU slot and classical nodes.

    Component 0 holds the slot: the command runs there, and quantum workers with it. Component 1 has
    the classical nodes, where the engines start classical workers (``allocation.py``). The slot is
    held to the job's end.

    Parameters
    ----------
    command
        Program and arguments.
    site
        What to ask Slurm for stands in its ``[slurm]`` table.
    resource
        Name of the resource, or of a route, of whose `any_of` the job then holds all slots; the
        site's default if not given.
    nodes
        Number of classical nodes; what the site says if not given. 0: none, the job then has one
        component, and classical workers run beside the slot.
    walltime
        Time limit of all components; what the site says if not given.
    name
        The job's name.
    output
        File for what the job prints.

    Raises
    ------
    SiteError
        If the site has no such resource or no ``[slurm]`` table.
    InputError
        If a value is not possible.
    """
    slurm = slurm_of(site)
    route = site.route(resource)
    names = route.any_of if route else (site.resource(resource).name,)
    if nodes is not None and nodes < 0:
        raise InputError(f"the number of classical nodes must be at least 0, not {nodes}")
    components = [slurm.for_quantum(*names)]
    if nodes != 0:
        components.append(slurm.for_classical(nodes))
    if walltime is not None:
        components = [msgspec.structs.replace(each, walltime=walltime) for each in components]
    return Job(
        name=name,
        command=tuple(command),
        components=tuple(components),
        modules=slurm.modules,
        setup=slurm.setup,
        variables={environment.SITE: site.path} if site.path else {},
        output=output,
    )


def slurm_of(site: Site) -> Slurm:
    """Return what a site says about Slurm.

    Raises
    ------
    SiteError
        If it says nothing.
    """
    if site.slurm is None:
        raise SiteError(
            f"site {site.name!r} ({site.path or 'built in'}) does not say what to ask Slurm for: "
            "add a table [slurm] (configs/slurm.toml has one), or name the site file with --site"
        )
    return site.slurm

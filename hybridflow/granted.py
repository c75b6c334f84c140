"""Which of the resources that Slurm has granted to its job a command may use, or why none.

::

    the plugin's variables (grants.py)  ──┐
    what the allocation holds, where the  ├──► granted() ──► one grant, or an error with its cure
    site says so (allocated.py)         ──┘
"""

from collections.abc import Iterable, Mapping

from hybridflow import environment
from hybridflow.allocated import allocated
from hybridflow.errors import NoSlotError, SiteError
from hybridflow.grants import Grant, conflicts, grants, requested
from hybridflow.route import Route
from hybridflow.site import Site, SlotRequest

__all__ = ["granted", "granted_of"]


def granted(site: Site, resource: str | None, environ: Mapping[str, str]) -> Grant:
    """Return the grant of a resource to the job of this process.

    Parameters
    ----------
    site
        Where resources are defined.
    resource
        Name of the resource; without it, the only one that is granted, or the site's default.
    environ
        The job's variables.

    Raises
    ------
    NoSlotError
        If the job has no slot of it here; says how to get one.
    SiteError
        If the site does not define the resource, or defines it as something else than Slurm does.
    SlurmError
        If Slurm had to be asked what the job holds, and did not say.
    """
    found = {grant.name: grant for grant in grants(environ)}
    unplugged = {name: slot for name, slot in _unplugged(site).items() if name not in found}
    found |= {grant.name: grant for grant in allocated(unplugged, environ)}
    wanted = resource or (_choice(site, list(found)) if found else site.default)
    if wanted not in found and wanted in unplugged:
        raise NoSlotError(_why_not_held(wanted, unplugged[wanted], site, environ), resource=wanted)
    if not found:
        raise NoSlotError(_why_none(wanted, environ), resource=resource)
    if wanted not in found:
        raise NoSlotError(_why_not(wanted, list(found), environ), resource=wanted)
    _check_definition(found[wanted], site)
    return found[wanted]


def granted_of(site: Site, route: Route, environ: Mapping[str, str]) -> list[Grant]:
    """Return the grants of those of a route's resources that the job of this process has.

    Raises
    ------
    NoSlotError
        If it has none of those that the route does not only fall back to.
    SiteError, SlurmError
        As :func:`granted`.
    """
    found: list[Grant] = []
    missing: list[NoSlotError] = []
    for name in route.resources:
        try:
            found.append(granted(site, name, environ))
        except NoSlotError as error:
            missing.append(error)
    if not any(grant.name in route.any_of for grant in found):
        raise NoSlotError(
            f"this Slurm job has no slot of the route {route.name!r} ({', '.join(route.any_of)}): "
            f"submit it with --qpu={','.join(route.any_of)}, or some of them; {missing[0]}",
            resource=route.name,
        )
    return found


def _check_definition(grant: Grant, site: Site) -> None:
    if grant.name not in site.resources:
        raise SiteError(
            f"Slurm has acquired {grant.name!r} for this job, but site {_named(site)} defines only "
            f"{_names(site.resources)}: add a table [qpu.{grant.name}], or name the right site "
            f"file in {environment.SITE} or with --site"
        )
    backend = site.resources[grant.name].backend
    if conflicts(backend, grant.type):
        raise SiteError(
            f"Slurm has acquired {grant.name!r} as a resource of type {grant.type!r}, which site "
            f"{_named(site)} would drive with the backend {backend!r}: correct `backend` in its "
            f"table [qpu.{grant.name}], or give the other resource another name",
            resource=grant.name,
        )


def _unplugged(site: Site) -> dict[str, SlotRequest]:
    # Slots that no plugin grants.
    slots = site.slurm.slots if site.slurm is not None else {}
    return {name: slot for name, slot in slots.items() if not slot.qpu}


def _why_not_held(name: str, slot: SlotRequest, site: Site, environ: Mapping[str, str]) -> str:
    words = {"gres": slot.gres, "licenses": slot.licenses}
    options = " ".join(f"--{option}={value}" for option, value in words.items() if value)
    return (
        f"Slurm job {environ[environment.SLURM_JOB]} holds no slot of {name!r} on this node: "
        f"submit it with {options}, which is what a slot is by [slurm.slots.{name}] of site "
        f"{_named(site)}"
    )


def _why_none(name: str, environ: Mapping[str, str]) -> str:
    asked = requested(environ)
    but = f", though --qpu={','.join(asked)} was asked for" if asked else ""
    return (
        f"Slurm job {environ[environment.SLURM_JOB]} has acquired no QPU{but}: submit it as a "
        f"batch job with `sbatch --gres=qpu:1 --qpu={name}`, or start the command with `srun` in "
        "the shell of `salloc --qpu` (with the reference plugin, `srun --qpu` and `salloc --qpu` "
        "acquire nothing, and of a heterogeneous job only the first component can)"
    )


def _why_not(name: str, acquired: list[str], environ: Mapping[str, str]) -> str:
    held = f"this Slurm job has acquired {_names(acquired)}, not {name!r}"
    if name in requested(environ):
        return (
            f"{held}, though it was asked for: the beginning of the job's output says why; submit "
            "the job again when the resource is there"
        )
    return f"{held}: submit it with `--qpu={name}`"


def _choice(site: Site, acquired: list[str]) -> str:
    if len(acquired) == 1:
        return acquired[0]
    if site.default in acquired:
        return site.default
    raise NoSlotError(
        f"this Slurm job has acquired {_names(acquired)}, and none is the site's default "
        f"({site.default!r}): say which with --resource"
    )


def _named(site: Site) -> str:
    return f"{site.name!r} ({site.path or 'built in'})"


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))

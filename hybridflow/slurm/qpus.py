"""The resources of a site as Slurm sees them: slots, who holds them, who waits, the nodes' state.

::

    site file ── name of the GRES or licence ──┐
    scontrol show node, show license ──────────┼──►  QpuState, one a resource
    all_jobs() ────────────────────────────────┘
"""

from collections.abc import Iterable, Mapping

from hybridflow.records import Record, Resource
from hybridflow.site import Site, SlotRequest
from hybridflow.slurm.commands import run_slurm
from hybridflow.slurm.queries import JobInfo, SlurmState, all_jobs
from hybridflow.slurm.text import amounts, fields

__all__ = ["Claim", "QpuState", "qpu_states", "slot_names"]

_NONE = ("(null)", "N/A", "")


class Claim(Record, frozen=True, kw_only=True):
    """A job that holds slots of a resource, or waits for them.

    Attributes
    ----------
    job
        Its number.
    user
        Whose it is.
    slots
        How many slots.
    """

    job: str
    user: str
    slots: int


class QpuState(Record, frozen=True, kw_only=True):
    """A resource as Slurm sees it.

    Attributes
    ----------
    name, backend
        The site's name of it, and its type.
    source
        What Slurm counts: ``"gres"`` or ``"license"``; empty if it knows neither.
    slots
        How many slots there are.
    holders, queue
        The jobs that hold slots, and those that wait for one.
    nodes
        State of each node that has slots, by its name, as in ``"mixed"`` or
        ``"down (Not responding)"``; empty for a licence.
    """

    name: str
    backend: str
    source: str
    slots: int
    holders: tuple[Claim, ...]
    queue: tuple[Claim, ...]
    nodes: dict[str, str]

    @property
    def used(self) -> int:
        """How many slots are held."""
        return sum(claim.slots for claim in self.holders)


def qpu_states(site: Site) -> list[QpuState]:
    """Return the state of all resources of a site.

    Raises
    ------
    SlurmError
        If Slurm does not answer.
    """
    nodes = _shown("node")
    licenses = {entry["LicenseName"]: int(entry["Total"]) for entry in _shown("license")}
    jobs = [job for job in all_jobs() if not job.state.final]
    return [_state(site, resource, nodes, licenses, jobs) for resource in site.resources.values()]


def _shown(kind: str) -> list[dict[str, str]]:
    lines = run_slurm("scontrol", "--oneliner", "show", kind).splitlines()
    return [fields(line) for line in lines if "Name=" in line]  # else: that there are none


def _state(
    site: Site,
    resource: Resource,
    nodes: Iterable[Mapping[str, str]],
    licenses: Mapping[str, int],
    jobs: Iterable[JobInfo],
) -> QpuState:
    gres, licence = slot_names(site, resource.name)
    having = {node["NodeName"]: node for node in nodes if gres in amounts(node.get("Gres", ""))}
    counted = gres if having else licence
    source = "gres" if having else "license" if licence in licenses else ""
    slots = sum(amounts(node["Gres"])[gres] for node in having.values())
    claims = [(job, _asked(job, source).get(counted, 0)) for job in jobs]
    return QpuState(
        name=resource.name,
        backend=resource.backend,
        source=source,
        slots=slots or licenses.get(licence, 0),
        holders=_claims((job, n) for job, n in claims if job.state is not SlurmState.PENDING),
        queue=_claims((job, n) for job, n in claims if job.state is SlurmState.PENDING),
        nodes={name: _node_state(node) for name, node in having.items()},
    )


def slot_names(site: Site, resource: str) -> tuple[str, str]:
    """Return what Slurm may call a resource's slots: the name of a GRES and of a licence.

    They are the site file's, or those that our definitions of resources have.
    """
    requests = site.slurm.slots if site.slurm else {}
    request = requests.get(resource, SlotRequest())
    gres = next(iter(amounts(request.gres or "")), f"qpu:{resource}")
    return gres, next(iter(amounts(request.licenses or "")), resource)


def _asked(job: JobInfo, source: str) -> Mapping[str, int]:
    return {"gres": job.gres, "license": job.licenses}.get(source, {})


def _claims(found: Iterable[tuple[JobInfo, int]]) -> tuple[Claim, ...]:
    return tuple(Claim(job=job.group, user=job.user, slots=n) for job, n in found if n)


def _node_state(node: Mapping[str, str]) -> str:
    reason = node.get("Reason", "").partition(" [")[0]
    state = node["State"].lower()
    return state if reason in _NONE else f"{state} ({reason})"

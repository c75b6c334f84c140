"""What a machine's Slurm has that a site file speaks of: partitions, QPUs, how slots are asked for.

::

    scontrol show partition, node, license, config ──┐
    srun --help (is --qpu known?)                  ──┴──►  Survey
"""

from collections.abc import Iterable, Mapping

from hybridflow.records import Record
from hybridflow.slurm.commands import run_slurm
from hybridflow.slurm.text import amounts, fields

__all__ = ["Partition", "SlurmQpu", "Survey", "survey"]

_GRES = "qpu"


class Partition(Record, frozen=True, kw_only=True):
    """A partition: its nodes in Slurm's short form, how many they are, and its time limit."""

    name: str
    nodes: str
    size: int
    limit: str
    default: bool


class SlurmQpu(Record, frozen=True, kw_only=True):
    """Something that Slurm counts and that may be a QPU.

    Attributes
    ----------
    name
        Slurm's name: the type of a GRES ``qpu``, or a licence.
    source
        ``"gres"`` or ``"license"``.
    slots
        How many there are.
    partitions
        Those whose nodes have it; none for a licence.
    """

    name: str
    source: str
    slots: int
    partitions: tuple[str, ...] = ()


class Survey(Record, frozen=True, kw_only=True):
    """What a Slurm has.

    Attributes
    ----------
    version
        Slurm's.
    partitions, qpus
        What there is; licences stand under `qpus`, though not each is one.
    plugin
        Whether the commands know ``--qpu``.
    cli_filter
        Whether a Lua script may give ``--qpu`` its effect on the scheduler.
    """

    version: str
    partitions: tuple[Partition, ...]
    qpus: tuple[SlurmQpu, ...]
    plugin: bool
    cli_filter: bool


def survey() -> Survey:
    """Ask Slurm what it has.

    Raises
    ------
    SlurmError
        If there is no Slurm here, or it does not answer (``transient``).
    """
    settings = _settings()
    return Survey(
        version=settings.get("SLURM_VERSION", ""),
        partitions=tuple(_partition(one) for one in _shown("partition", "PartitionName=")),
        qpus=(
            *_gres(_shown("node", "NodeName=")),
            *_licenses(_shown("license", "LicenseName=")),
        ),
        plugin="--qpu=" in run_slurm("srun", "--help"),
        cli_filter="lua" in settings.get("CliFilterPlugins", ""),
    )


def _settings() -> dict[str, str]:
    lines = run_slurm("scontrol", "show", "config").splitlines()
    pairs = (line.partition("=") for line in lines)
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _shown(kind: str, start: str) -> list[dict[str, str]]:
    lines = run_slurm("scontrol", "--oneliner", "show", kind).splitlines()
    return [fields(line) for line in lines if line.startswith(start)]  # else: that there are none


def _partition(shown: Mapping[str, str]) -> Partition:
    return Partition(
        name=shown["PartitionName"],
        nodes=shown.get("Nodes", ""),
        size=int(shown.get("TotalNodes", "0")),
        limit=shown.get("MaxTime", ""),
        default=shown.get("Default") == "YES",
    )


def _gres(nodes: Iterable[Mapping[str, str]]) -> list[SlurmQpu]:
    slots: dict[str, int] = {}
    places: dict[str, list[str]] = {}
    for node in nodes:
        for what, count in amounts(node.get("Gres", "")).items():
            kind, _, name = what.partition(":")
            if kind == _GRES and name:
                slots[name] = slots.get(name, 0) + count
                places.setdefault(name, []).extend(node.get("Partitions", "").strip().split(","))
    return [
        SlurmQpu(
            name=name,
            source="gres",
            slots=count,
            partitions=tuple(filter(None, dict.fromkeys(places[name]))),
        )
        for name, count in slots.items()
    ]


def _licenses(shown: Iterable[Mapping[str, str]]) -> list[SlurmQpu]:
    return [
        SlurmQpu(name=one["LicenseName"], source="license", slots=int(one["Total"]))
        for one in shown
    ]

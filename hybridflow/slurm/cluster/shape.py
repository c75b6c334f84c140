"""What a local cluster consists of, checked where it is asked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hybridflow.errors import InputError

__all__ = ["QPU_NODE", "Shape"]

QPU_NODE = "q1"
"""The node that holds all QPU slots."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SETTING = re.compile(r"[A-Za-z]+")
_MOST_NODES = 64


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a local cluster consists of.

    Attributes
    ----------
    node_count
        Nodes in all: ``q1`` with the QPU slots, and ``c1``, ``c2``, … for classical work.
    qpus
        Slots of each QPU that ``q1`` holds, as GRES ``qpu:NAME``.
    licenses
        Slots of each QPU that belongs to no node, as licences.
    accounting
        Whether there is a database of finished jobs.
    settings
        Further lines of ``slurm.conf``; they win over the cluster's own.
    """

    node_count: int = 3
    qpus: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    licenses: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    accounting: bool = False
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not 1 <= self.node_count <= _MOST_NODES:
            raise InputError(
                f"a local cluster of {self.node_count} nodes cannot be; ask for 1 to {_MOST_NODES}"
            )
        for name, slots in [*self.qpus.items(), *self.licenses.items()]:
            _check_slots(name, slots)
        for name in sorted({*self.qpus} & {*self.licenses}):
            raise InputError(
                f"the QPU {name!r} is given as a node's and as a licence; it can only be one"
            )
        for name, value in self.settings.items():
            _check_setting(name, value)

    @property
    def classical_nodes(self) -> tuple[str, ...]:
        """Names of the nodes without a QPU."""
        return tuple(f"c{number}" for number in range(1, self.node_count))

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes."""
        return (QPU_NODE, *self.classical_nodes)


def _check_slots(name: str, slots: int) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be a QPU's name: a letter, then letters, digits and `_` (names with "
            "`-` or `.` lose their variables under /bin/sh)"
        )
    if slots < 1:
        raise InputError(f"the QPU {name!r} has {slots} slots; it must have at least 1")


def _check_setting(name: str, value: str) -> None:
    if not _SETTING.fullmatch(name) or not value.isprintable():
        raise InputError(
            f"{name}={value!r} is no setting of slurm.conf: give a name of letters and one line"
        )

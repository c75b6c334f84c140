"""The text of a site file, from what was found on a machine. Pure."""

import json
import re
from collections.abc import Iterator

from hybridflow.backends.qrmi.kinds import KINDS
from hybridflow.environment import LOCAL_TYPES
from hybridflow.records import Record
from hybridflow.slurm.survey import Partition, SlurmQpu, Survey

__all__ = ["Found", "site_text"]

_NAME = re.compile(r"[\w.-]+", re.ASCII)
_SIMULATOR = "simulator"
_QRMI = "qrmi"
_CPUS = 2


class Found(Record, frozen=True, kw_only=True):
    """What was found.

    Attributes
    ----------
    cores
        Of this machine, for this process.
    slurm
        What Slurm has; None without one.
    types
        Types of resources by name, from ``qrmi_config.json``.
    config
        Path of that file; empty without one.
    backend
        Type of those that are not named there; None: not known.
    """

    cores: int
    slurm: Survey | None
    types: dict[str, str]
    backend: str | None
    config: str = ""

    def qpus(self) -> list[SlurmQpu]:
        """Return what Slurm counts and what is a QPU, as far as one can tell."""
        counted = self.slurm.qpus if self.slurm else ()
        known = {
            one.name: one
            for one in reversed(counted)  # of a GRES and a licence of one name, the GRES
            if _NAME.fullmatch(one.name) and (one.source == "gres" or one.name in self.types)
        }
        return list(reversed(known.values()))

    def uncounted(self) -> list[str]:
        """Return the resources that are defined, can be used, and that Slurm does not count."""
        counted = {one.name for one in self.qpus()}
        return [
            name
            for name in self.types
            if name not in counted and self.kind(name) and _NAME.fullmatch(name)
        ]

    def licenses(self) -> list[str]:
        """Return the names of licences of which nothing says that they are QPUs."""
        counted = self.slurm.qpus if self.slurm else ()
        names = [one.name for one in counted if one.source == "license"]
        taken = {one.name for one in self.qpus()}
        return [name for name in names if name not in taken]

    def kind(self, name: str) -> str | None:
        """Return the type of backend of a resource; None if it is not known."""
        told = self.types.get(name)
        if told in LOCAL_TYPES:
            return told
        return _QRMI if told in KINDS else self.backend

    def summary(self) -> Iterator[str]:
        """Say in lines what was found."""
        yield f"cores: {self.cores}"
        for name in self.uncounted():
            yield f"QPU: {name}, defined in {self.config}, {self.kind(name)}"
        if self.slurm is None:
            yield "Slurm: none here"
            return
        yield f"Slurm: {self.slurm.version}, {len(self.slurm.partitions)} partitions"
        for one in self.qpus():
            kind = self.kind(one.name) or "of an unknown type: left as a comment"
            yield f"QPU: {one.name}, {one.slots} slots ({one.source}), {kind}"
        if licenses := self.licenses():
            yield f"licences that may be QPUs: {', '.join(licenses)}"


def site_text(found: Found) -> str:
    """Return a site file in TOML, commented."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Found) -> Iterator[str]:
    known = [one.name for one in found.qpus() if found.kind(one.name)] or found.uncounted()
    yield "# Written by `hybridflow init` from what it found here; change it as you like."
    yield "# The keys of all tables are explained in configs/laptop.toml and configs/slurm.toml."
    yield 'name = "my-site"'
    yield ""
    yield "# The resource that is used where none is named."
    yield f'default = "{known[0] if known else _SIMULATOR}"'
    yield from _resources(found)
    yield ""
    yield f"# Classical workers of one machine; 0: one a core. There are {found.cores} here."
    yield "[classical]"
    yield "workers = 0"
    yield "threads = 1"
    if found.slurm is None:
        yield ""
        yield "# No Slurm was found here (`scontrol` is not in PATH, or has no slurm.conf)."
    else:
        yield from _slurm(found, found.slurm)


def _resources(found: Found) -> Iterator[str]:
    usable = [one.name for one in found.qpus() if found.kind(one.name)]
    if _SIMULATOR not in (*usable, *found.uncounted()):
        yield ""
        yield "# A simulator on this machine, without noise."
        yield f"[qpu.{_SIMULATOR}]"
        yield 'backend = "aer"'
    for one in found.qpus():
        kind = found.kind(one.name)
        told = found.types.get(one.name, "")
        yield ""
        yield f"# {one.slots} slots in Slurm, by {one.source}" + (
            f"; of the type {told}." if _NAME.fullmatch(told) else "."
        )
        if kind is None:
            yield "# Which backend talks to it is for you to say; until then it is not used."
        mark = "" if kind else "# "
        yield f"{mark}[qpu.{_key(one.name)}]"
        yield f'{mark}backend = "{kind or "…"}"'
        if told in KINDS:
            yield f'type = "{told}"'
    for name in found.uncounted():
        yield from _uncounted(found, name)
    for name in found.licenses():
        yield ""
        yield f"# Slurm has licences of the name {name!r}. If they are slots of a QPU:"
        yield f"# [qpu.{_key(name)}]" if _NAME.fullmatch(name) else "# [qpu.NAME]"
        yield '# backend = "…"'


def _uncounted(found: Found, name: str) -> Iterator[str]:
    kind = found.kind(name)
    yield ""
    yield "# Defined in the file of QRMI; Slurm counts no slots of it."
    yield f"[qpu.{_key(name)}]"
    yield f'backend = "{kind}"'
    if found.types[name] in KINDS:
        yield f'type = "{found.types[name]}"'
        yield "# The file has keys in it: nobody else may be able to read it."
        yield f"config = {json.dumps(found.config)}"


def _slurm(found: Found, slurm: Survey) -> Iterator[str]:
    quantum = _quantum_partition(found, slurm)
    classical = _classical_partition(found, slurm, quantum) or quantum
    yield ""
    yield f"# Slurm {slurm.version} has these partitions:"
    for one in slurm.partitions:
        default = ", the default" if one.default else ""
        yield f"#   {one.name}: nodes {one.nodes or '-'}, at most {one.limit or '-'}{default}"
    yield "[slurm]"
    yield '# account = "…"'
    yield 'walltime = "00:30:00"'
    for role, partition in (("quantum", quantum), ("classical", classical)):
        yield ""
        yield {
            "quantum": "# The component of a job that holds the QPU slot and runs the workflow.",
            "classical": "# The component of the classical nodes.",
        }[role]
        yield f"[slurm.{role}]"
        yield f'partition = "{partition}"' if partition else '# partition = "…"'
        yield f"cpus = {_CPUS}"
    for qpu in found.qpus():
        if not (slurm.plugin and slurm.cli_filter):
            yield from _slot(qpu, slurm, "" if found.kind(qpu.name) else "# ")
    yield ""
    yield "# Workers of a workflow that is started on a login node: jobs that come and go."
    yield "# [slurm.blocks]"
    yield '# kind = "elastic"'


def _slot(qpu: SlurmQpu, slurm: Survey, mark: str) -> Iterator[str]:
    missing = "no cli_filter gives --qpu its effect" if slurm.plugin else "no plugin knows --qpu"
    yield ""
    yield f"# How a slot is asked for: {missing} here."
    yield f"{mark}[slurm.slots.{_key(qpu.name)}]"
    yield f"{mark}qpu = {'true' if slurm.plugin else 'false'}"
    if qpu.source == "gres":
        yield f'{mark}gres = "qpu:{qpu.name}:1"'
    else:
        yield f'{mark}licenses = "{qpu.name}:1"'


def _quantum_partition(found: Found, slurm: Survey) -> str:
    # A partition of all nodes has the QPU's too; that with the fewest others fits best.
    holding = _holding(found, slurm)
    return _first(sorted(holding, key=lambda one: one.size)) or _first(_by_default(slurm))


def _classical_partition(found: Found, slurm: Survey, quantum: str) -> str:
    holding = _holding(found, slurm)
    others = [one for one in _by_default(slurm) if one not in holding]
    return _first(others) or _first([one for one in _by_default(slurm) if one.name != quantum])


def _holding(found: Found, slurm: Survey) -> list[Partition]:
    names = {name for one in found.qpus() for name in one.partitions}
    return [one for one in slurm.partitions if one.name in names]


def _by_default(slurm: Survey) -> list[Partition]:
    return sorted(slurm.partitions, key=lambda one: not one.default)


def _first(partitions: list[Partition]) -> str:
    return partitions[0].name if partitions else ""


def _key(name: str) -> str:
    return f'"{name}"' if "." in name else name

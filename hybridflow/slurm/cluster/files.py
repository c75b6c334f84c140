"""The configuration files of a local cluster: from its shape to text.

The templates ``slurm.conf`` and ``slurmdbd.conf`` stand beside this module.
"""

import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from string import Template

from hybridflow.slurm.cluster.layout import Layout
from hybridflow.slurm.cluster.shape import QPU_NODE, Shape

__all__ = ["write_files"]

_LOOPBACK = "127.0.0.1"
_CPUS = 4
"""Cores that each node claims, whatever the machine has."""


def write_files(
    shape: Shape, layout: Layout, ports: Mapping[str, int], settings: Mapping[str, str]
) -> None:
    """Write the munge key and Slurm's configuration files.

    Parameters
    ----------
    shape
        What the cluster consists of.
    layout
        Where the files go.
    ports
        The port of each daemon: of ``slurmctld``, ``slurmdbd``, and of each node by its name.
    settings
        Of ``slurm.conf``; they win over the template's.
    """
    _write(layout.munge_key, secrets.token_bytes(128), 0o600)
    fields = _fields(shape, layout, ports)
    files = {
        "slurm.conf": _merged(_template("slurm.conf").substitute(fields), settings),
        "gres.conf": "".join(_gres(shape)),
    }
    if not (layout.etc / "plugstack.conf").exists():
        files["plugstack.conf"] = ""
    for name, text in files.items():
        _write(layout.etc / name, text.encode(), layout.mode & 0o666)
    if shape.accounting:
        text = _template("slurmdbd.conf").substitute(fields)
        _write(layout.etc / "slurmdbd.conf", text.encode(), 0o600)


def _write(file: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)
        stream.write(content)


def _template(name: str) -> Template:
    return Template((resources.files(__package__) / name).read_text())


def _fields(shape: Shape, layout: Layout, ports: Mapping[str, int]) -> dict[str, object]:
    host = socket.gethostname().partition(".")[0]
    return {
        "host": host,
        "user": layout.user,
        "controller_port": ports["slurmctld"],
        "accounting_port": ports.get("slurmdbd"),
        "munge_socket": layout.munge_socket,
        "etc": layout.etc,
        "log": layout.log,
        "run": layout.folder / "run",
        "state": layout.folder / "state",
        "spool": layout.folder / "spool",
        "loopback": _lines(_loopback(host)),
        "accounting": _lines(_accounting(shape, layout, ports)),
        "licenses": _lines({"Licenses": _counts(shape.licenses)} if shape.licenses else {}),
        "nodes": "\n".join(_nodes(shape, host, ports)),
        "partitions": "\n".join(_partitions(shape)),
    }


def _loopback(host: str) -> dict[str, str]:
    # What keeps Slurm's daemons from listening on all addresses binds them to the one that they
    # find for the machine's own name: of use where that is the one that everybody here is told.
    try:
        bound = {found[4][0] for found in socket.getaddrinfo(host, None, socket.AF_INET)}
    except OSError:
        return {}
    return (
        {"CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny"} if bound == {_LOOPBACK} else {}
    )


def _accounting(shape: Shape, layout: Layout, ports: Mapping[str, int]) -> dict[str, str]:
    if not shape.accounting:
        return {"AccountingStorageType": "accounting_storage/none"}
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": str(ports["slurmdbd"]),
        # Not a password: where to find munge, for connections to slurmdbd.
        "AccountingStoragePass": str(layout.munge_socket),
        "AccountingStorageTRES": ",".join(_tres(shape)),
        "AccountingStoreFlags": "job_comment",
    }


def _tres(shape: Shape) -> Iterator[str]:
    yield "gres/qpu"
    yield from (f"gres/qpu:{name}" for name in shape.qpus)
    yield from (f"license/{name}" for name in shape.licenses)


def _merged(text: str, settings: Mapping[str, str]) -> str:
    # Slurm complains, in each command, of a setting that stands there twice.
    names = {name.lower() for name in settings}
    kept = [line for line in text.splitlines() if line.partition("=")[0].lower() not in names]
    return "\n".join([*kept, _lines(settings), ""])


def _lines(settings: Mapping[str, str]) -> str:
    return "\n".join(f"{name}={value}" for name, value in settings.items())


def _counts(slots: Mapping[str, int], prefix: str = "") -> str:
    return ",".join(f"{prefix}{name}:{count}" for name, count in slots.items())


def _nodes(shape: Shape, host: str, ports: Mapping[str, int]) -> Iterator[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    for name in shape.nodes:
        gres = _counts(shape.qpus, "qpu:") if name == QPU_NODE else ""
        yield (
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[name]} "
            f"CPUs={_CPUS} RealMemory={memory}{gres and f' Gres={gres}'}"
        )


def _partitions(shape: Shape) -> Iterator[str]:
    parts = {"main": shape.nodes, "qpu": (QPU_NODE,), "classical": shape.classical_nodes}
    for name, nodes in parts.items():
        if nodes:
            default = "YES" if name == "main" else "NO"
            yield f"PartitionName={name} Nodes={','.join(nodes)} Default={default} State=UP"


def _gres(shape: Shape) -> Iterator[str]:
    for name, count in shape.qpus.items():
        yield f"NodeName={QPU_NODE} Name=qpu Type={name} Count={count}\n"

"""The SPANK plugin of a local cluster: compiled into its folder, with definitions of its QPUs."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridflow.slurm.cluster.layout import Layout
from hybridflow.slurm.cluster.shape import Shape
from hybridflow.slurm.spank import build, configure

__all__ = ["Definitions", "install_plugin"]

Definitions = str | os.PathLike[str] | Mapping[str, Any]
"""A file of definitions, mode 0600, or what would stand in one."""


def install_plugin(shape: Shape, layout: Layout, definitions: Definitions | None) -> dict[str, str]:
    """Compile the plugin and configure Slurm for it, before slurmd starts.

    Parameters
    ----------
    shape
        What the cluster consists of.
    layout
        Where the files go.
    definitions
        Definitions of the QPUs; if None, all of the cluster's are of type ``aer``.

    Returns
    -------
    dict
        What ``slurm.conf`` must say for it.

    Raises
    ------
    MissingProgramError
        If there is no C compiler, or Slurm's headers are not installed.
    InputError
        If the definitions cannot be used.
    """
    if definitions is None:
        definitions = {"resources": _resources(shape)}
    if isinstance(definitions, Mapping):
        definitions = _write(definitions, layout.folder / "keys" / "qpus.json")
    return configure(
        layout.etc,
        build(layout.folder / "plugin"),
        definitions=Path(definitions).absolute(),
        state=layout.folder / "slots",
        grants=layout.folder / "grants",
    )


def _resources(shape: Shape) -> list[dict[str, str]]:
    allocations = {**dict.fromkeys(shape.qpus, "gres"), **dict.fromkeys(shape.licenses, "license")}
    return [
        {"name": name, "type": "aer", "allocation": allocation}
        for name, allocation in allocations.items()
    ]


def _write(definitions: Mapping[str, Any], file: Path) -> Path:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(definitions, stream, indent=2)
    return file

"""A site file for a local cluster, from which hybridflow's commands learn its QPUs: ideal Aers."""

from collections.abc import Iterator

from hybridflow.slurm.cluster.shape import Shape

__all__ = ["site_file"]


def site_file(shape: Shape, *, plugin: bool) -> str:
    """Return the text of a site file; the cluster must have a QPU.

    Without the plugin it says which GRES or licence a slot is.
    """
    return "\n".join([*_lines(shape), *([] if plugin else _slots(shape)), ""])


def _lines(shape: Shape) -> Iterator[str]:
    names = [*shape.qpus, *shape.licenses]
    yield "# Written by `hybridflow cluster up`; configs/slurm.toml explains it."
    yield 'name = "local-cluster"'
    yield f'default = "{names[0]}"'
    for name in names:
        yield f'\n[qpu.{name}]\nbackend = "aer"'
    yield '\n[slurm.quantum]\npartition = "qpu"'
    if shape.classical_nodes:
        yield f'\n[slurm.classical]\npartition = "classical"\nnodes = {len(shape.classical_nodes)}'


def _slots(shape: Shape) -> Iterator[str]:
    for name in shape.qpus:
        yield f'\n[slurm.slots.{name}]\nqpu = false\ngres = "qpu:{name}:1"'
    for name in shape.licenses:
        yield f'\n[slurm.slots.{name}]\nqpu = false\nlicenses = "{name}:1"'

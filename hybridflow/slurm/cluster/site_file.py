"""A site file for a local cluster, from which hybridflow's commands learn its QPUs: ideal Aers."""

from collections.abc import Iterator

from hybridflow.slurm.cluster.shape import Shape

__all__ = ["site_file"]


def site_file(shape: Shape) -> str:
    """Return the text of a site file; the cluster must have a QPU."""
    return "\n".join([*_lines(shape), ""])


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

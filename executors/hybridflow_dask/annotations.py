"""The annotation of a quantum step: for functions without the mark, or for a certain resource."""

from collections.abc import Iterator
from contextlib import contextmanager

from dask.base import annotate

from hybridflow.errors import InputError
from hybridflow_dask import purity
from hybridflow_dask.labels import QPU, resource_label

__all__ = ["quantum"]


@contextmanager
def quantum(resource: str | None = None, *, pure: bool = False) -> Iterator[None]:
    """Make quantum tasks of all that is submitted, or built with ``dask.delayed``, in this block.

    It is ``dask.annotate(resources={"QPU": 1})``. A function marked with
    :func:`hybridflow.quantum_task` needs it only to choose a resource. In an array, bag or
    dataframe Dask loses annotations: mark the function there.

    Parameters
    ----------
    resource
        Name of the resource; any quantum worker will do if not given.
    pure
        Whether two equal calls may be one: True for calls that get a seed as an argument.

    Raises
    ------
    InputError
        If `resource` is no name.
    """
    if resource is not None and not _is_name(resource):
        raise InputError(
            f"`resource` of quantum() is the name of a resource, not {resource!r}; use "
            "`with quantum(): ...` for any resource"
        )
    purity.install()
    labels = {QPU: 1} if resource is None else {QPU: 1, resource_label(resource): 1}
    with annotate(resources=labels), purity.asked(pure):
        yield


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""

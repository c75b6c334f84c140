"""Finds a type of backend by its name: ours and third parties', through one entry-point group."""

from functools import cache
from importlib.metadata import entry_points

from hybridflow.backends.base import BackendType
from hybridflow.errors import SiteError

__all__ = ["GROUP", "backend_names", "backend_type"]

GROUP = "hybridflow.backends"


@cache
def backend_names() -> tuple[str, ...]:
    """Return the names of all installed types of backends."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


@cache
def backend_type(name: str) -> BackendType:
    """Return the class behind a name.

    Looking through what is installed takes milliseconds, and a site file is read in each call of a
    primitive: done once for each name.

    Raises
    ------
    SiteError
        If no such type is installed, or if its module cannot be imported.
    """
    for point in entry_points(group=GROUP, name=name):
        try:
            found: BackendType = point.load()
        except ImportError as error:
            raise SiteError(
                f"the backend {name!r} is installed ({point.value}) but cannot be imported: {error}"
            ) from error
        return found
    raise SiteError(
        f"there is no backend {name!r}; installed are: {', '.join(backend_names()) or 'none'}"
    )

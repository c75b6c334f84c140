"""What must be alike in the processes of a cluster, so that what one pickles another can run."""

import platform
from collections.abc import Mapping
from importlib import metadata

__all__ = ["difference", "versions"]

_PACKAGES = ("hybridflow", "qiskit", "dask", "distributed")


def versions() -> dict[str, str]:
    """Return this process's versions of Python and of the packages that matter."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python} | {package: metadata.version(package) for package in _PACKAGES}


def difference(its: Mapping[str, str], others: Mapping[str, str], other: str) -> str:
    """Return how two processes differ, as in "it has qiskit 2.5, and OTHER has 2.6"; or nothing."""
    for name, version in others.items():
        if its.get(name) != version:
            return f"it has {name} {its.get(name, 'none')}, and {other} has {version}"
    return ""

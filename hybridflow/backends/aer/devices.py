"""The fake devices of qiskit-ibm-runtime: their names, and one by its name."""

import difflib
import functools
from types import ModuleType
from typing import Any

from hybridflow.errors import SiteError
from hybridflow.extras import require

__all__ = ["device_names", "fake_device"]


def _provider() -> ModuleType:
    return require("qiskit_ibm_runtime.fake_provider", "runtime", "a fake device")


def device_names() -> list[str]:
    """Return the class names of all fake devices of the installed qiskit-ibm-runtime."""
    from qiskit.providers import BackendV2

    found = vars(_provider()).items()
    return sorted(
        name for name, kind in found if isinstance(kind, type) and issubclass(kind, BackendV2)
    )


@functools.lru_cache(maxsize=4)
def fake_device(name: str) -> Any:
    """Return a fake device, a ``BackendV2``.

    Raises
    ------
    SiteError
        If there is none of that name; the message has all names, the nearest first.
    """
    names = device_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        hint = f" did you mean {' or '.join(near)}?" if near else ""
        raise SiteError(f"there is no fake device {name!r};{hint} allowed are: {', '.join(names)}")
    return getattr(_provider(), name)()

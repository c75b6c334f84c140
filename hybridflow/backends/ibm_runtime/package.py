"""Imports ``qiskit-ibm-runtime`` when it is first used: it takes more than a second."""

import importlib
from types import ModuleType

from hybridflow.extras import require
from hybridflow.qiskit_thread import import_qiskit

__all__ = ["runtime"]

_NAME = "qiskit_ibm_runtime"


def runtime(module: str = "") -> ModuleType:
    """Return the package, or a module of it.

    Raises
    ------
    MissingExtraError
        If it is not installed; the message names the extra.
    """
    import_qiskit()  # the caller's thread, where it would be imported, may end
    package = require(_NAME, "runtime", "the backend 'ibm_runtime'")
    return importlib.import_module(f"{_NAME}.{module}") if module else package

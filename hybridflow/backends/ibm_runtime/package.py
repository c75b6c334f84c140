"""Imports ``qiskit-ibm-runtime`` when it is first used: it takes more than a second."""

import importlib
from types import ModuleType

from hybridflow.errors import MissingExtraError

__all__ = ["runtime"]

_NAME = "qiskit_ibm_runtime"


def runtime(module: str = "") -> ModuleType:
    """Return the package, or a module of it.

    Raises
    ------
    MissingExtraError
        If it, or a package that it needs, is not installed; the message names the extra.
    """
    try:
        package = importlib.import_module(_NAME)
        return importlib.import_module(f"{_NAME}.{module}") if module else package
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the backend 'ibm_runtime' needs {error.name}, which is not installed; install it "
            "with: pip install --upgrade 'hybridflow[runtime]'"
        ) from error

"""Objects by their import paths: made by the user's site file, in whatever package they are."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from hybridflow.backends.qiskit_api.faults import opening, text_of
from hybridflow.errors import MissingExtraError, SiteError

__all__ = ["is_simulated", "made"]

_SIMULATORS = (
    "qiskit_aer.",
    "qiskit.primitives.",
    "qiskit.providers.basic_provider.",
    "qiskit.providers.fake_provider.",
    "qiskit_ibm_runtime.fake_provider.",
)


def made(resource: str, key: str, path: str, /, *first: Any, **arguments: Any) -> Any:
    """Return what an import path names, called with arguments unless it is an object already.

    Parameters
    ----------
    resource, key
        Name of the resource and key of its table, for messages.
    path
        ``module:attribute``; the attribute may have dots.
    *first, **arguments
        What it is called with.

    Raises
    ------
    MissingExtraError
        If the module is not installed.
    SiteError
        If there is no such thing, or it does not take these arguments.
    AcquireError
        If it fails in any other way.
    """
    where = f"key `qpu.{resource}.{key}`"
    found = _found(where, path)
    if not callable(found):
        if arguments:
            raise SiteError(f"{where}: {path} is no callable: leave its arguments out")
        return found
    try:
        with opening(resource):
            return found(*first, **arguments)
    except Exception as error:
        if isinstance(error.__cause__, TypeError | ValueError | AttributeError):
            raise SiteError(
                f"{where}: {path} cannot be called with these arguments: {text_of(error.__cause__)}"
            ) from error
        raise


def _found(where: str, path: str) -> Any:
    name, _, attributes = path.partition(":")
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{where}: there is no module {error.name!r} in {sys.executable}; install its package, "
            "or, if it does not fit to what is installed, put it into an environment of its own "
            "with `hybridflow env create` and name that with the key `interpreter`"
        ) from error
    except Exception as error:  # a module may do anything when it is imported
        raise SiteError(f"{where}: {name} cannot be imported: {text_of(error)}") from error
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            raise SiteError(f"{where}: {name} has no {attributes!r}") from error
    return found


def is_simulated(made: object) -> bool:
    """Whether an object is known to simulate: Aer, Qiskit's own, fake devices by name."""
    if getattr(made, "simulator", None) is True or _configured(made).get("simulator") is True:
        return True
    return any(
        f"{kind.__module__}.".startswith(_SIMULATORS) or "fake" in kind.__name__.lower()
        for kind in type(made).__mro__
        if kind.__name__ not in ("BaseSamplerV2", "BaseEstimatorV2")
    )


def _configured(made: object) -> Mapping[str, Any]:
    configuration = getattr(made, "configuration", None)
    if not callable(configuration):
        return {}
    try:
        return dict(vars(configuration()))
    except Exception:  # a remnant of older Qiskits, which a backend may not be able to fill
        return {}

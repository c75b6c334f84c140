"""Optional packages: imported when they are first used, with an error that names the extra."""

import importlib
from types import ModuleType

from hybridflow.errors import MissingExtraError

__all__ = ["require"]


def require(package: str, extra: str, what: str) -> ModuleType:
    """Import an optional package.

    Parameters
    ----------
    package
        Name of the module.
    extra
        The extra of hybridflow that installs it.
    what
        What needs it, for the error.

    Raises
    ------
    MissingExtraError
        If it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise
        raise MissingExtraError(
            f"{what} needs {error.name}, which is not installed; "
            f"install it with: pip install 'hybridflow[{extra}]'"
        ) from error

"""The way to qiskit-addon-sqd: imports it as what this process is, one process, not an MPI rank.

The package looks at the environment when it is imported: inside a Slurm job (``SLURM_NTASKS``) it
would initialize MPI and wait in collective calls for ranks that never come.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from hybridflow import environment
from hybridflow.errors import MissingExtraError

__all__ = ["addon", "require_extra"]

_EXTRA = ("ffsim", "pyscf", "qiskit_addon_sqd")


def require_extra() -> None:
    """Make sure that the packages of the extra ``sqd`` are installed, without importing them.

    Raises
    ------
    MissingExtraError
        If one is not.
    """
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"SQD needs packages that are not installed ({', '.join(missing)}): "
            "pip install 'hybridflow[sqd]'"
        )


def addon(module: str) -> ModuleType:
    """Return ``qiskit_addon_sqd.<module>``.

    Raises
    ------
    MissingExtraError
        If the package is not installed.
    """
    require_extra()
    with _without_mpi():
        return importlib.import_module(f"qiskit_addon_sqd.{module}")


@contextmanager
def _without_mpi() -> Iterator[None]:
    kept = environment.clean(os.environ)
    hidden = {name: value for name, value in os.environ.items() if name not in kept}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)

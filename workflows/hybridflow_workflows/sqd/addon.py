"""The way to qiskit-addon-sqd: imports it as what this process is, one process, not an MPI rank.

The package looks at the environment when it is imported: inside a Slurm job (``SLURM_NTASKS``) it
would initialize MPI and wait in collective calls for ranks that never come.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from hybridflow import environment
from hybridflow.errors import MissingExtraError

__all__ = ["addon"]


def addon(module: str) -> ModuleType:
    """Return ``qiskit_addon_sqd.<module>``.

    Raises
    ------
    MissingExtraError
        If the package is not installed.
    """
    try:
        with _without_mpi():
            return importlib.import_module(f"qiskit_addon_sqd.{module}")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed; SQD needs the extra: pip install 'hybridflow[sqd]'"
        ) from error


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

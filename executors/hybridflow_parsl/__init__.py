"""Parsl for hybrid workflows: quantum tasks in QPU slots, classical ones beside them.

``executor.py`` has the executors, ``config.py`` the configuration that most workflows need, and
``apps.py`` the decorators. This package knows no vendor.
"""

try:
    import parsl as _parsl  # noqa: F401
except ModuleNotFoundError as error:
    from hybridflow.errors import MissingExtraError

    raise MissingExtraError(
        f'Parsl is not installed ({error}); install it with: pip install "hybridflow[parsl]"'
    ) from error

from hybridflow_parsl.apps import classical_app, quantum_app
from hybridflow_parsl.config import hybrid_config
from hybridflow_parsl.executor import ClassicalExecutor, QPUExecutor
from hybridflow_parsl.places import block_providers
from hybridflow_parsl.retries import retry_handler

__all__ = [
    "ClassicalExecutor",
    "QPUExecutor",
    "block_providers",
    "classical_app",
    "hybrid_config",
    "quantum_app",
    "retry_handler",
]

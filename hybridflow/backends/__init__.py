"""The shared backend abstraction over QPUs of many vendors: ``base.py``, and one file a type."""

from hybridflow.backends.base import Backend, BackendType, NotifyingBackend
from hybridflow.backends.factory import open_backend, target_snapshot
from hybridflow.backends.registry import backend_names, backend_type

__all__ = [
    "Backend",
    "BackendType",
    "NotifyingBackend",
    "backend_names",
    "backend_type",
    "open_backend",
    "target_snapshot",
]

"""The shared backend abstraction over QPUs of many vendors: ``base.py``, and one file a type."""

from hybridflow.backends.base import Backend, BackendType
from hybridflow.backends.registry import backend_names, backend_type

__all__ = ["Backend", "BackendType", "backend_names", "backend_type"]

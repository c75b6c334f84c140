"""Acme's QPU as a backend of hybridflow."""

from acme_qpu.backend import AcmeBackend, AcmeOptions

__all__ = ["AcmeBackend", "AcmeOptions"]

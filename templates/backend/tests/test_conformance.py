"""The promises of a backend, checked by hybridflow's own suite."""

from acme_qpu import AcmeBackend

from hybridflow.testing import check_backend


def test_conformance() -> None:
    """An ideal device: its answers are right in each shot; yours may be so in nine of ten."""
    check_backend(AcmeBackend, fidelity=1)

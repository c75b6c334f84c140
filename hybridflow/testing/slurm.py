"""``slurm_cluster``: a real Slurm cluster on this machine, as a fixture of pytest."""

import os
from collections.abc import Callable, Iterator
from typing import Any, Literal

from hybridflow.errors import MissingProgramError
from hybridflow.slurm.cluster import SlurmCluster

__all__ = ["slurm_cluster"]

Scope = Literal["function", "class", "module", "package", "session"]


def slurm_cluster(*, scope: Scope = "module", **arguments: Any) -> Callable[..., Any]:
    """Return a pytest fixture: a running :class:`~hybridflow.slurm.cluster.SlurmCluster`.

    Parameters
    ----------
    scope
        How long it lives.
    **arguments
        Of the cluster: ``nodes``, ``qpus``, ``licenses``, ….

    Returns
    -------
    Callable
        The fixture. Where Slurm is not installed, tests that use it are skipped, and with
        ``CI=true`` they fail.

    Examples
    --------
    >>> from hybridflow.testing import slurm_cluster
    >>> cluster = slurm_cluster(nodes=2, qpus={"aer": 1})
    >>> def test_queue(cluster):
    ...     cluster.run(["srun", "--gres=qpu:aer:1", "true"])
    """
    import pytest

    @pytest.fixture(scope=scope)
    def fixture() -> Iterator[SlurmCluster]:
        cluster = SlurmCluster(**arguments)
        try:
            cluster.start()
        except MissingProgramError as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(error))
        yield cluster
        cluster.stop()

    return fixture

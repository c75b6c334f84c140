"""A client in the scheduler's own process: by way of memory, with neither a network nor encryption.

``Client(cluster)`` goes through the port that workers and other processes use. Where a task comes
alone that is a tenth of its time.
"""

from collections.abc import Callable, Generator
from typing import Any

from distributed.deploy.cluster import Cluster

__all__ = ["NearCluster"]


class NearCluster:
    """A cluster as a client sees it whose process has the scheduler.

    Parameters
    ----------
    cluster
        The cluster.
    address
        Returns where its scheduler listens in this process, once it does.
    """

    security = None

    def __init__(self, cluster: Cluster, address: Callable[[], str]) -> None:
        self._cluster = cluster
        self._address = address

    @property
    def scheduler_address(self) -> str:
        """Where the client finds the scheduler."""
        return self._address()

    def is_of(self, cluster: Cluster) -> bool:
        """Whether it stands for a cluster."""
        return self._cluster is cluster

    def __await__(self) -> Generator[Any, Any, Any]:
        started: Generator[Any, Any, Any] = self._cluster.__await__()
        return started

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

"""Dask for hybrid workflows: a quantum task that cannot get lost.

``cluster.py`` has the cluster with its groups of workers, ``supply.py`` and ``block_supply.py``
where these come from, ``scheduler.py`` the plugin that sends every task where it belongs,
``annotations.py`` the annotation, and ``departure.py`` how workers leave. This package knows no
vendor.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec("distributed") is None:
    from hybridflow.errors import MissingExtraError

    raise MissingExtraError(
        'Dask is not installed; install it with: pip install "hybridflow[dask]"'
    )

if TYPE_CHECKING:
    from hybridflow_dask.annotations import quantum
    from hybridflow_dask.cluster import HybridCluster
    from hybridflow_dask.scheduler import HybridPlugin
    from hybridflow_dask.worker import HybridWorkerPlugin

# Imported when first used: a worker needs none of them.
_HOME = {
    "HybridCluster": "hybridflow_dask.cluster",
    "HybridPlugin": "hybridflow_dask.scheduler",
    "HybridWorkerPlugin": "hybridflow_dask.worker",
    "quantum": "hybridflow_dask.annotations",
}

__all__ = ["HybridCluster", "HybridPlugin", "HybridWorkerPlugin", "quantum"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

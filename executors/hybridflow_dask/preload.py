"""``dask worker --preload hybridflow_dask.preload``: makes a Dask worker one of ours."""

import sys

from distributed.worker import Worker

from hybridflow.errors import HybridflowError
from hybridflow_dask.departure import Departure
from hybridflow_dask.worker import HybridWorkerPlugin

__all__ = ["dask_setup"]


async def dask_setup(worker: Worker) -> None:
    """Register the plugins; a worker that cannot be one of ours ends, and says why."""
    try:
        await worker.plugin_add(HybridWorkerPlugin(), catch_errors=False)
        await worker.plugin_add(Departure(), catch_errors=False)
    except HybridflowError as error:
        # Dask would log any Exception and let the worker join all the same.
        sys.exit(f"error: {error}")

"""Pools on Parsl: the engine ``parsl`` of :func:`hybridflow.open_pools`.

Both pools are Parsl's own ``ParslPoolExecutor`` on one kernel, which is theirs alone: another one
may be loaded beside it.
"""

from collections.abc import Callable
from typing import Any

from parsl import DataFlowKernel
from parsl.concurrent import ParslPoolExecutor

from hybridflow.pools import Pools
from hybridflow.site import Site
from hybridflow.tasks import refuse_marked, refuse_unmarked
from hybridflow_parsl.config import CLASSICAL, QPU, hybrid_config

__all__ = ["open_parsl_pools"]


def open_parsl_pools(
    site: Site,
    *,
    workers: int | None = None,
    tasks_per_slot: int | None = None,
    require_mark: bool = True,
    **options: Any,
) -> Pools:
    """Open pools on workers that Parsl starts.

    Parameters
    ----------
    site
        The site; quantum tasks use its default resource, unless ``resource=`` says another.
    workers
        Classical worker processes on each node; the site's number if not given.
    tasks_per_slot
        Quantum tasks that run at a time; the number of the resource if not given.
    require_mark
        Whether the quantum pool refuses functions without the mark.
    **options
        All others of :func:`hybridflow_parsl.hybrid_config`.

    Raises
    ------
    InputError
        If a number is below 1.
    SiteError
        If the site has no such resource.
    """
    config = hybrid_config(
        site,
        workers=workers,
        tasks_per_slot=tasks_per_slot,
        require_mark=require_mark,
        **options,
    )
    kernel = DataFlowKernel(config)
    quantum = _Pool(kernel, QPU, refuse_unmarked if require_mark else _any)
    classical = _Pool(kernel, CLASSICAL, refuse_marked)

    def close(cancel: bool) -> None:
        if kernel.cleanup_called:
            return
        if not cancel:
            kernel.wait_for_current_tasks()
        kernel.cleanup()
        for pool in (quantum, classical):
            pool.shutdown(wait=False)

    return Pools(quantum, classical, site, "parsl", close)


class _Pool(ParslPoolExecutor):
    # Refuses at once what the executor would refuse through the future.
    def __init__(
        self, kernel: DataFlowKernel, label: str, check: Callable[[Callable[..., Any]], None]
    ) -> None:
        super().__init__(dfk=kernel, executors=[label])
        self._check = check

    def get_app(self, fn: Callable[..., Any]) -> Any:
        self._check(fn)
        return super().get_app(fn)


def _any(function: Callable[..., Any]) -> None:
    pass

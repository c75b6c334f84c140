"""The configuration that most workflows need: one QPU executor and one classical one."""

import math
import os
import shlex
from pathlib import Path
from typing import Any, Literal

from parsl.config import Config
from parsl.providers.base import ExecutionProvider

from hybridflow import environment
from hybridflow.errors import InputError
from hybridflow.site import Site, load_site
from hybridflow_parsl.coscheduled import CoscheduledProvider
from hybridflow_parsl.executor import ClassicalExecutor, QPUExecutor
from hybridflow_parsl.places import block_providers
from hybridflow_parsl.providers import BlockProvider
from hybridflow_parsl.retries import retry_handler

__all__ = ["CLASSICAL", "QPU", "hybrid_config"]

QPU = "qpu"
"""Label of the executor for quantum tasks."""

CLASSICAL = "classical"
"""Label of the executor for classical tasks."""

_STRATEGY_SECONDS = 0.2


def hybrid_config(
    site: Site | str | os.PathLike[str] | None = None,
    *,
    resource: str | None = None,
    workers: int | None = None,
    tasks_per_slot: int | None = None,
    require_mark: bool = True,
    retries: int = 1,
    run_dir: str | os.PathLike[str] | None = None,
    exit_mode: Literal["cleanup", "skip", "wait"] = "wait",
    qpu_provider: ExecutionProvider | None = None,
    classical_provider: ExecutionProvider | None = None,
    **options: Any,
) -> Config:
    """Return a Parsl configuration with the executors ``"qpu"`` and ``"classical"``.

    Like every Parsl configuration, it can be loaded once.

    Parameters
    ----------
    site
        A site, or the path of a site file; the default site if not given.
    resource
        Name of the resource, or of a route, whose slots are all entered then (not in blocks); the
        site's default if not given.
    workers
        Classical worker processes on each node; what the site says if not given.
    tasks_per_slot
        Quantum tasks that share the slot at a time; what the site says if not given.
    require_mark
        Whether the QPU executor refuses functions without the quantum mark.
    retries
        How often a task may be tried again after a failure that is worth it: see
        :func:`retry_handler`.
    run_dir
        Folder of Parsl's own files. If not given: ``parsl`` in the folder of the run
        (``HYBRIDFLOW_RUN``) where there is one, else Parsl's ``runinfo``.
    exit_mode
        What leaving ``with parsl.load(…)`` does. ``wait`` waits for all tasks, unless it is left
        by an exception; ``cleanup`` does not wait: tasks that have not ended fail with
        :class:`~hybridflow.errors.TaskError`; ``skip`` leaves everything running until this
        process ends.
    qpu_provider, classical_provider
        Where blocks of workers come from. If not given: jobs of Slurm's, where the site file has a
        table ``[slurm.blocks]`` and this is no Slurm job; else this machine; classical ones in a
        heterogeneous Slurm job such as those of ``hybridflow submit``: its classical nodes.
    **options
        All others of :class:`parsl.Config`.

    Raises
    ------
    SiteError
        If the site file is wrong, has no such resource or does not fit the provider.
    InputError
        If a number is out of range, if Parsl cannot work in the folder, or if one of two
        co-scheduled providers is given.
    SlurmError
        If the site wants blocks, and Slurm cannot be asked for the way to its nodes.
    """
    checked = site if isinstance(site, Site) else load_site(site)
    folder = _folder(run_dir)
    blocks = block_providers(checked, resource, folder=folder)
    if blocks is not None:
        qpu_provider, classical_provider = _chosen(blocks, qpu_provider, classical_provider)
    executors = [
        QPUExecutor(QPU, checked, resource, tasks_per_slot, require_mark, qpu_provider),
        ClassicalExecutor(CLASSICAL, checked, workers, provider=classical_provider),
    ]
    defaults: dict[str, Any] = {
        "retry_handler": retry_handler,
        # The first blocks are asked for when the strategy first looks.
        "strategy_period": _STRATEGY_SECONDS,
        # Else Parsl logs every step of every task, which takes longer than most of them.
        "initialize_logging": False,
        "usage_tracking": 0,
    }
    if blocks is not None:
        # Our executors give their blocks back themselves, each kind by its own rule (upkeep.py).
        defaults["max_idletime"] = math.inf
    return Config(
        executors=executors,
        retries=retries,
        run_dir=folder,
        exit_mode=exit_mode,
        **(defaults | options),
    )


def _chosen(
    blocks: tuple[BlockProvider, BlockProvider],
    quantum: ExecutionProvider | None,
    classical: ExecutionProvider | None,
) -> tuple[ExecutionProvider, ExecutionProvider]:
    if isinstance(blocks[0], CoscheduledProvider) and (quantum is None) != (classical is None):
        raise InputError(
            "co-scheduled blocks are one job for both executors: give both providers, or none"
        )
    return quantum or blocks[0], classical or blocks[1]


def _folder(run_dir: str | os.PathLike[str] | None) -> str:
    run = os.environ.get(environment.RUN)
    chosen = os.fspath(run_dir) if run_dir else str(Path(run, "parsl")) if run else "runinfo"
    absolute = os.path.abspath(chosen)
    if shlex.quote(absolute) != absolute:
        # It would fail later, in a shell script of Parsl's, and not say why.
        raise InputError(
            f"Parsl cannot work in the folder {absolute!r}, whose name a shell would split or "
            "change: choose one without blanks and special characters"
        )
    return absolute

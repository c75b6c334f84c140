"""The outside contract: every environment variable that hybridflow reads or sets, named once.

Three parties write here: hybridflow itself, the Slurm plugin that grants a slot (the reference
plugin of arXiv 2506.10052, or ours), and the launchers whose variables make MPI libraries in a
plain process believe that they are ranks.
"""

import re
from collections.abc import Mapping
from enum import StrEnum

__all__ = [
    "BROKER",
    "DEBUG",
    "ENGINE_WORKER_MARKERS",
    "RESOURCES",
    "ROLE",
    "RUN",
    "SITE",
    "THREAD_LIMITS",
    "Role",
    "clean",
    "credentials",
    "in_engine_worker",
    "in_slurm_job",
    "thread_limits",
]

SITE = "HYBRIDFLOW_SITE"
"""Path of the site file; without it, the built-in laptop site."""

BROKER = "HYBRIDFLOW_BROKER"
"""Folder of the slot's broker sockets, one a resource; the door sets it for what runs in a slot."""

DEBUG = "HYBRIDFLOW_DEBUG"
"""If set, errors on the command line are shown with their traceback."""

RUN = "HYBRIDFLOW_RUN"
"""Folder of the run: events, results, report."""

ROLE = "HYBRIDFLOW_ROLE"
"""What a worker was started for: one of :class:`Role`."""

RESOURCES = ("QRMI_JOB_QPU_RESOURCES", "SLURM_JOB_QPU_RESOURCES")
"""Names of the resources that the plugin acquired; the second is the legacy spelling."""

LIST_DELIMITER = "QRMI_LIST_DELIMITER"
"""Delimiter of the plugin's lists; a comma if unset."""

SLURM_JOB = "SLURM_JOB_ID"

ENGINE_WORKER_MARKERS = ("PARSL_WORKER_POOL_ID", "PARSL_WORKER_RANK", "DASK_PARENT")
"""Set in an engine's workers: there, a missing slot is an error, never a simulation."""

THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
"""What numerical libraries read, when they are loaded, as the number of their threads."""

_MPI_RANK = re.compile(
    r"SLURM_NTASKS|SLURM_NPROCS|SLURM_PROCID|MPI_LOCAL\w+"
    r"|(PMI|PMIX|OMPI_COMM_WORLD|OMPI_MCA|MV2_COMM_WORLD|HYDRA|HYDI)_\w+"
)
_CREDENTIAL = re.compile(r".+_QRMI_.+")


class Role(StrEnum):
    """What a worker was started for."""

    QUANTUM = "quantum"
    CLASSICAL = "classical"


def clean(environment: Mapping[str, str], role: Role | None = None) -> dict[str, str]:
    """Return the environment that a program should be started with.

    Credentials and acquisition tokens (``{name}_QRMI_…``) are left out, and so is what makes an MPI
    library initialise itself when it is imported by a process that is no rank (``SLURM_NTASKS``,
    ``PMI_*``, ``OMPI_COMM_WORLD_*``, ``MPI_LOCALNRANKS``).

    Parameters
    ----------
    environment
        What to start from; it is not changed.
    role
        What the program is started for. A classical worker also loses the way to the broker.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not _MPI_RANK.fullmatch(name) and not _CREDENTIAL.fullmatch(name)
    }
    if role is not None:
        kept[ROLE] = role.value
    if role is Role.CLASSICAL:
        kept.pop(BROKER, None)
    return kept


def thread_limits(threads: int) -> dict[str, str]:
    """Return the variables that keep numerical libraries to a number of threads a process."""
    return {name: str(threads) for name in THREAD_LIMITS}


def credentials(environment: Mapping[str, str], resource: str) -> dict[str, str]:
    """Return the variables of one resource, without its name in front."""
    prefix = f"{resource}_"
    return {
        name.removeprefix(prefix): value
        for name, value in environment.items()
        if name.startswith(prefix) and _CREDENTIAL.fullmatch(name)
    }


def in_slurm_job(environment: Mapping[str, str]) -> bool:
    """Whether this process belongs to a Slurm job."""
    return SLURM_JOB in environment


def in_engine_worker(environment: Mapping[str, str]) -> bool:
    """Whether this process is, or was started by, a worker of a workflow engine."""
    return ROLE in environment or any(name in environment for name in ENGINE_WORKER_MARKERS)

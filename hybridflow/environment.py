"""The outside contract: every environment variable that hybridflow reads or sets, named once.

Three parties write here: hybridflow itself, the Slurm plugin that grants a slot (the reference
plugin of arXiv 2506.10052, or ours), and the launchers whose variables make MPI libraries in a
plain process believe that they are ranks.
"""

import functools
import os
import re
import sys
import uuid
from collections.abc import Mapping
from enum import StrEnum

from hybridflow.kernel import process_born, process_namespace

__all__ = [
    "BROKER",
    "CREDENTIALS",
    "DEBUG",
    "ENGINE_WORKER_MARKERS",
    "HET_SIZE",
    "JOB_END",
    "LIST_DELIMITER",
    "LOCAL_TYPES",
    "NODE",
    "OWN",
    "PLUGIN_NOTES",
    "REQUESTED",
    "RESOURCES",
    "ROLE",
    "RUN",
    "SESSION",
    "SITE",
    "SLOTS",
    "SLURM_JOB",
    "SLURM_RESTARTS",
    "THREAD_LIMITS",
    "TIMEOUT_SECONDS",
    "TOKEN",
    "TYPES",
    "VENDOR_TYPES",
    "WEIGHT",
    "Role",
    "clean",
    "credentials",
    "in_engine_worker",
    "in_slurm_job",
    "names_credentials",
    "session",
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

SESSION = "HYBRIDFLOW_SESSION"
"""One execution of a workflow: a run that is resumed has several; see :func:`session`."""

ROLE = "HYBRIDFLOW_ROLE"
"""What a worker was started for: one of :class:`Role`."""

CREDENTIALS = "HYBRIDFLOW_CREDENTIALS"
"""One-time file with the job's credentials, where our plugin grants the slot; the door takes it."""

WEIGHT = "HYBRIDFLOW_WEIGHT"
"""Share of a slot's QPU that a workflow is to have, in proportion to others in it; 1 if unset."""

OWN = (SITE, BROKER, DEBUG, RUN, WEIGHT, SESSION, ROLE, CREDENTIALS)
"""Every variable of hybridflow's own."""

PLUGIN_NOTES = ("HYBRIDFLOW_QPU_ASKED", "HYBRIDFLOW_QPU_INHERITED")
"""What our Slurm plugin notes for itself in the environment of Slurm's commands."""

RESOURCES = ("QRMI_JOB_QPU_RESOURCES", "SLURM_JOB_QPU_RESOURCES")
"""Names of the resources that the plugin acquired; the second is the legacy spelling."""

TYPES = ("QRMI_JOB_QPU_TYPES", "SLURM_JOB_QPU_TYPES")
"""Types of these resources, in the same order; the second is the legacy spelling."""

LIST_DELIMITER = "QRMI_LIST_DELIMITER"
"""Delimiter of the plugin's lists; a comma if unset."""

SLOTS = "QRMI_JOB_QPU_SLOTS"
"""After ``NAME_``: slots granted. Without a name in front, those of a `pasqal-local` resource."""

TIMEOUT_SECONDS = "QRMI_JOB_TIMEOUT_SECONDS"
"""After ``NAME_``: the job's whole time limit in seconds, not what is left of it."""

TOKEN = "QRMI_JOB_ACQUISITION_TOKEN"
"""After ``NAME_``: the acquisition. It is used, never released: that would end the session."""

REQUESTED = (
    "SLURM_SPANK__SLURM_SPANK_OPTION_hybridflow_qpu",
    "SLURM_SPANK__SLURM_SPANK_OPTION_spank_qrmi_qpu",
)
"""What the user asked for with ``--qpu``: our plugin's spelling, and the reference plugin's."""

VENDOR_TYPES = (
    "alice-bob-felis",
    "ibm-quantum-compute-service",
    "ibm-quantum-system",
    "iqm-server",
    "oqtopus",
    "pasqal-cloud",
    "pasqal-local",
    "qiskit-runtime-service",
)
"""Types of resources that the reference plugin knows: real devices, which need credentials."""

LOCAL_TYPES = ("aer", "emulator", "fake")
"""Types of ours, which need none; the reference plugin does not know them."""

SLURM_JOB = "SLURM_JOB_ID"
"""The Slurm job that this process belongs to."""

SLURM_RESTARTS = "SLURM_RESTART_COUNT"
"""How often that job was requeued before."""

JOB_END = "SLURM_JOB_END_TIME"
"""When that job ends at the latest (Unix time); not before Slurm 23.02."""

HET_SIZE = "SLURM_HET_SIZE"
"""Number of components, in a heterogeneous job."""

NODE = "SLURMD_NODENAME"
"""The node that a step's process is on, by Slurm's name."""

ENGINE_WORKER_MARKERS = ("PARSL_WORKER_POOL_ID", "PARSL_WORKER_RANK")
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
_ENDED = ("closed", "failed")
_CREDENTIAL = re.compile(r".+_QRMI_.+")


class Role(StrEnum):
    """What a worker was started for."""

    QUANTUM = "quantum"
    CLASSICAL = "classical"


def clean(environment: Mapping[str, str], role: Role | None = None) -> dict[str, str]:
    """Return the environment that a program should be started with.

    Credentials and acquisition tokens (``{name}_QRMI_…``, and the way to their one-time file) are
    left out, and so is what makes an MPI library initialise itself when it is imported by a process
    that is no rank (``SLURM_NTASKS``, ``PMI_*``, ``OMPI_COMM_WORLD_*``, ``MPI_LOCALNRANKS``).

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
    kept.pop(CREDENTIALS, None)
    if role is not None:
        kept[ROLE] = role.value
    if role is Role.CLASSICAL:
        kept.pop(BROKER, None)
    return kept


def session(environment: Mapping[str, str]) -> str:
    """Return the execution of a workflow that a process with these variables belongs to.

    The outermost process, whose variables do not say, begins one: what it starts is given the
    variable. The name tells which process that is: its id, when it was started, and its space of
    process ids (0 where that is not known).
    """
    return environment.get(SESSION) or _own_session()


@functools.cache
def _own_session() -> str:
    pid = os.getpid()
    return f"{uuid.uuid4().hex}-{pid}-{process_born(pid) or 0}-{process_namespace()}"


def thread_limits(threads: int) -> dict[str, str]:
    """Return the variables that keep numerical libraries to a number of threads a process."""
    return {name: str(threads) for name in THREAD_LIMITS}


def credentials(environment: Mapping[str, str], resource: str) -> dict[str, str]:
    """Return the keys of one resource, its acquisition token with them, without its name in front.

    What the plugin says of the job (slots, time limit) is no credential.
    """
    prefix = f"{resource}_"
    return {
        name.removeprefix(prefix): value
        for name, value in environment.items()
        if name.startswith(f"{prefix}QRMI_") and not name.endswith((SLOTS, TIMEOUT_SECONDS))
    }


def names_credentials(environment: Mapping[str, str]) -> list[str]:
    """Return the names of all variables that are credentials, whichever resource they are for."""
    return [
        name
        for name in environment
        if _CREDENTIAL.fullmatch(name) and not name.endswith((SLOTS, TIMEOUT_SECONDS))
    ]


def in_slurm_job(environment: Mapping[str, str]) -> bool:
    """Whether this process belongs to a Slurm job."""
    return SLURM_JOB in environment


def in_engine_worker(environment: Mapping[str, str]) -> bool:
    """Whether this process is, or was started by, a worker of a workflow engine."""
    marked = ROLE in environment or any(name in environment for name in ENGINE_WORKER_MARKERS)
    return marked or _is_dask_worker()


def _is_dask_worker() -> bool:
    # Dask sets no variable that tells a worker from the program that started it. Workers that share
    # the process of their scheduler, as in `LocalCluster(processes=False)`, are a plain program.
    worker, scheduler = (sys.modules.get(f"distributed.{name}") for name in ("worker", "scheduler"))
    if worker is None or scheduler is None or scheduler.Scheduler._instances:
        return False
    return any(found.status.name not in _ENDED for found in list(worker.Worker._instances))

"""Whether a Slurm job has ended: for those who may take over what it has left behind."""

import logging

from hybridflow.errors import HybridflowError
from hybridflow.slurm.queries import SlurmState, Watch

__all__ = ["job_ended"]

_log = logging.getLogger(__name__)


def job_ended(job: str) -> bool | None:
    """Whether a job has ended; None where Slurm cannot say, or has never heard of it."""
    try:
        state = Watch([job]).look()[job].state
    except HybridflowError as error:
        _log.warning("whether Slurm job %s has ended is not known: %s", job, error)
        return None
    return None if state is SlurmState.VANISHED else state.final

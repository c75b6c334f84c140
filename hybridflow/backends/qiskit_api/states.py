"""A vendor's job (``JobV1``, or a primitive's job) as ours: its id, its state, its cost."""

import functools
import logging
import math
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from hybridflow.backends.qiskit_api.faults import asking, text_of
from hybridflow.records import JobState, JobStatus, PackedResult

__all__ = ["Submitted", "cancel", "id_of", "joined", "seconds_of", "status_of"]

_log = logging.getLogger(__name__)

# The names of Qiskit's JobStatus, and those that IBM's and other clients use as plain text.
_STATES = {
    "INITIALIZING": JobState.QUEUED,
    "QUEUED": JobState.QUEUED,
    "VALIDATING": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "DONE": JobState.DONE,
    "COMPLETED": JobState.DONE,
    "CANCELLED": JobState.CANCELLED,
    "CANCELED": JobState.CANCELLED,
    "ERROR": JobState.FAILED,
    "FAILED": JobState.FAILED,
}


class Submitted(Protocol):
    """A batch that was started; see ``submission.py`` and ``pair.py``.

    Attributes
    ----------
    id
        The vendor's id of it.
    """

    id: str

    @property
    def shots(self) -> int:
        """Shots of all circuits."""

    @property
    def circuits(self) -> int:
        """Circuits that are run."""

    @property
    def seconds(self) -> float | None:
        """What the vendor says that it took; None if it does not say."""

    def status(self) -> JobStatus:
        """Return its state."""

    def stop(self) -> None:
        """Cancel it."""

    def results(self) -> tuple[PackedResult, ...]:
        """Return one result a PUB, once it is done."""


def id_of(job: Any) -> str:
    """Return the vendor's id of a job; one of ours, if the vendor gives none."""
    found = job.job_id()
    return str(found) if found else uuid.uuid4().hex


def status_of(job: Any) -> JobStatus:
    """Return a job's state; one of an unknown name is taken as running, until it is known."""
    found = job.status()
    name = str(getattr(found, "name", found)).upper()
    state = _STATES[name] if name in _STATES else _unheard_of(name)
    return JobStatus(state=state, message=_reason(job) if state is JobState.FAILED else "")


@functools.cache
def _unheard_of(name: str) -> JobState:
    # Said once: jobs are asked often.
    _log.warning("a vendor's job is in a state that nobody knows here: %s", name)
    return JobState.RUNNING


def _reason(job: Any) -> str:
    tell = getattr(job, "error_message", None)
    try:
        told = tell() if callable(tell) else None
        if told:
            return str(told)
        job.result()  # which raises: its text is all that JobV1 has of a reason
    except Exception as error:  # whatever the vendor raises is its reason
        return text_of(error)
    return "the vendor gives no reason"


def joined(statuses: Sequence[JobStatus]) -> JobStatus:
    """Return the state of several jobs together: failed or cancelled as soon as one of them is."""
    for state in (JobState.FAILED, JobState.CANCELLED):
        for status in statuses:
            if status.state is state:
                return status
    states = {status.state for status in statuses}
    if states == {JobState.DONE}:
        return JobStatus(state=JobState.DONE)
    waits = states == {JobState.QUEUED}
    return JobStatus(state=JobState.QUEUED if waits else JobState.RUNNING)


def cancel(resource: str, job: Any) -> None:
    """Ask for a job's end, if it has not ended.

    Raises
    ------
    ResourceError
        If the vendor could not be asked.
    """
    with asking(resource, id_of(job)):
        if status_of(job).state.final:
            return
        try:
            job.cancel()
        except NotImplementedError:
            _log.warning("jobs of %s cannot be cancelled: it runs to its end", resource)


def seconds_of(job: Any, result: Any) -> float | None:
    """Return the seconds that a job took, as its vendor says; None if it does not say."""
    usage = getattr(job, "usage", None)
    candidates = [usage() if callable(usage) else None, getattr(result, "time_taken", None)]
    for value in candidates:
        if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
            return float(value)
    return None

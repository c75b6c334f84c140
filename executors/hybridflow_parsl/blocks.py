"""Why a block of workers did not come up or did not last: what it wrote, as an error of ours.

Parsl says ``BadStateException`` and quotes everything. The door's and the keeper's own words stand
in the block's stderr behind ``error:`` or ``hybridflow:``, and the door's exit status tells whose
fault it is (``hybridflow/cli/__init__.py``).
"""

from collections.abc import Mapping

from parsl.jobs.states import JobState, JobStatus

from hybridflow.environment import Role
from hybridflow.errors import (
    AcquireError,
    BrokerLostError,
    HybridflowError,
    NoSlotError,
    ResourceError,
    WorkerLostError,
)

__all__ = ["block_error"]

_OURS = ("error: ", "hybridflow: ")
_LINES = 15
_USERS_FAULT, _RESOURCE_FAILED, _TRY_AGAIN = 2, 3, 75


def block_error(
    cause: Exception, label: str, role: Role, blocks: Mapping[str, JobStatus]
) -> HybridflowError:
    """Return an error that says why an executor has no workers.

    Parameters
    ----------
    cause
        What Parsl made of it; it becomes the ``__cause__``.
    label
        The executor's.
    role
        What its workers are for.
    blocks
        The state of its blocks.
    """
    if isinstance(cause, HybridflowError):
        return cause
    failed = [block for block in blocks.values() if block.state in _FAILED]
    error = _error(cause, label, role, failed[-1]) if failed else _unexplained(cause, label)
    error.__cause__ = cause
    return error


_FAILED = (JobState.FAILED, JobState.MISSING)


def _unexplained(cause: Exception, label: str) -> HybridflowError:
    return ResourceError(f"the executor {label!r} has failed: {cause}")


def _error(cause: Exception, label: str, role: Role, block: JobStatus) -> HybridflowError:
    reason = _reason(block) or str(cause).strip()
    where = f" (more in {block.stderr_path})" if block.stderr_path else ""
    if role is Role.CLASSICAL:
        return WorkerLostError(
            f"the workers of the executor {label!r} have ended or did not start: {reason}{where}",
            transient=False,
        )
    text = f"there is no QPU slot for the executor {label!r}: {reason}{where}"
    if block.exit_code == _RESOURCE_FAILED:
        return AcquireError(text)
    if block.exit_code == _TRY_AGAIN:
        kind = AcquireError if "error: " in (block.stderr_summary or "") else BrokerLostError
        return kind(text, transient=True)
    return NoSlotError(text)


def _reason(block: JobStatus) -> str:
    lines = [line for line in (block.stderr_summary or "").splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith(_OURS)]
    said = [line.partition(": ")[2] for line in ours[-2:]] or lines[-_LINES:]
    return "; ".join(said) if ours else "\n".join(said) or (block.message or "")

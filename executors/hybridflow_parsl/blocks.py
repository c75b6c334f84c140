"""Why a block of workers did not come up or did not last: what it wrote, as an error of ours.

Parsl says ``BadStateException`` and quotes everything. The door's and the keeper's own words stand
in the block's stderr behind ``error:`` or ``hybridflow:``, and the door's exit status tells whose
fault it is (``hybridflow/cli/__init__.py``).
"""

import itertools
from collections.abc import Mapping

from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.errors import TooManyJobFailuresError
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

__all__ = ["block_error", "handle_failed_blocks"]

_OURS = ("error: ", "hybridflow: ")
_LINES = 3
_FAILED = (JobState.FAILED, JobState.MISSING)
_RESOURCE_FAILED, _TRY_AGAIN = 3, 75
_BLOCKS = 3


def handle_failed_blocks(executor: BlockProviderExecutor, blocks: dict[str, JobStatus]) -> None:
    """Give an executor up when it has no block, and another one would not come up either.

    A block that was lost after it had come up, or that could not have the resource yet, is replaced
    by Parsl's strategy, up to a number of times in a row.
    """
    if executor.bad_state_is_set or not all(block.terminal for block in blocks.values()):
        return
    by_age = [blocks[name] for name in sorted(blocks, key=int, reverse=True)]
    used = [block for block in by_age if block.state is not JobState.SCALED_IN]
    failed = list(itertools.takewhile(lambda block: block.state in _FAILED, used))
    if len(failed) >= _BLOCKS or any(_is_hopeless(block) for block in failed):
        executor.set_bad_state_and_fail_all(TooManyJobFailuresError("all blocks have failed"))


def _is_hopeless(block: JobStatus) -> bool:
    # Parsl calls a block MISSING that has ended without having come up.
    return block.state is JobState.MISSING and block.exit_code != _TRY_AGAIN


def block_error(
    cause: Exception, label: str, role: Role, blocks: Mapping[str, JobStatus]
) -> HybridflowError:
    """Return an error that says why an executor has no workers.

    Parameters
    ----------
    cause
        What Parsl, or a handler of errors, made of it; it becomes the ``__cause__``.
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
    if failed:
        error = _of_block(label, role, failed[-1])
    else:
        error = ResourceError(f"the executor {label!r} has failed: {cause}")
    error.__cause__ = cause
    return error


def _of_block(label: str, role: Role, block: JobStatus) -> HybridflowError:
    where = f" (more in {block.stderr_path})" if block.stderr_path else ""
    if role is Role.CLASSICAL:
        return WorkerLostError(
            f"the executor {label!r} has no workers: {_reason(block)}{where}", transient=False
        )
    text = f"the executor {label!r} has no QPU slot: {_reason(block)}{where}"
    if block.exit_code == _RESOURCE_FAILED:
        return AcquireError(text)
    if block.exit_code == _TRY_AGAIN:
        kind = AcquireError if block.state is JobState.MISSING else BrokerLostError
        return kind(text, transient=True)
    return NoSlotError(text)


def _reason(block: JobStatus) -> str:
    lines = [line for line in (block.stderr_summary or "").splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith(_OURS)]
    said = [line.partition(": ")[2] for line in ours[-2:]] or lines[-_LINES:]
    return "; ".join(said) if ours else "\n".join(said) or (block.message or "")

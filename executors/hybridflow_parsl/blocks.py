"""Why a block of workers did not come up or did not last: what it wrote, as an error of ours.

Parsl says ``BadStateException`` and quotes everything; the core knows better how the end of a door
is read (``hybridflow/launch.py``).
"""

import itertools
from collections.abc import Mapping

from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.errors import TooManyJobFailuresError
from parsl.jobs.states import JobState, JobStatus

from hybridflow.environment import Role
from hybridflow.errors import HybridflowError, ResourceError
from hybridflow.launch import TRY_AGAIN, launch_error
from hybridflow.slurm import SlurmState
from hybridflow_parsl.providers import BlockStatus

__all__ = ["block_error", "handle_failed_blocks"]

_FAILED = (JobState.FAILED, JobState.MISSING)
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
    may_pass = isinstance(block, BlockStatus) and block.problem and block.problem.transient
    return block.state is JobState.MISSING and block.exit_code != TRY_AGAIN and not may_pass


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
    who = f"the executor {label!r}"
    if isinstance(block, BlockStatus) and block.problem:
        if block.info.state is not SlurmState.FAILED:
            return block.problem
        who = f"{who} (Slurm job {block.info.group})"
    # Parsl calls a block MISSING that has ended without having come up.
    return launch_error(
        who,
        role,
        block.exit_code,
        block.stderr_summary or block.message or "",
        came_up=block.state is not JobState.MISSING,
        log=block.stderr_path,
    )

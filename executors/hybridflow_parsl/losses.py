"""Why a task was lost with its block, where Slurm knows: ``ManagerLost`` names a host alone.

::

    interchange ── ManagerLost ──► executor's future ──► kernel's future: WorkerLostError
                                       worker pool → block → Slurm job: what has become of it
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from parsl.executors.high_throughput.errors import ManagerLost
from parsl.executors.high_throughput.executor import HTEXFuture

from hybridflow.errors import JobFailedError, SlurmError, WorkerLostError
from hybridflow_parsl.providers import BlockProvider

if TYPE_CHECKING:
    from hybridflow_parsl.leased import LeasedExecutor

__all__ = ["Losses"]


class Losses:
    """Names the losses of one executor's tasks.

    Parameters
    ----------
    executor
        Whose tasks they are.
    provider
        Where its blocks come from.
    """

    def __init__(self, executor: "LeasedExecutor", provider: BlockProvider) -> None:
        self._executor = executor
        self._provider = provider
        self._blocks: dict[str, str] = {}

    def note(self, pools: Iterable[Mapping[str, Any]]) -> None:
        """Remember to which blocks worker pools belong."""
        self._blocks |= {pool["manager"]: pool["block_id"] for pool in pools}

    def named(self, task: HTEXFuture) -> HTEXFuture:
        """Return a future that ends as `task` does, but for a loss that has a known reason."""
        outer = HTEXFuture(task.parsl_executor_task_id)
        task.add_done_callback(lambda done: self._pass_on(done, outer))
        return outer

    def _pass_on(self, task: Future[Any], outer: HTEXFuture) -> None:
        error = task.exception()
        if error is None:
            outer.set_result(task.result())
        else:
            outer.set_exception(self._reason(error) if isinstance(error, ManagerLost) else error)

    def _reason(self, lost: ManagerLost) -> Exception:
        problem = self._problem(lost.manager_id.decode())
        if problem is None:
            return lost
        error = WorkerLostError(
            f"a task was lost with its worker on {lost.hostname}: {problem}", transient=True
        )
        error.__cause__ = lost
        return error

    def _problem(self, pool: str) -> JobFailedError | None:
        block = self._blocks.get(pool)
        if block is None:
            return None
        jobs = self._provider.jobs
        jobs.look_soon()
        try:
            jobs.look()
        except SlurmError:
            return None  # what Parsl says of the loss stays true
        return jobs.problem(str(self._executor.blocks_to_job_id[block]))

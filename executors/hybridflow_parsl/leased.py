"""What our executors share: programs under keepers, a lease, errors that say what happened.

::

    driver ── Parsl's interchange ── Parsl's worker pool ── workers ── tasks
                 (under a keeper)       (under the door, or under a keeper)

Everything between the driver and the workers stays the :class:`~parsl.HighThroughputExecutor`'s:
blocks, encryption, monitoring. What is added: how its programs are started (``launch.py``), what a
worker does with a task (``worker.py``), and errors that say what happened where Parsl's would not.
"""

import contextlib
import os
import shlex
import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psutil
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import HTEXFuture
from parsl.jobs.states import JobState, JobStatus
from parsl.providers import LocalProvider

from hybridflow.environment import Role
from hybridflow.errors import HybridflowError, ResourceError, SlurmError, TaskError
from hybridflow.launch import kept
from hybridflow.lease import Lease
from hybridflow.slurm.submission import PATIENCE_SECONDS
from hybridflow_parsl import circuits, functions, launch, worker
from hybridflow_parsl.blocks import block_error
from hybridflow_parsl.closing import NO_DRAIN, closing_time, drain_seconds
from hybridflow_parsl.interchange import InterchangeLost, Questions
from hybridflow_parsl.providers import BlockProvider
from hybridflow_parsl.upkeep import Upkeep

__all__ = ["LeasedExecutor"]

END_SECONDS = 30.0
"""What the processes of a block on this machine may take to end at :meth:`shutdown`, in seconds."""

_SECONDS_BETWEEN_LAUNCHES = 5.0


class LeasedExecutor(HighThroughputExecutor):
    """What both kinds of executor share; not to be used itself.

    Its programs run under a keeper that ends them when the driver is gone, however it went.
    """

    role: ClassVar[Role]

    _lease: Lease | None = None
    _upkeep: Upkeep | None = None
    _closing: float | None = None

    def start(self) -> None:
        """Hold the lease, start the interchange and get ready for blocks."""
        circuits.install()
        functions.install()
        os.makedirs(self.logdir, mode=0o700, exist_ok=True)
        self._ending: set[psutil.Process] = set()
        self._postponed: list[str] = []
        self._launch_after = 0.0
        self._refused_since: float | None = None
        if isinstance(self.provider, BlockProvider):
            self._upkeep = Upkeep(self, self.provider)
            self.provider.attach(self)
        elif isinstance(self.provider, LocalProvider) and self.drain_period is None:
            self._closing = closing_time(os.environ)
        self._lease = Lease.hold(Path(self.logdir) / "driver.lease")
        self.interchange_launch_cmd = launch.detached(kept(launch.INTERCHANGE, self._lease.path))
        try:
            super().start()  # type: ignore[no-untyped-call]
        except BaseException:
            self._lease.close()
            raise
        asked = Questions(self.command_client, self._interchange_is_dead)
        self.command_client = asked  # type: ignore[assignment]

    @abstractmethod
    def front(self, lease: Path) -> list[str]:
        """Return the command line that the worker pool's arguments are appended to."""

    def _get_launch_command(self, block_id: str) -> str:
        assert self._lease is not None
        parsls: str = super()._get_launch_command(block_id)
        _, _, arguments = parsls.partition(" ")
        if self._closing is not None:
            drain = f"--drain_period={drain_seconds(self._closing)}"
            arguments = arguments.replace(NO_DRAIN, drain)
        return f"{shlex.join(self.front(self._lease.path))} {arguments}"

    def scale_out_facade(self, n: int) -> list[str]:
        """Ask for blocks; not while it was postponed."""
        if time.monotonic() < self._launch_after:
            return []
        launched: list[str] = super().scale_out_facade(n)
        for block in self._postponed:
            del self._simulated_status[block], self._status[block]
        self._postponed.clear()
        return launched

    def _launch_block(self, block_id: str) -> Any:
        try:
            number = super()._launch_block(block_id)
        except HybridflowError as error:
            self._cannot_launch(block_id, error)
            raise  # Parsl notes it as a failed block
        self._refused_since = None
        return number

    def _cannot_launch(self, block_id: str, error: HybridflowError) -> None:
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        if not error.transient or now - self._refused_since > PATIENCE_SECONDS:
            self.set_bad_state_and_fail_all(error)
            return
        self.postpone(_SECONDS_BETWEEN_LAUNCHES)
        self._postponed.append(block_id)

    def postpone(self, seconds: float) -> None:
        """Ask for no block for some time."""
        self._launch_after = time.monotonic() + seconds

    def poll_facade(self) -> None:
        """Look at the blocks, if it is time."""
        super().poll_facade()
        if self._upkeep is not None and not self.bad_state_is_set:
            self._upkeep.poll()

    def hold(self, blocks: Iterable[str]) -> None:
        """Send no more tasks to some blocks."""
        with contextlib.suppress(InterchangeLost):
            for block in blocks:
                self._hold_block(block)  # type: ignore[no-untyped-call]

    def give_back(self, blocks: Sequence[str]) -> None:
        """End blocks that have no task."""
        assert self.provider is not None
        done = self.provider.cancel([self.blocks_to_job_id[block] for block in blocks])
        ended = {
            block: JobStatus(JobState.SCALED_IN)
            for block, cancelled in zip(blocks, done, strict=True)
            if cancelled
        }
        self._status |= ended
        self._simulated_status |= ended
        self.send_monitoring_info(ended)

    @property
    def status_polling_interval(self) -> float:
        """How often blocks are looked at, in seconds: often where it costs nothing."""
        interval: float = super().status_polling_interval
        return min(interval, 1.0) if isinstance(self.provider, LocalProvider) else interval

    def submit_payload(self, context: dict[str, Any], buffer: bytes) -> HTEXFuture:
        """Submit a packed task; our ``worker.run`` will unpack it. Does not block."""
        task = super().submit_payload(worker.context(self.role) | context, buffer)
        return task if self._upkeep is None else self._upkeep.losses.named(task)

    def monitor_resources(self) -> bool:
        """Whether Parsl may fork a monitor beside each task."""
        return True

    def set_bad_state_and_fail_all(self, exception: Exception) -> None:
        """Refuse further tasks and fail all pending ones, with an error that says why."""
        error = block_error(exception, self.label, self.role, self.status_facade)
        self._executor_exception = error
        self._executor_bad_state.set()
        self._fail_pending(error)

    def _fail_pending(self, error: HybridflowError) -> None:
        while self.tasks:
            _, future = self.tasks.popitem()
            if not future.done():
                future.set_exception(error)

    def status(self) -> dict[str, JobStatus]:
        """Return the state of all blocks, and see to it that the interchange still lives."""
        if self._interchange_is_dead() and not self.bad_state_is_set:
            self.set_bad_state_and_fail_all(
                ResourceError(
                    f"the interchange of the executor {self.label!r} has died; its last words may "
                    f"stand in {self.logdir}/interchange.log"
                )
            )
        try:
            found: dict[str, JobStatus] = super().status()
        except SlurmError as error:
            self.set_bad_state_and_fail_all(error)
            return dict(self._status)
        return found

    def connected_blocks(self) -> list[str]:
        """Return the blocks that the interchange has seen; a dead one has seen none."""
        with contextlib.suppress(InterchangeLost):
            return super().connected_blocks()
        return []

    def connected_managers(self) -> list[dict[str, Any]]:
        """Return the worker pools that the interchange has; a dead one has none."""
        with contextlib.suppress(InterchangeLost):
            return super().connected_managers()
        return []

    def _interchange_is_dead(self) -> bool:
        return self.interchange_proc is not None and self.interchange_proc.poll() is not None

    def scale_in(self, blocks: int, max_idletime: float | None = None) -> list[str]:
        """End blocks, and remember what of them is still ending."""
        self._ending |= self._local_processes()
        ended: list[str] = super().scale_in(blocks, max_idletime)
        return ended

    def _local_processes(self) -> set[psutil.Process]:
        found: set[psutil.Process] = set()
        if isinstance(self.provider, LocalProvider):
            for job in self.provider.resources.values():
                try:
                    block = psutil.Process(job["remote_pid"])
                    found |= {block, *block.children(recursive=True)}
                except psutil.NoSuchProcess:
                    continue
        return found

    def shutdown(self, timeout: float = 10.0) -> None:
        """End the interchange and the blocks; pending tasks fail with :class:`TaskError`.

        Waits until no process of ours is left on this machine: a broker drains before it ends.
        """
        error = TaskError(
            f"the executor {self.label!r} was shut down before this task had ended; wait for "
            "results first, or load Parsl with Config(exit_mode='wait')"
        )
        if not self.bad_state_is_set:
            self._executor_exception = error
            self._executor_bad_state.set()
        if self._lease is not None:
            self._ending |= self._local_processes()
            super().shutdown(timeout)
            # Ends blocks that Parsl does not scale in (those of an executor in bad state).
            self._lease.close()
            if isinstance(self.provider, BlockProvider):
                self.provider.jobs.close()
            psutil.wait_procs(self._ending, timeout=END_SECONDS)
        self._fail_pending(error)

"""One worker of a cluster: a process of its own under the door or a keeper, as Dask sees it."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from distributed.core import Status

from hybridflow.environment import Role
from hybridflow.errors import HybridflowError
from hybridflow.launch import launch_error
from hybridflow_dask.members import HOPELESS, Member

__all__ = ["GRACE_SECONDS", "WorkerProcess"]

GRACE_SECONDS = 2.0
"""Time that a worker has to end, in seconds: what it still computes has no use."""

_OUTPUT_BYTES = 8192


class WorkerProcess(Member):
    """A worker's door or keeper, with all below it.

    Parameters
    ----------
    name
        Name of the worker.
    command
        The command line.
    variables
        The environment.
    log
        File that gets what the processes write.
    handle
        A descriptor that they inherit: see :class:`~hybridflow_dask.folder.PrivateFolder`.
    end_seconds
        Time that the door or the keeper has to end when its worker has been ended, in seconds.
    on_end
        Called in the event loop when the process has ended, for whatever reason.
    log_stays
        Whether the log outlives the cluster, so that an error may name it.

    Attributes
    ----------
    exit_status
        Exit status of the door or the keeper; None while it runs.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        log: Path,
        handle: int,
        end_seconds: float,
        on_end: Callable[["WorkerProcess"], None],
        log_stays: bool = False,
    ) -> None:
        super().__init__(name)
        self.exit_status: int | None = None
        self._log = log
        self._log_stays = log_stays
        self._command = command
        self._variables = variables
        self._handle = handle
        self._end_seconds = end_seconds
        self._on_end = on_end
        self._begin = 0
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process; the worker comes up by itself."""
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as log:
            self._begin = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._variables,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self._handle],
                # The driver decides what the terminal's Ctrl-C means.
                start_new_session=True,
            )
        self._watching = asyncio.create_task(self._watch(self._process))
        await super().start()

    async def close(self) -> None:
        """End the process: SIGTERM, which lets the broker end its work, twice; then SIGKILL."""
        # At the first, Dask's nanny closes its worker, which waits for what it computes; a worker
        # that is closing already may hang. The second ends both as they are; the reaper, the rest.
        steps = (
            (0, signal.SIGTERM),
            (GRACE_SECONDS, signal.SIGTERM),
            (self._end_seconds, signal.SIGKILL),
        )
        for seconds, number in steps:
            if not await self._ends_in(seconds):
                self._signal(number)
        await self._ends_in(None)
        await super().close()

    async def _ends_in(self, seconds: float | None) -> bool:
        if self._watching is None:
            return True
        done, _ = await asyncio.wait([self._watching], timeout=seconds)
        return bool(done)

    @property
    def is_hopeless(self) -> bool:
        """Whether another start would end as this one has."""
        return self.exit_status in HOPELESS

    def error(self, who: str, role: Role) -> HybridflowError:
        """Return why it has ended: what the door or the keeper said."""
        return launch_error(
            who,
            role,
            self.exit_status,
            self.output(),
            came_up=self.came_up_at is not None,
            log=str(self._log) if self._log_stays else None,
        )

    def describe_end(self) -> str:
        """Return in a few words how it has ended."""
        return f"the process of worker {self.name} has ended (status {self.exit_status})"

    def output(self) -> str:
        """Return the end of what the processes have written."""
        with open(self._log, "rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._begin, size - _OUTPUT_BYTES))
            return log.read().decode(errors="replace")

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        # As a shell has it.
        self.exit_status = status if status >= 0 else 128 - status
        self.status = Status.closed
        self._event_finished.set()
        self._on_end(self)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

"""Blocks: members that are Slurm jobs, with one worker or several, for a driver outside Slurm.

::

    HybridCluster ── Block ──► BlockJobs ──► sbatch, scancel
                       ▲ states   │
                     Lookout ◄────┘  squeue: one question for all blocks

A block that Slurm refuses, that waits for what cannot come, that fails, is preempted or vanishes
is an ended member, which says why. Its processes end with the driver's lease
(``hybridflow/lease.py``).
"""

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from distributed.core import Status

from hybridflow.environment import Role
from hybridflow.errors import HybridflowError, JobFailedError, SlurmError
from hybridflow.launch import launch_error
from hybridflow.slurm import BlockJobs, Job, JobInfo, SlurmState
from hybridflow.slurm.submission import PATIENCE_SECONDS
from hybridflow_dask.members import HOPELESS, Member

__all__ = ["Block", "Lookout"]

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_RETRY_SECONDS = 5.0
_END_SECONDS = 40.0  # Slurm's KillWait is 30
_OUTPUT_BYTES = 8192
_ENDS = re.compile(r"^srun: error: .* Exited with exit code .*\n", re.MULTILINE)


class Lookout:
    """Tells blocks what Slurm says of them; ends itself at :meth:`close`.

    Parameters
    ----------
    jobs
        The jobs of all blocks.
    """

    def __init__(self, jobs: BlockJobs) -> None:
        self._jobs = jobs
        self._blocks: set[Block] = set()
        self._looking: asyncio.Task[None] | None = None

    def add(self, block: "Block") -> None:
        """Follow a block until it has ended."""
        self._blocks.add(block)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(_report)

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking

    async def _look(self) -> None:
        while True:
            blocks = list(self._blocks)
            try:
                # In a thread: the jobs are locked while Slurm is asked, or asked for a block.
                answers = await asyncio.to_thread(self._ask, blocks)
            except SlurmError as error:
                # The workers are there or not all the same: their connections tell.
                _log.warning("What Slurm says of the blocks is not known: %s", error)
            else:
                for block, answer in zip(blocks, answers, strict=True):
                    block.follow(*answer)
                self._blocks -= {block for block in blocks if block.status == Status.closed}
            await asyncio.sleep(_LOOK_SECONDS)

    def _ask(self, blocks: Sequence["Block"]) -> list[tuple[JobInfo, JobFailedError | None]]:
        if any(block.is_about_to_end for block in blocks):
            self._jobs.look_soon()
        states = self._jobs.look()
        return [(states[each.number], self._jobs.problem(each.number)) for each in blocks]


def _report(looking: "asyncio.Task[None]") -> None:
    if not looking.cancelled() and (error := looking.exception()):
        _log.error("The blocks are looked after no more", exc_info=error)


class Block(Member):
    """A Slurm job that brings workers.

    Parameters
    ----------
    name
        Name of the member.
    describe
        Makes the job's description from its name and the file for what it prints.
    jobs
        Submits it, and cancels it.
    lookout
        Follows it.
    folder
        For what it prints.
    on_end
        Called in the event loop when the job has ended by itself, or could not be submitted.
    log_stays
        Whether the folder outlives the cluster, so that an error may name the file.

    Attributes
    ----------
    info
        What Slurm last said of the job; None as long as it has not been submitted.
    is_about_to_end
        Whether there is reason to ask Slurm soon.
    """

    def __init__(
        self,
        name: str,
        describe: Callable[[str, str], Job],
        *,
        jobs: BlockJobs,
        lookout: Lookout,
        folder: Path,
        on_end: Callable[[Member], None],
        log_stays: bool,
    ) -> None:
        super().__init__(name)
        self.info: JobInfo | None = None
        self.is_about_to_end = False
        self._describe = describe
        self._jobs = jobs
        self._lookout = lookout
        self._folder = folder
        self._on_end = on_end
        self._log_stays = log_stays
        self._refusal: HybridflowError | None = None
        self._problem: JobFailedError | None = None
        self._asking: asyncio.Task[None] | None = None

    # --- its life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Ask Slurm for it; it comes when its turn has come."""
        self._asking = asyncio.create_task(self._ask())
        await super().start()

    async def _ask(self) -> None:
        try:
            number = await self._submitted()
        except HybridflowError as error:
            self._refusal = error
            self._ended()
            return
        except OSError as error:  # no folder any more, a full disk
            self._refusal = SlurmError(f"its job could not be submitted: {error}")
            self._ended()
            return
        if number is not None:
            self.info = JobInfo(id=number, group=number)
            self._lookout.add(self)

    async def _submitted(self) -> str | None:
        job = self._describe(self._jobs.name(self.name), str(self._folder / f"{self.name}-%j.log"))
        began = time.monotonic()
        while self.status in (Status.created, Status.running):
            try:
                return await asyncio.to_thread(self._jobs.submit, job)
            except SlurmError as error:
                if not error.transient or time.monotonic() - began > PATIENCE_SECONDS:
                    raise
                _log.warning("The block %s could not be asked for yet: %s", self.name, error)
                await asyncio.sleep(_RETRY_SECONDS)
        return None

    @property
    def number(self) -> str:
        """Number of the job, when it has been submitted."""
        assert self.info is not None
        return self.info.group

    def follow(self, info: JobInfo, problem: JobFailedError | None) -> None:
        """Take down what Slurm says, and what is wrong with that."""
        self.info, self._problem = info, problem
        if info.state.final or problem is not None:
            self._ended()

    def _ended(self) -> None:
        was, self.status = self.status, Status.closed
        self._event_finished.set()
        if was in (Status.created, Status.running):
            self._on_end(self)

    def worker_went(self) -> None:
        """Take down that the scheduler has lost a worker of it, or let it go."""
        self.is_about_to_end = True

    async def close(self) -> None:
        """Cancel the job, and wait until it has ended."""
        self.is_about_to_end = True
        if self.status == Status.running:
            self.status = Status.closing
        if self._asking is not None:
            await self._asking  # what has been asked for can be cancelled
        if self.info is not None and self.status == Status.closing:
            await self._cancel(self.number)
        await super().close()

    async def _cancel(self, number: str) -> None:
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline:
            try:
                await asyncio.to_thread(self._jobs.cancel, number)
                break
            except SlurmError as error:
                _log.warning("The block %s cannot be cancelled yet: %s", self.name, error)
                await asyncio.sleep(_RETRY_SECONDS)
        with contextlib.suppress(TimeoutError):  # the sweeper goes on, at the driver's end
            await asyncio.wait_for(self._event_finished.wait(), deadline - time.monotonic())

    # --- what it says ----------------------------------------------------------------------------

    @property
    def is_hopeless(self) -> bool:
        """Whether another one would end as this one has."""
        if self._refusal is not None:
            return not self._refusal.transient
        assert self.info is not None
        return not self.info.state.final or self.info.exit_status in HOPELESS or self._is_apart

    @property
    def ran_out_of_time(self) -> bool:
        """Whether its job was over: its workers leave before that, and then it has completed."""
        ends = (SlurmState.COMPLETED, SlurmState.TIMEOUT)
        return self.info is not None and self.info.state in ends

    def error(self, who: str, role: Role) -> HybridflowError:
        """Return why it has ended: what Slurm, the door or the keeper said."""
        what = "QPU slot" if role is Role.QUANTUM else "workers"
        if self._refusal is not None:
            kind = type(self._refusal)
            text = f"{who} has no {what}: {self._refusal}"
            return kind(text, transient=self._refusal.transient)
        assert self.info is not None
        problem = self._problem
        if self._is_apart:
            return self._not_shared(f"{who} has no {what}: {problem}")
        if problem is not None and self.info.state is not SlurmState.FAILED:
            return JobFailedError(f"{who} has no {what}: {problem}", transient=problem.transient)
        return launch_error(
            f"{who} ({self.describe()})",
            role,
            self.info.exit_status,
            self._output(),
            came_up=self.came_up_at is not None,
            log=str(self._printed) if self._log_stays else None,
        )

    def _not_shared(self, text: str) -> JobFailedError:
        return JobFailedError(
            f"{text}; what it printed is not in {self._printed}, so its node seems not to have "
            "this folder: open the cluster in a folder on a file system that this machine and the "
            "nodes share, or name such a one in HYBRIDFLOW_RUN"
        )

    @property
    def _printed(self) -> Path:
        return self._folder / f"{self.name}-{self.number}.log"

    @property
    def _is_apart(self) -> bool:
        # Whether it has failed where this folder is not: Slurm's first act is to make the file.
        failed = self.info is not None and self.info.state is SlurmState.FAILED
        return failed and not self._printed.exists()

    def _output(self) -> str:
        # The end of what it has printed; none if it never began.
        try:
            with open(self._printed, "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _OUTPUT_BYTES))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return _ENDS.sub("", text)

    def describe(self) -> str:
        """Return what it is in a few words, as in ``job 12 running on c1``."""
        if self.info is None:
            return "not yet submitted"
        state = self.info.state.value.lower()
        where = f" on {self.info.nodes}" if self.info.nodes else ""
        why = f": {self.info.reason}" if self.info.reason else ""
        return f"job {self.info.group} {state}{where}{why}"

    def describe_end(self) -> str:
        """Return in a few words how it has ended."""
        text = str(self._refusal) if self._refusal else self.describe()
        return f"the block {self.name} has ended ({text})"

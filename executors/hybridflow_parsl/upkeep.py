"""Looks after an executor's Slurm blocks: gives back the idle ones, and names those that fail.

Parsl's own rule (``Config(max_idletime=…)``) is one for all executors, ends an executor's blocks
only when all of them are idle, and can end one to which a task has just been sent. Here each block
is looked at: it is held, so that it gets no more tasks, and cancelled when it has none.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from parsl.jobs.states import JobStatus

from hybridflow_parsl.losses import Losses
from hybridflow_parsl.providers import BlockProvider, BlockStatus

if TYPE_CHECKING:
    from hybridflow_parsl.leased import LeasedExecutor

__all__ = ["Upkeep"]

_LOST = "executor %r has lost a block, and asks for another when it needs one: %s"
_SECONDS_BETWEEN_LOOKS = 1.0
_PENALTY_SECONDS = 5.0
_LONGEST_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Upkeep:
    """Looks after the blocks of one executor.

    Parameters
    ----------
    executor
        Whose blocks they are.
    provider
        Where they come from.

    Attributes
    ----------
    losses
        Names the losses of the executor's tasks.
    """

    def __init__(self, executor: "LeasedExecutor", provider: BlockProvider) -> None:
        self._executor = executor
        self._provider = provider
        self.losses = Losses(executor, provider)
        self._next = 0.0
        self._last_task = time.monotonic()
        self._connected: set[str] = set()
        self._leaving: set[str] = set()
        self._named: set[str] = set()
        self._failed = 0

    def poll(self) -> None:
        """Look, if it is time; called all the time by the thread that watches over blocks."""
        now = time.monotonic()
        if self._executor.outstanding():
            self._last_task = now
        if now < self._next:
            return
        self._next = now + _SECONDS_BETWEEN_LOOKS
        blocks = self._executor.status_facade
        managers = self._executor.connected_managers()
        self.losses.note(managers)
        self._name_problems(blocks)
        active = [name for name, block in blocks.items() if not block.terminal]
        self._notice_losses(active, managers)
        if self._provider.idle is not None:
            self._give_back(active, managers, self._provider.idle)

    def _name_problems(self, blocks: Mapping[str, JobStatus]) -> None:
        for name, block in blocks.items():
            if isinstance(block, BlockStatus) and block.problem and name not in self._named:
                self._named.add(name)
                _log.warning(_LOST, self._executor.label, block.problem)
                # The first is replaced at once; Slurm is spared a row of jobs that fail.
                self._executor.postpone(min(self._failed * _PENALTY_SECONDS, _LONGEST_SECONDS))
                self._failed += 1

    def _notice_losses(self, active: Iterable[str], managers: Iterable[Mapping[str, Any]]) -> None:
        connected = {manager["block_id"] for manager in managers}
        if connected - self._connected:
            self._failed = 0
        lost = (self._connected - connected).intersection(active)
        self._connected = connected
        if lost:
            self._provider.jobs.look_soon()

    def _give_back(
        self, active: list[str], managers: list[dict[str, Any]], idle_seconds: float
    ) -> None:
        spare = max(0, len(active) - self._provider.min_blocks)
        leaving = [name for name in active if name in self._leaving]
        chosen = [*leaving, *self._idle(active, managers, idle_seconds)][:spare]
        if not chosen:
            return
        self._executor.hold([name for name in chosen if name not in self._leaving])
        self._leaving |= set(chosen)
        # Asked again: one may have been sent a task before it was held.
        busy = {each["block_id"] for each in self._executor.connected_managers() if each["tasks"]}
        if free := [name for name in chosen if name not in busy]:
            self._executor.give_back(free)

    def _idle(
        self, active: list[str], managers: list[dict[str, Any]], idle_seconds: float
    ) -> list[str]:
        here = [manager for manager in managers if manager["block_id"] in active]
        if self._executor.outstanding() > sum(manager["tasks"] for manager in here):
            return []  # a task waits, or was lost with a block and will be tried again
        without_workers = time.monotonic() - self._last_task
        unused = _unused_seconds(here)
        return [
            name
            for name in active
            if name not in self._leaving and unused.get(name, without_workers) >= idle_seconds
        ]


def _unused_seconds(managers: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    # A block is as idle as the least idle of its nodes.
    found: dict[str, float] = {}
    for manager in managers:
        name = manager["block_id"]
        seconds = 0.0 if manager["tasks"] else manager["idle_duration"]
        found[name] = min(seconds, found.get(name, seconds))
    return found

"""Kills a process at a step of the broker's journal. On its path, the broker imports this first.

``KILL_AT`` says, as JSON, for which request (by its shots) who is killed: the task that has sent
it, the door, or the driver (``KILL_DRIVER``), and before or after which step. The broker goes on
when that process has ended.
"""

import functools
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = ("admit", "intend", "started", "stored", "delivered")


def arm(plan: dict[str, tuple[str, str, str]]) -> None:
    from hybridflow.broker.ledger.journal import LedgerJournal

    for step in STEPS:
        setattr(LedgerJournal, step, _watched(getattr(LedgerJournal, step), step, plan))


def _watched(
    step: Callable[..., Any], name: str, plan: dict[str, tuple[str, str, str]]
) -> Callable[..., Any]:
    @functools.wraps(step)
    def called(journal: Any, subject: Any, *args: Any) -> Any:
        _kill(subject, name, "before", plan)
        found = step(journal, subject, *args)
        _kill(subject, name, "after", plan)
        return found

    return called


def _kill(subject: Any, step: str, moment: str, plan: dict[str, tuple[str, str, str]]) -> None:
    entries = subject.work.entries if hasattr(subject, "work") and step in STEPS[1:4] else [subject]
    for entry in entries:
        shots = str(entry.request.pubs[0].shots)
        victim, *when = plan.get(shots, ("", "", ""))
        if when == [step, moment]:
            del plan[shots]
            client = entry.request.client.pid
            _end({"task": client, "door": _door, "driver": _driver}[victim])
            Path(os.environ["HYBRIDFLOW_RUN"], f"killed-{shots}").touch()


def _end(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    ended = select.select([descriptor], [], [], 60)[0]
    os.close(descriptor)
    assert ended, f"process {pid} did not end"


if "hybridflow.broker" in sys.orig_argv and "KILL_AT" in os.environ:
    _door, _driver = os.getppid(), int(os.environ.get("KILL_DRIVER", "0"))
    Path(os.environ["HYBRIDFLOW_RUN"], "broker.pid").write_text(str(os.getpid()))
    arm(json.loads(os.environ["KILL_AT"]))

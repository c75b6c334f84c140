"""How attempts at tasks have ended: from the run's events, which each worker writes by itself.

A task's end is in its worker's file before its engine hears of it, and so before the engine can try
once more.
"""

import logging
import math
import time
from pathlib import Path

import msgspec

from hybridflow.records import ClientInfo

__all__ = ["Outcomes"]

_log = logging.getLogger(__name__)


class _Ended(msgspec.Struct):
    event: str
    task: str = ""
    error: str = ""
    attempt: str = ""


_decoder = msgspec.json.Decoder(_Ended)
_MARK = b'"task_ended"'


class Outcomes:
    """Reads the events of a run, as far as it is asked about.

    Parameters
    ----------
    run
        The run's folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._read: dict[str, int] = {}
        self._ended: dict[str, bool] = {}
        self._looked: dict[tuple[str, int], float] = {}

    def ended_well(self, client: ClientInfo, at: float) -> bool | None:
        """Whether the attempt of a request has ended well; None as long as that is not known.

        What was written after `at` (``time.monotonic``) need not be seen.
        """
        if not client.attempt:
            return None
        process = (client.host, client.pid)
        if client.attempt not in self._ended and self._looked.get(process, -math.inf) < at:
            self._looked[process] = time.monotonic()
            self._look(f"events-{client.host}-{client.pid}.jsonl")
        return self._ended.get(client.attempt)

    def _look(self, name: str) -> None:
        try:
            with (self._run / name).open("rb") as file:
                file.seek(self._read.get(name, 0))
                data = file.read()
        except OSError:
            return  # it has written none, or none that can be read: nothing is known
        whole = data[: data.rfind(b"\n") + 1]
        self._read[name] = self._read.get(name, 0) + len(whole)
        for line in whole.splitlines():
            if _MARK in line:
                self._note(line)

    def _note(self, line: bytes) -> None:
        try:
            ended = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warning("an event in %s cannot be read: %s", self._run, error)
            return
        # Some engines record their tasks by themselves: there, each attempt has a task's id.
        self._ended[ended.attempt or ended.task] = not ended.error

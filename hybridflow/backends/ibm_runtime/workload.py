"""Which session or batch of IBM's a job goes into, and when it is closed.

A session bills the time of the clock from its first job until it is closed, so that it is opened
when a job is about to be submitted, and closed as soon as no job of it is under way any more and
none has come for ``idle_seconds``: it is never held across a classical phase. Closing it keeps
nothing from running that was submitted. A batch bills its jobs alone and is kept until the backend
is released. Both have a time limit at IBM, whatever becomes of this process.

Everything here runs in the caller's thread.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from hybridflow.backends.ibm_runtime.account import Held
from hybridflow.backends.ibm_runtime.options import IbmRuntimeOptions
from hybridflow.backends.ibm_runtime.package import runtime
from hybridflow.backends.ibm_runtime.service import Connection

__all__ = ["Workload"]

_log = logging.getLogger(__name__)

_PAUSES = (0.2, 1.0, 0.0)
"""After each failed attempt to close what bills while it is open, in seconds."""

_USABLE = ("open", "active", "inactive", "pending_inactive")


class Workload:
    """The session or batch of a device, if its mode asks for one.

    Parameters
    ----------
    connection
        The connection; see :meth:`move`.
    options
        Mode, and limits.
    held
        The slot's own session: jobs go into it whatever the mode, and it stays open.
    later
        Runs something after a number of seconds, in the caller's thread.
    """

    def __init__(
        self,
        connection: Connection,
        options: IbmRuntimeOptions,
        held: Held | None,
        later: Callable[[float, Callable[[], object]], None],
    ) -> None:
        self._connection = connection
        self._options = options
        self._held = held
        self._later = later
        self._open: Any = None
        self._running: set[str] = set()
        self._turn = 0

    def enter(self) -> Any:
        """Return what the next job runs in: as the primitives' argument `mode`."""
        self._turn += 1
        if self._options.mode == "job" and self._held is None:
            return self._connection.device
        if self._open is None:
            self._open = self._opened()
        return self._open

    def _opened(self) -> Any:
        if self._held is not None:
            return self._by_id(self._held.id)
        return self._kind(self._connection.device, max_time=self._options.session_seconds)

    def _by_id(self, session_id: str) -> Any:
        fractional = self._options.fractional_gates
        return self._kind.from_id(
            session_id, self._connection.service, use_fractional_gates=fractional
        )

    @property
    def _kind(self) -> Any:
        mode = self._options.mode if self._held is None else self._held.mode
        return runtime().Batch if mode == "batch" else runtime().Session

    @property
    def is_open(self) -> bool:
        """Whether there is a session or batch to be closed."""
        return self._open is not None and self._held is None

    def move(self, connection: Connection) -> None:
        """Go on with what is open by another connection."""
        self._connection = connection
        if self._open is None:
            return
        try:
            self._open = self._by_id(self._open.session_id)
        except Exception as error:  # the next job opens another; IBM closes this one in time
            _log.warning("a session is not there any more: %s", type(error).__name__)
            self._open = None

    def started(self, job_id: str) -> None:
        """Note that a job runs in it."""
        self._running.add(job_id)

    def ended(self, job_id: str) -> None:
        """Note that a job has ended."""
        self._running.discard(job_id)
        self.rest()

    def rest(self) -> None:
        """Have a session closed in a while, if nothing runs in it and nothing comes."""
        if self._open is None or self._running or self._held or self._options.mode != "session":
            return
        turn = self._turn
        self._later(self._options.idle_seconds, lambda: self._close_if(turn))

    def _close_if(self, turn: int) -> None:
        if turn == self._turn and not self._running:
            self.close()

    def was_closed(self) -> bool:
        """Whether the service has closed what a job should have gone into; it is then forgotten."""
        if self._open is None or self._held is not None:
            return False
        details = self._open.details() or {}
        if details.get("accepting_jobs") and details.get("state") in _USABLE:
            return False
        self._open = None
        return True

    def close(self) -> None:
        """Close what is open and ours; its jobs run to their end."""
        session, self._open = self._open, None
        if session is None or self._held is not None:
            return
        for pause in _PAUSES:
            try:
                session.close()
                return
            except Exception as error:  # nobody waits for it; IBM closes it at its time limit
                _log.warning("a session could not be closed: %s", type(error).__name__)
                time.sleep(pause)

"""Looks after a slot's brokers, for the door: starts those again that have died, and says so."""

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from hybridflow.broker.process import BrokerProcess
from hybridflow.errors import HybridflowError
from hybridflow.redaction import redact

__all__ = ["RESTARTS", "Charge", "Supervisors", "report", "show_end"]

RESTARTS = 5
"""How often a broker that dies is started again in one slot."""

_FIRST_DELAY_SECONDS = 0.1
_LOG_LINES = 10


class Charge(NamedTuple):
    """A broker that runs, the name of its resource, and what its log must not show."""

    broker: BrokerProcess
    name: str
    credentials: Mapping[str, str]


class Supervisors:
    """Look after the brokers of a slot, or of a route's slots: one that stays dead is done without.

    Parameters
    ----------
    charges
        The brokers.
    drain_seconds
        Time that each has to end its work, in seconds.

    Attributes
    ----------
    lost
        A descriptor that becomes readable when all brokers stay dead.
    failed
        Whether all stayed dead.
    """

    def __init__(self, charges: Sequence[Charge], drain_seconds: float) -> None:
        self.lost = os.eventfd(0)
        self.failed = False
        self._alive = len(charges)
        self._lock = threading.Lock()
        self._each = [_Supervisor(charge, drain_seconds, self._lose) for charge in charges]

    def close(self) -> None:
        """Let the brokers end their work, and end them."""
        with ThreadPoolExecutor(len(self._each)) as pool:
            list(pool.map(_Supervisor.close, self._each))
        os.close(self.lost)

    def _lose(self, name: str) -> None:
        with self._lock:
            self._alive -= 1
            left = self._alive
        if left:
            report(f"the broker of {name!r} stays dead: the others of the route go on")
            return
        report(f"the broker of {name!r} stays dead: the command is ended")
        self.failed = True
        os.eventfd_write(self.lost, 1)


class _Supervisor:
    # Starts a broker again that has died, a bounded number of times and ever more slowly.
    def __init__(
        self, charge: Charge, drain_seconds: float, on_lost: Callable[[str], None]
    ) -> None:
        self._broker, self._name, self._credentials = charge
        self._drain_seconds = drain_seconds
        self._on_lost = on_lost
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hybridflow-supervisor")
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        # More than once, where it was just being started again.
        while self._thread.is_alive():
            if not self._broker.drain(self._drain_seconds):
                self._broker.kill()
            self._thread.join(0.1)
        self._broker.kill()

    def _watch(self) -> None:
        for death in range(1, RESTARTS + 2):
            status = self._broker.wait()
            if self._closing.is_set():
                return
            report(f"the broker of {self._name!r} died (status {status})")
            show_end(self._broker.log, self._credentials)
            if death > RESTARTS or not self._restart(death):
                break
        if not self._closing.is_set():
            self._on_lost(self._name)

    def _restart(self, death: int) -> bool:
        # Whether it makes sense to go on; a broker that is not up yet is the next death.
        if self._closing.wait(_FIRST_DELAY_SECONDS * 2 ** (death - 1)):
            return False
        try:
            self._broker.restart()
        except HybridflowError as error:
            if not self._closing.is_set():
                report(f"the broker of {self._name!r} could not be restarted: {error}")
            return error.transient
        report(f"the broker of {self._name!r} was restarted ({death} of {RESTARTS} times)")
        return True


def show_end(log: Path, credentials: Mapping[str, str]) -> None:
    """Print the last lines of a broker's log, which goes with the slot's folder."""
    try:
        text = log.read_text(errors="replace")
    except FileNotFoundError:
        return
    for line in redact(text, credentials.values()).splitlines()[-_LOG_LINES:]:
        report(f"broker: {line}")


def report(text: str) -> None:
    """Tell whoever has started the door."""
    print(f"hybridflow: {text}", file=sys.stderr, flush=True)

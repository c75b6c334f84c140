"""Looks after a slot's broker, for the door: starts it again when it has died, and says so."""

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from hybridflow.broker.process import BrokerProcess
from hybridflow.errors import HybridflowError
from hybridflow.redaction import redact

__all__ = ["RESTARTS", "Supervisor", "report", "show_end"]

RESTARTS = 5
"""How often a broker that dies is started again in one slot."""

_FIRST_DELAY_SECONDS = 0.1
_LOG_LINES = 10


class Supervisor:
    """Starts a broker again that has died, a bounded number of times and ever more slowly.

    Parameters
    ----------
    broker
        The broker, which runs.
    name
        Name of its resource.
    credentials
        What its log must not show.
    drain_seconds
        Time that it has to end its work, in seconds.

    Attributes
    ----------
    lost
        A descriptor that becomes readable when the broker stays dead.
    failed
        Whether it stayed dead.
    """

    def __init__(
        self,
        broker: BrokerProcess,
        name: str,
        credentials: Mapping[str, str],
        drain_seconds: float,
    ) -> None:
        self.lost = os.eventfd(0)
        self.failed = False
        self._broker = broker
        self._name = name
        self._credentials = credentials
        self._drain_seconds = drain_seconds
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hybridflow-supervisor")
        self._thread.start()

    def close(self) -> None:
        """Let the broker end its work, and end it."""
        self._closing.set()
        # More than once, where it was just being started again.
        while self._thread.is_alive():
            if not self._broker.drain(self._drain_seconds):
                self._broker.kill()
            self._thread.join(0.1)
        self._broker.kill()
        os.close(self.lost)

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
            report(f"the broker of {self._name!r} stays dead: the command is ended")
            self.failed = True
            os.eventfd_write(self.lost, 1)

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

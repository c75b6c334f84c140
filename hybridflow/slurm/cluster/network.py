"""Whether a daemon listens."""

import socket
from contextlib import suppress
from pathlib import Path

__all__ = ["answers_at", "answers_on"]


def answers_at(path: Path) -> bool:
    """Return whether somebody listens at a Unix socket."""
    return _answers(socket.AF_UNIX, str(path))


def answers_on(port: int) -> bool:
    """Return whether somebody listens on a port of the loopback address."""
    return _answers(socket.AF_INET, ("127.0.0.1", port))


def _answers(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as probe, suppress(OSError):
        probe.connect(address)
        return True
    return False

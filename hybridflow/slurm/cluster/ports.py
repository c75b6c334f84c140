"""Free ports of this machine, kept free until the daemons that they are meant for have taken them.

A port is reserved by a socket that is bound to it and never listens: a daemon, which binds with
``SO_REUSEADDR`` as all of Slurm's do, gets it all the same; another cluster's search, and the
kernel's choice of ports for outgoing connections, pass it by.
"""

import contextlib
import errno
import random
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from hybridflow.errors import ClusterError

__all__ = ["Ports"]

# Below the ports that Linux gives to outgoing connections, above those of well-known services.
_FIRST, _LAST = 17_000, 32_000


class Ports:
    """Reserved ports; a context manager that gives them back."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._candidates = _candidates()

    def take(self) -> int:
        """Reserve one more port.

        Raises
        ------
        ClusterError
            If there is none left.
        """
        for port in self._candidates:
            holder = socket.socket()
            try:
                # Alone at first, then shared: two clusters that look at once never get one port.
                holder.bind(("", port))
            except OSError as error:
                holder.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._stack.enter_context(holder)
                return port
        raise ClusterError(
            f"no port of {_FIRST} to {_LAST} is free for a daemon of Slurm: end clusters that are "
            "not needed (`hybridflow cluster down`)"
        )

    def close(self) -> None:
        """Give all ports back."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _candidates() -> Iterator[int]:
    # In random order, so that clusters that start at one time rarely want the same.
    yield from random.sample(range(_FIRST, _LAST), _LAST - _FIRST)

"""Free ports of this machine, kept free until the daemons that they are meant for have taken them.

A port is reserved by a socket that is bound to it and never listens: a daemon, which binds with
``SO_REUSEADDR`` as all of Slurm's do, gets it all the same; another cluster's search, and the
kernel's choice of ports for outgoing connections, pass it by.
"""

import contextlib
import errno
import random
import socket
from collections.abc import Iterator, Sequence

from hybridflow.errors import ClusterError

__all__ = ["Ports"]

# Below the ports that Linux gives to outgoing connections, above those of well-known services.
_FIRST, _LAST = 17_000, 32_000


class Ports:
    """One reserved port a name, until it is closed.

    Parameters
    ----------
    names
        Whom the ports are for.

    Attributes
    ----------
    numbers
        The port of each.

    Raises
    ------
    ClusterError
        If there are not enough.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._stack = contextlib.ExitStack()
        candidates = iter(random.sample(range(_FIRST, _LAST), _LAST - _FIRST))
        self.numbers = {name: self._reserve(candidates) for name in names}

    def close(self) -> None:
        """Give all ports back."""
        self._stack.close()

    def _reserve(self, candidates: Iterator[int]) -> int:
        for port in candidates:
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

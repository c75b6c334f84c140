"""Questions to Parsl's interchange that end when it does.

Parsl waits for an answer for ever, in the thread that watches over blocks and then in every
clean-up.
"""

from collections.abc import Callable
from typing import Any

import zmq
from parsl.executors.high_throughput.zmq_pipes import CommandClient

__all__ = ["InterchangeLost", "Questions"]

_LOOK_MILLISECONDS = 200


class InterchangeLost(Exception):
    """The interchange has ended; caught where it is asked."""


class Questions:
    """A ``CommandClient`` that gives up when the interchange is dead.

    Parameters
    ----------
    client
        Parsl's, with its socket.
    is_dead
        Whether the interchange has ended.
    """

    def __init__(self, client: CommandClient, is_dead: Callable[[], bool]) -> None:
        self._client = client
        self._is_dead = is_dead

    def run(self, message: Any, max_retries: int = 3, timeout_s: float | None = None) -> Any:
        """Ask, and return the answer; the last two arguments are Parsl's and not used.

        Raises
        ------
        InterchangeLost
            If the interchange has ended.
        """
        socket = self._client.zmq_socket
        with self._client._lock:
            self._await(socket, zmq.POLLOUT)
            socket.send_pyobj(message)
            self._await(socket, zmq.POLLIN)
            return socket.recv_pyobj()

    def close(self) -> None:
        """Close the socket."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _await(self, socket: "zmq.Socket[bytes]", event: int) -> None:
        while not socket.poll(_LOOK_MILLISECONDS, event):
            if self._is_dead():
                raise InterchangeLost

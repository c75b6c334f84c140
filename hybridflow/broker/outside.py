"""Requests that found the queue full: kept by their clients, and called in when there is room.

The broker remembers no more than who they are and how large: a full queue costs its memory nothing,
and the worker, which keeps what it has sent anyway, just waits for its result a little longer.
"""

from collections import OrderedDict

__all__ = ["Key", "Outside"]

Key = tuple[bytes, str]
"""A client, and the id of its request."""


class Outside:
    """Who was told to come later, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Key, int] = OrderedDict()
        self._called: dict[Key, int] = {}

    def has_turn(self, key: Key) -> bool:
        """Whether a request may try to get in: it was called, or nobody stands before it."""
        return key in self._called or not (self._called or self._waiting)

    def entered(self, key: Key) -> None:
        """Forget a request that got in."""
        self._called.pop(key, None)

    def keep(self, key: Key, size: int) -> None:
        """Remember a request of so many bytes; one that was called in vain comes first again."""
        was_called = self._called.pop(key, None) is not None
        self._waiting.setdefault(key, size)
        if was_called:
            self._waiting.move_to_end(key, last=False)

    def leave(self, key: Key) -> bool:
        """Forget a request; False if it is not here."""
        return self._called.pop(key, None) is not None or self._waiting.pop(key, None) is not None

    def leave_all(self, client: bytes) -> None:
        """Forget all requests of a client."""
        for key in [key for key in (*self._waiting, *self._called) if key[0] == client]:
            self.leave(key)

    def call(self, room: int) -> list[Key]:
        """Call those, the first ones first, for whom there is so much room in all.

        What was called and has not come yet has its part of the room.
        """
        called = []
        room -= sum(self._called.values())
        while self._waiting:
            key, size = next(iter(self._waiting.items()))
            room -= size
            if room < 0:
                break
            self._called[key] = self._waiting.pop(key)
            called.append(key)
        return called

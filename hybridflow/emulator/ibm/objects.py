"""Objects by their paths, as in a store that speaks S3: the way of data in and out of a system."""

from collections import OrderedDict
from collections.abc import Callable

from hybridflow.errors import ResourceError

__all__ = ["Objects"]

_MOST_BYTES = 512 * 2**20


class Objects:
    """Objects of all users; the oldest go when they are too many.

    Parameters
    ----------
    most_bytes
        Bound of all objects together.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[str, str], bytes | Callable[[], bytes]] = OrderedDict()
        self._bytes = 0

    def put(self, account: str, path: str, content: bytes | Callable[[], bytes]) -> None:
        """Keep an object, or what makes it when it is asked for."""
        self._drop((account, path))
        self._kept[account, path] = content
        self._bytes += _size(content)
        while self._bytes > self._most_bytes and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def get(self, account: str, path: str) -> bytes:
        """Return an object of this user.

        Raises
        ------
        ResourceError
            If there is none.
        HybridflowError
            If it cannot be made.
        """
        found = self._kept.get((account, path))
        if found is None:
            raise ResourceError(f"there is no object {path}")
        return found() if callable(found) else found

    def _drop(self, key: tuple[str, str]) -> None:
        self._bytes -= _size(self._kept.pop(key, b""))


def _size(content: bytes | Callable[[], bytes]) -> int:
    return 0 if callable(content) else len(content)

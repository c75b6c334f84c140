"""The gather window: callers that were just served may come back before the next batch goes out.

Without it, callers that wait for their results fall into step as batches of 1, n - 1, 1, n - 1, …,
and every other vendor job is paid for a single request. The window closes as soon as every caller
that is expected waits, and a caller is not expected for longer than is worth it: 2 % of the fixed
cost of a vendor job; where that is next to nothing, as long as the last one took, up to 20 ms.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable

from hybridflow.records import ClientInfo

__all__ = ["Gather"]

_SHARE_OF_FIXED_COST = 0.02
_SHORT_SECONDS = 0.02


class Gather:
    """Says how long a batch is to wait for callers that were just served.

    Parameters
    ----------
    fixed_seconds
        Estimated fixed cost of one vendor job, in seconds.
    """

    def __init__(self, fixed_seconds: float) -> None:
        self._least = _SHARE_OF_FIXED_COST * fixed_seconds
        self._window = self._least
        self._served: defaultdict[_Caller, deque[float]] = defaultdict(deque)

    def ended(self, run_seconds: float) -> None:
        """Note how long a vendor job took."""
        self._window = max(self._least, min(_SHORT_SECONDS, run_seconds))

    def served(self, client: ClientInfo) -> None:
        """Note that a caller was given a result."""
        self._served[_caller(client)].append(time.monotonic())

    def left(self, clients: Iterable[ClientInfo]) -> None:
        """Note that requests of these callers went out."""
        for client in clients:
            times = self._served.get(_caller(client))
            if times:
                times.popleft()

    def rest(self, waiting: Iterable[ClientInfo]) -> float:
        """Return for how many seconds those who wait should do so; 0 if nobody else is expected."""
        here = Counter(map(_caller, waiting))
        if not here:
            return 0.0
        now = time.monotonic()
        until = now
        for caller, times in list(self._served.items()):
            while times and times[0] + self._window <= now:
                times.popleft()
            if not times:
                del self._served[caller]
            elif len(times) > here[caller]:
                until = max(until, times[-1] + self._window)
        return until - now


_Caller = tuple[str, int]


def _caller(client: ClientInfo) -> _Caller:
    return client.host, client.pid

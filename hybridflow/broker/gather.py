"""The gather window: callers that may come in a moment are waited for before a batch goes out.

Without it, callers that wait for their results fall into step as batches of 1, n - 1, 1, n - 1, …,
and every other vendor job is paid for a single request. Two kinds of callers are waited for:

* who was just served, and is expected to come back: until all such callers wait, but for no longer
  than is worth it, which is 2 % of the fixed cost of a vendor job; where that is next to nothing,
  as long as the last one took, up to 20 ms. On a device, who did not come in time is not expected
  the next time: it computes between its calls, while the device would wait;
* who comes out of the blue, since others may come along: until nobody has come for 20 ms, and not
  longer than 2 % of the fixed cost either; not at all where those are less than 10 ms, or where
  everybody waits who was ever seen.
"""

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable

from hybridflow.records import ClientInfo

__all__ = ["Gather"]

_SHARE_OF_FIXED_COST = 0.02
_SHORT_SECONDS = 0.02
_LEAST_SECONDS = 0.01


class Gather:
    """Says how long a batch is to wait for callers that may come.

    Parameters
    ----------
    fixed_seconds
        Estimated fixed cost of one vendor job, in seconds.
    """

    def __init__(self, fixed_seconds: float) -> None:
        self._least = _SHARE_OF_FIXED_COST * fixed_seconds
        self._window = self._least
        self._quiet = min(_SHORT_SECONDS, self._least) if self._least >= _LEAST_SECONDS else 0.0
        self._learns = fixed_seconds > 0
        self._slow: set[_Caller] = set()
        self._served: defaultdict[_Caller, deque[float]] = defaultdict(deque)
        self._known: set[_Caller] = set()
        self._first = math.inf
        self._latest = -math.inf

    def ended(self, run_seconds: float) -> None:
        """Note how long a vendor job took."""
        self._window = max(self._least, min(_SHORT_SECONDS, run_seconds))

    def served(self, client: ClientInfo) -> None:
        """Note that a caller was given a result."""
        self._served[_caller(client)].append(time.monotonic())

    def came(self, client: ClientInfo, arrived: float) -> None:
        """Note that a request has come in, and when."""
        caller = _caller(client)
        if (times := self._served.get(caller)) and arrived < times[0] + self._window:
            self._slow.discard(caller)
        if caller not in self._served:
            self._latest = time.monotonic()
            self._first = min(self._first, self._latest)

    def left(self, clients: Iterable[ClientInfo]) -> None:
        """Note that requests of these callers went out."""
        self._first = math.inf
        for client in clients:
            caller = _caller(client)
            self._known.add(caller)
            times = self._served.get(caller)
            if times:
                times.popleft()

    def rest(self, waiting: Iterable[ClientInfo]) -> float:
        """Return for how many seconds those who wait should do so; 0 if nobody else is expected."""
        here = Counter(map(_caller, waiting))
        if not here:
            return 0.0
        now = time.monotonic()
        return max(now, self._until_back(here, now), self._until_quiet(here)) - now

    def _until_back(self, here: "Counter[_Caller]", now: float) -> float:
        until = now
        for caller, times in list(self._served.items()):
            is_missing = len(times) > here[caller]
            while times and times[0] + self._window <= now:
                times.popleft()
                if is_missing and self._learns:
                    self._slow.add(caller)
            if not times:
                del self._served[caller]
            elif is_missing and caller not in self._slow:
                until = max(until, times[-1] + self._window)
        return until

    def _until_quiet(self, here: "Counter[_Caller]") -> float:
        if not self._quiet or here.keys() == self._known:
            return -math.inf
        return min(self._latest + self._quiet, self._first + self._least)


_Caller = tuple[str, int]


def _caller(client: ClientInfo) -> _Caller:
    return client.host, client.pid

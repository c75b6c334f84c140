"""What a broker expects of a request that comes now: for those who choose among several brokers."""

from hybridflow.records import Record

__all__ = ["Outlook"]


class Outlook(Record, frozen=True, kw_only=True):
    """What a broker expects of a request that comes now, from the vendor jobs before it.

    Attributes
    ----------
    online
        Whether the vendor takes jobs, as far as is known: not while the broker pauses after a
        refusal, and not while the way to the vendor is lost.
    keeps
        Whether there may be something that a request of the run could claim here.
    wait_seconds
        Time until a vendor job with the request would start: what runs and what waits comes first.
    fixed_seconds, rate
        Time that a vendor job takes: `fixed_seconds`, and `rate` for each unit of work
        (:func:`hybridflow.broker.estimate.work_of`).
    """

    online: bool = True
    keeps: bool = False
    wait_seconds: float = 0.0
    fixed_seconds: float = 0.0
    rate: float = 1.0

    def seconds(self, work: float) -> float:
        """Return the time until so much work would be done."""
        return self.wait_seconds + self.fixed_seconds + self.rate * work

"""What is out at the vendor, what has to go out once more, and whether there is a lane for more."""

from collections import deque

from hybridflow.broker.work import Backoff, VendorJob, Work
from hybridflow.records import Capabilities, Resource

__all__ = ["Lanes", "is_free"]


def is_free(capabilities: Capabilities) -> bool:
    """Whether to run work again costs nothing.

    Its job has died with the backend then, and nobody bills it.
    """
    return capabilities.simulator and not capabilities.durable_jobs


class Lanes:
    """Vendor jobs in flight.

    Where jobs run at the same time, a free lane takes whatever waits. On a device that runs them
    one after the other, a job that is started ahead saves the moment between two jobs, but tears
    apart what would have gone out together: it is, only if its batch is as large as can be.

    Attributes
    ----------
    running
        Vendor jobs that were started and have not been seen to end.
    again
        Work that has to go out once more, before all else.
    refusals
        How often the vendor would not take a job for now.
    """

    def __init__(self, resource: Resource, capabilities: Capabilities) -> None:
        self.running: list[VendorJob] = []
        self.again: deque[Work] = deque()
        self.refusals = Backoff()
        self._count = max(1, min(capabilities.lanes, resource.max_in_flight))
        self._serial = capabilities.serial
        self._is_free = is_free(capabilities)

    def free(self, *, full: bool) -> bool:
        """Whether a job may be started now; `full`: with the largest batch that can be."""
        out = self.out
        if not out:
            return True
        # Work under which a simulator was lost runs alone: when that happens again, it is guilty.
        suspects = [job.work for job in out] + list(self.again)[:1]
        if self._is_free and any(work.losses for work in suspects):
            return False
        ahead = full or bool(self.again) or not self._serial
        return ahead and len(out) < self._count

    @property
    def out(self) -> list[VendorJob]:
        """The jobs that take up a lane: about those that were given up, nobody knows."""
        return [job for job in self.running if not job.given_up]

    def share(self, waiting: int) -> int:
        """Return how many of the requests that wait go into one batch, for all lanes to be used."""
        free = 1 if self._serial else max(1, self._count - len(self.out))
        return -(-waiting // free)

    def next_again(self) -> Work | None:
        """Take the next work that has to go out once more, without what is not wanted any more."""
        while self.again:
            work = self.again.popleft()
            work.entries = work.wanted
            if work.entries:
                return work
        return None

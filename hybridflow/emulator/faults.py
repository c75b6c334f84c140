"""The faults that are switched on: what goes wrong next, and how often still.

They come in by ``PUT /faults``; ``web.py`` asks here before and after each answer, ``device.py``
and ``service.py`` about each job.
"""

import time
from http import HTTPStatus

import msgspec

from hybridflow.backends.emulator.messages import Faults, Question
from hybridflow.errors import HybridflowError, VendorJobError

__all__ = ["FaultSwitch"]


class FaultSwitch:
    """The service's faults; used in the event loop's thread alone."""

    def __init__(self) -> None:
        self._faults = Faults()
        self._back = 0.0

    @property
    def now(self) -> Faults:
        """The faults that are still to come."""
        left = max(0.0, self._back - time.monotonic())
        return msgspec.structs.replace(self._faults, away_seconds=left)

    def switch(self, faults: Faults) -> None:
        """Switch these on, and all others off."""
        self._faults = faults
        self._back = time.monotonic() + faults.away_seconds

    def take(self, name: str) -> bool:
        """Whether the next event of a kind goes wrong; counts it."""
        left: int = getattr(self._faults, name)
        if left:
            self._faults = msgspec.structs.replace(self._faults, **{name: left - 1})
        return left > 0

    # Questions

    def pause(self, question: Question) -> float:
        """Return for how many seconds a question is left lying."""
        return self._faults.slow_seconds if self._meets(question) else 0.0

    def refusal(self, question: Question) -> HTTPStatus | None:
        """Return the status that a question is turned away with, if it is."""
        if not self._meets(question):
            return None
        if time.monotonic() < self._back:
            return HTTPStatus.SERVICE_UNAVAILABLE
        if self.take("busy"):
            return HTTPStatus.TOO_MANY_REQUESTS
        if self.take("expired"):
            return HTTPStatus.UNAUTHORIZED
        return HTTPStatus.INTERNAL_SERVER_ERROR if self.take("broken") else None

    def shows_page(self, question: Question) -> bool:
        """Whether a question is answered with a page for people."""
        return self._meets(question) and self.take("pages")

    def halves(self, question: Question) -> bool:
        """Whether an answer breaks off in the middle."""
        return self._meets(question) and self.take("halved")

    def doubles(self, question: Question) -> bool:
        """Whether an answer is sent twice."""
        return self._meets(question) and self.take("doubled")

    def _meets(self, question: Question) -> bool:
        return not self._faults.only or question in self._faults.only

    # Jobs

    def failure(self) -> HybridflowError | None:
        """Return the error that the next job fails with, if it does."""
        transient = self._faults.fail_transient
        if not self.take("fail_jobs"):
            return None
        return VendorJobError("the job failed, as the emulator was told", transient=transient)

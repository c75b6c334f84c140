"""One call of a primitive on its way by a route: to one resource, or, declined there, to the next.

::

    claims   in a run: what was paid for already is asked for first, at each resource in turn
    choice   of those that can have it now the best one, else the one to fall back to
    reply    with the route in its provenance

A resource declines what can go elsewhere only if nothing of it was begun (``DeclinedError``): any
other failure is the call's. At the last resource that is left, a request waits instead.
"""

import glob
import os
import threading
import uuid
import warnings
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import msgspec

from hybridflow import environment
from hybridflow.broker.base import Ticket
from hybridflow.broker.pending import ReplyFuture
from hybridflow.errors import (
    DeadlineError,
    DeclinedError,
    ErrorRecord,
    HybridflowError,
    RequestCancelledError,
    RequestError,
    ResourceError,
    RouteWarning,
)
from hybridflow.events import RequestRouted, event_log
from hybridflow.primitives.afterwards import afterwards
from hybridflow.primitives.asked import Asked
from hybridflow.primitives.candidates import (
    Candidate,
    asked_again,
    fitted,
    obstacle,
    opened,
    ranked,
)
from hybridflow.records import Insistence, JobState, Reply
from hybridflow.route import Route

__all__ = ["RoutedTicket"]

_PAID_BEFORE = "this run had it from there already"
_NOT_HERE = "none of the route's other resources can be had in this slot"


class RoutedTicket:
    """A call under way to a resource of a route; see :class:`hybridflow.broker.base.Ticket`.

    Parameters
    ----------
    route
        The route, as far as it can be had here.
    asked
        The call.

    Raises
    ------
    RequestError
        If no resource of the route can run the call.
    ResourceError
        If none of those that can is to be had.
    SiteError
        If QPUs and simulators stand side by side in the route.
    """

    def __init__(self, route: Route, asked: Asked) -> None:
        self.request_id = uuid.uuid4().hex
        self.future = ReplyFuture(self.request_id)
        self._route = route
        self._asked = asked
        self._fallback = ""
        self._cancelled = threading.Event()
        self._ticket: Ticket | None = None
        found, absent = opened(route)
        self._left, unable = fitted(asked, found)
        if not self._left:
            raise _nobody(route, absent, unable)
        self._reasons = {name: str(error) for name, error in {**absent, **unable}.items()}
        self._claims = deque(each for each in self._left if each.outlook.keeps)
        _warn_of_unclaimed(route, absent)
        self._send()

    # -- seen from outside -----------------------------------------------------------------------

    def state(self) -> JobState:
        """Return the request's state; queued, while it goes from one resource to the next."""
        final = self.future.state()
        if final is not None or self._ticket is None:
            return final or JobState.QUEUED
        state = self._ticket.state()
        return self.future.state() or (JobState.QUEUED if state.final else state)

    def cancel(self) -> bool:
        """Ask for the request to be dropped; False if it has already ended."""
        self._cancelled.set()
        if self.future.done():
            return False
        if self._ticket is not None:
            self._ticket.cancel()
        return True

    # -- on its way ------------------------------------------------------------------------------

    def _send(self) -> None:
        # In the caller's thread, then, if it was declined, in one of ours.
        if self._cancelled.is_set():
            raise RequestCancelledError(f"request {self.request_id} was cancelled")
        insist: Insistence = "claim"
        if self._claims:
            chosen = self._claims.popleft()
        else:
            chosen, insist = self._choose()
        request = self._asked.request(chosen.pubs, chosen.description, insist)
        ticket = chosen.connection.submit(request)
        self._ticket = ticket
        if self._cancelled.is_set():
            ticket.cancel()
        ticket.future.add_done_callback(partial(self._ended, chosen.name, insist))

    def _choose(self) -> tuple[Candidate, Insistence]:
        self._left = asked_again(self._left)
        able: list[Candidate] = []
        for each in self._left:
            reason = obstacle(each, self._route)
            if reason:
                self._reasons[each.name] = reason
            elif each.name != self._route.fall_back:
                able.append(each)
        spare = [each for each in self._left if each.name == self._route.fall_back]
        best = next(iter([*ranked(self._route.prefer, able), *spare, *self._patient()]), None)
        if best is None:
            raise _nobody(self._route, self._reasons, {})
        self._left.remove(best)
        if best in spare:
            self._fall_back(best)
        return best, "try" if self._left and best in able else "wait"

    def _patient(self) -> list[Candidate]:
        # None can have it now: it waits where it would have gone otherwise.
        return ranked(self._route.prefer, self._left)

    def _fall_back(self, spare: Candidate) -> None:
        told = (f"{name}: {why}" for name, why in self._reasons.items() if name != spare.name)
        self._fallback = "; ".join(told) or _NOT_HERE
        kind = ", a simulator" if spare.description.capabilities.simulator else ""
        warnings.warn(
            f"a request of the route {self._route.name!r} falls back to {spare.name!r}{kind}: "
            f"{self._fallback}",
            RouteWarning,
            stacklevel=2,
        )

    def _ended(self, name: str, insist: Insistence, future: "Future[Reply]") -> None:
        # In a thread of the broker's, or of the connection's: it is not to wait for anything.
        error = future.exception()
        if error is None:
            self._deliver(future.result())
        elif insist == "claim" and isinstance(error, DeclinedError):
            afterwards(self._go_on)
        elif insist == "try" and isinstance(error, DeclinedError | DeadlineError):
            self._reasons[name] = str(error)
            afterwards(self._go_on)
        else:
            self._fail(error)

    def _go_on(self) -> None:
        try:
            self._send()
        except Exception as error:  # whatever it is, somebody waits for it
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        ours = error if isinstance(error, HybridflowError) else ErrorRecord.of(error).error()
        self.future.settle(ours)

    def _deliver(self, reply: Reply) -> None:
        origin = reply.provenance
        fallback = self._fallback
        if origin.resource == self._route.fall_back and not fallback:
            fallback = _PAID_BEFORE
        origin = msgspec.structs.replace(origin, route=self._route.name, fallback=fallback)
        event_log().emit(
            RequestRouted(
                route=origin.route,
                resource=origin.resource,
                simulator=origin.simulator,
                fallback=origin.fallback,
            )
        )
        self.future.settle(msgspec.structs.replace(reply, provenance=origin))


def _nobody(
    route: Route, absent: Mapping[str, object], unable: Mapping[str, RequestError]
) -> HybridflowError:
    if unable and not absent:
        first, *others = unable.values()
        if not others:
            return first
        told = "; ".join(map(str, unable.values()))
        return type(first)(f"no resource of the route {route.name!r} can run this: {told}")
    told = "; ".join(f"{name}: {why}" for name, why in {**absent, **unable}.items())
    return ResourceError(
        f"no resource of the route {route.name!r} can have the request now: {told}",
        transient=True,
        resource=route.name,
    )


def _warn_of_unclaimed(route: Route, absent: Iterable[str]) -> None:
    # What was paid for at a resource, only its broker can give out.
    run = os.environ.get(environment.RUN)
    for name in absent if run else ():
        files = f"{glob.escape(name)}-????????.*.log"
        if any(Path(run or "", "ledger").glob(files)):
            warnings.warn(
                f"the route {route.name!r} does without {name!r}, which cannot be had now: what "
                "this run has paid for there is not looked up, and may be paid for again elsewhere",
                RouteWarning,
                stacklevel=2,
            )

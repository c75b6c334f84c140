"""The resources of a route as they are now: who can run a call, who is online, who comes first.

::

    route ──opened()──► candidates that answer, with what each expects (broker/outlook.py)
            fitted()    those that can run the call, with its PUBs as they can run them
            ranked()    the best first, as the route prefers
"""

import dataclasses
import logging
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import environment, slot
from hybridflow.broker.base import Connection
from hybridflow.broker.estimate import work_of
from hybridflow.broker.outlook import Outlook
from hybridflow.broker.pending import copy_of
from hybridflow.errors import RequestError, ResourceError, SiteError
from hybridflow.primitives.asked import Asked, Pubs
from hybridflow.primitives.isa import qiskit_target
from hybridflow.primitives.merit import log_fidelity
from hybridflow.records import Description, PackedPub, Primitive, Request
from hybridflow.route import Preference, Route

__all__ = ["Candidate", "asked_again", "fitted", "obstacle", "opened", "ranked"]

_log = logging.getLogger(__name__)
_ABSENT_SECONDS = 5.0
_absent: dict[tuple[str, str], tuple[float, ResourceError]] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A resource of a route that answers.

    Attributes
    ----------
    name
        Its name.
    connection, description
        The way to it, and what it can do.
    outlook
        What it expected when it was last asked.
    pubs
        The call's PUBs as it can run them.
    """

    name: str
    connection: Connection
    description: Description
    outlook: Outlook
    pubs: Pubs = ()


def opened(route: Route) -> tuple[list[Candidate], dict[str, ResourceError]]:
    """Return the resources of a route that answer, in its order, and why the others do not.

    One that could not be had is not asked again for some seconds.

    Raises
    ------
    SiteError
        If QPUs and simulators stand side by side in the route.
    """
    found: list[Candidate] = []
    absent: dict[str, ResourceError] = {}
    for name in route.resources:
        try:
            found.append(_open(name, route.name))
        except ResourceError as error:
            absent[name] = error
    _refuse_mixture(route, found)
    return found, absent


def _open(name: str, route: str) -> Candidate:
    place = os.environ.get(environment.BROKER, ""), name
    until, known = _absent.get(place, (-math.inf, None))
    if known is not None and time.monotonic() < until:
        raise copy_of(known)
    try:
        connection = slot.connect(name)
        outlook = connection.outlook()  # a broker that is gone is found out sooner than below
        description = connection.describe()
    except ResourceError as error:
        _log.warning("the route %r does without %r: %s", route, name, error)
        _absent[place] = time.monotonic() + _ABSENT_SECONDS, error
        raise
    return Candidate(name=name, connection=connection, description=description, outlook=outlook)


def asked_again(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return those that still answer, with what they expect now."""
    found = []
    for each in candidates:
        try:
            found.append(dataclasses.replace(each, outlook=each.connection.outlook()))
        except ResourceError as error:
            _log.warning("%r does not answer any more: %s", each.name, error)
    return found


def _refuse_mixture(route: Route, found: Iterable[Candidate]) -> None:
    kinds = {
        each.description.capabilities.simulator: each.name
        for each in found
        if each.name in route.any_of
    }
    if len(kinds) > 1:
        raise SiteError(
            f"the route {route.name!r} would mix samples of a QPU ({kinds[False]!r}) and of a "
            f"simulator ({kinds[True]!r}) without saying so: leave the simulator out of its "
            "`any_of`, and name it in `fall_back`"
        )


def fitted(
    asked: Asked, found: Iterable[Candidate]
) -> tuple[list[Candidate], dict[str, RequestError]]:
    """Return those that can run a call, with its PUBs, and why the others cannot."""
    able: list[Candidate] = []
    unable: dict[str, RequestError] = {}
    for each in found:
        try:
            able.append(dataclasses.replace(each, pubs=asked.fitted(each.description)))
        except RequestError as error:
            unable[each.name] = error
    return able, unable


def obstacle(candidate: Candidate, route: Route) -> str:
    """Return why a resource cannot have a request now; empty if it can."""
    outlook = candidate.outlook
    if not outlook.online:
        return "it is offline, or takes no vendor jobs for now"
    if route.max_wait is not None and outlook.wait_seconds > route.max_wait:
        return f"the wait is {outlook.wait_seconds:.3g} s, the limit {route.max_wait:g} s"
    return ""


def ranked(prefer: Preference, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates, the best first; equal ones stay in the order of the route."""
    match prefer:
        case "order":
            return list(candidates)
        case "shortest_wait":
            return sorted(candidates, key=lambda one: one.outlook.seconds(_work(one)))
        case "calibration":
            return sorted(candidates, key=_merit, reverse=True)


def _work(candidate: Candidate) -> float:
    # What is to be packed for a broker is not packed to be weighed.
    pubs = tuple(map(_size, candidate.pubs))
    request = Request(id="", primitive=Primitive.SAMPLER, pubs=pubs)
    return work_of(request, candidate.description.capabilities)


def _size(pub: SamplerPub | EstimatorPub) -> PackedPub:
    if isinstance(pub, SamplerPub):
        return PackedPub(circuit=b"", circuits=pub.size, shots=pub.shots)
    return PackedPub(circuit=b"", circuits=pub.size, precision=pub.precision)


def _merit(candidate: Candidate) -> float:
    target = qiskit_target(candidate.description.target)
    return sum(log_fidelity(pub.circuit, target) for pub in candidate.pubs)

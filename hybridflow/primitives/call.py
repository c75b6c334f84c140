"""What the primitives do with coerced PUBs: admit, send, hand out the job."""

from collections.abc import Mapping, Sequence
from typing import Any

from hybridflow import slot
from hybridflow.broker.base import Connection, Ticket
from hybridflow.primitives.asked import Asked, Pubs
from hybridflow.primitives.job import EndedTicket, Job
from hybridflow.primitives.routing import RoutedTicket
from hybridflow.records import Description, Primitive, Provenance, Reply, Request

__all__ = ["call", "send"]


def call(
    primitive: Primitive,
    pubs: Pubs,
    *,
    resource: str | None,
    seed: int | None,
    options: Mapping[str, Any],
    transpile: bool,
    key: str | None = None,
    priority: int = 0,
) -> Job:
    """Send one request and return its job, without waiting for the result.

    Raises
    ------
    NoSlotError
        If there is no slot where one is needed.
    RequestError
        If the request cannot be run; nothing was sent.
    BrokerLostError
        If the broker cannot be reached.
    ResourceError
        If none of a route's resources can be reached.
    """
    asked = Asked(
        primitive=primitive,
        pubs=pubs,
        seed=seed,
        options=options,
        transpile=transpile,
        key=key,
        priority=priority,
    )
    return Job(_send(asked, resource), primitive, [pub.circuit.metadata for pub in pubs])


def _send(asked: Asked, resource: str | None) -> Ticket:
    # Found anew in each call: a primitive that was pickled or forked holds no connection.
    route = slot.route_here(resource)
    if route is not None and asked.pubs:
        return RoutedTicket(route, asked)
    connection = slot.connect(route.resources[0] if route else resource)
    description = connection.describe()
    return _submitted(
        connection, description, asked.request(asked.fitted(description), description)
    )


def send(
    connection: Connection,
    description: Description,
    request: Request,
    metadata: Sequence[Mapping[str, Any] | None],
) -> Job:
    """Send a request that was admitted and return its job; each PUB's metadata stays here."""
    return Job(_submitted(connection, description, request), request.primitive, metadata)


def _submitted(connection: Connection, description: Description, request: Request) -> Ticket:
    return connection.submit(request) if request.pubs else _nothing(request, description)


def _nothing(request: Request, description: Description) -> EndedTicket:
    # A call without PUBs has an empty result, as with Qiskit's primitives: no vendor job is paid.
    origin = Provenance(
        resource=description.resource,
        backend=description.backend,
        simulator=description.capabilities.simulator,
        vendor_job_id="",
        batch_requests=0,
        batch_pubs=0,
        queue_seconds=0.0,
        run_seconds=0.0,
        qpu_seconds=0.0,
        calibration=description.target.calibration,
    )
    return EndedTicket(request.id, Reply(results=(), provenance=origin))

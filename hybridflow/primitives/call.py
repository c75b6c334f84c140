"""What both primitives do with coerced PUBs: admit, send, hand out the job."""

from collections.abc import Mapping, Sequence
from typing import Any

from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import slot
from hybridflow.primitives.admission import admit, check_call
from hybridflow.primitives.isa import qiskit_target
from hybridflow.primitives.job import EndedTicket, Job
from hybridflow.primitives.request import make_request
from hybridflow.primitives.transpiling import isa_pubs
from hybridflow.records import Description, Primitive, Provenance, Reply, Request

__all__ = ["call"]


def call(
    primitive: Primitive,
    pubs: Sequence[SamplerPub] | Sequence[EstimatorPub],
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
    """
    # Found anew in each call: a primitive that was pickled or forked holds no connection.
    connection = slot.connect(resource)
    description = connection.describe()
    check_call(primitive, options, seed, description)
    if transpile:
        pubs = isa_pubs(pubs, description)
    admit(pubs, description, qiskit_target(description.target))
    request = make_request(
        primitive,
        pubs,
        seed,
        options,
        key,
        priority,
        late_binding=description.capabilities.late_binding,
        readable=description.capabilities.qpy,
    )
    ticket = connection.submit(request) if pubs else _nothing(request, description)
    return Job(ticket, primitive, [pub.circuit.metadata for pub in pubs])


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

"""Which requests a resource takes, and which of them may share a vendor job. Pure functions.

What can be refused without asking the QPU is refused here, before a request waits.
"""

import functools
import math
from collections.abc import Hashable

import msgspec

from hybridflow.broker.entry import request_bytes
from hybridflow.errors import RequestError, TooLargeError
from hybridflow.records import (
    Capabilities,
    PackedPub,
    Primitive,
    Request,
    Resource,
)

__all__ = ["check", "compatibility"]

_canonical = msgspec.msgpack.Encoder(order="deterministic")


def check(request: Request, resource: Resource, capabilities: Capabilities) -> None:
    """Refuse a request that the resource cannot run.

    Raises
    ------
    RequestError
        If the primitive, an option or a PUB is not one that the resource understands.
    TooLargeError
        If it has too many PUBs, bytes or shots.
    """
    name = resource.name
    if request.primitive not in capabilities.primitives:
        offered = ", ".join(capabilities.primitives)
        raise RequestError(
            f"the resource {name!r} runs no {request.primitive}; it runs: {offered}", resource=name
        )
    allowed = capabilities.options.get(request.primitive, ())
    for option in request.options:
        if option not in allowed:
            raise RequestError(
                f"the resource {name!r} knows no option {option!r} of a {request.primitive}; "
                f"it knows: {', '.join(allowed) or 'none'}",
                resource=name,
            )
    if not request.pubs:
        raise RequestError(f"the request {request.id} has no PUBs", resource=name)
    if capabilities.max_pubs is not None and len(request.pubs) > capabilities.max_pubs:
        raise TooLargeError(
            f"the request has {len(request.pubs)} PUBs, a vendor job of {name!r} holds "
            f"{capabilities.max_pubs}: split it into several requests",
            resource=name,
        )
    size = request_bytes(request)
    if capabilities.max_bytes is not None and size > capabilities.max_bytes:
        raise TooLargeError(
            f"the request has {size:,} bytes, a vendor job of {name!r} holds "
            f"{capabilities.max_bytes:,}: split it into several requests",
            resource=name,
        )
    samples = request.primitive is not Primitive.ESTIMATOR
    check_pub = _check_sampler if samples else _check_estimator
    for index, pub in enumerate(request.pubs):
        if pub.circuits < 1:
            raise RequestError(f"PUB {index} has no circuit to run", resource=name)
        check_pub(pub, f"PUB {index}", name, capabilities)


def _check_sampler(pub: PackedPub, where: str, name: str, capabilities: Capabilities) -> None:
    if pub.shots is None or pub.shots < 1:
        raise RequestError(
            f"{where} asks for {pub.shots} shots; it needs at least 1", resource=name
        )
    if capabilities.max_shots is not None and pub.shots > capabilities.max_shots:
        raise TooLargeError(
            f"{where} asks for {pub.shots:,} shots, the resource {name!r} allows "
            f"{capabilities.max_shots:,}",
            resource=name,
        )


def _check_estimator(pub: PackedPub, where: str, name: str, capabilities: Capabilities) -> None:
    if pub.observables is None:
        raise RequestError(f"{where} has no observables", resource=name)
    if pub.precision is None or not 0 <= pub.precision < math.inf:
        raise RequestError(
            f"{where} asks for precision {pub.precision}; it needs a positive number", resource=name
        )
    if pub.precision == 0 and not capabilities.exact:
        raise RequestError(
            f"{where} asks for precision 0, but the resource {name!r} samples: ask for a positive "
            "precision",
            resource=name,
        )


def compatibility(request: Request, capabilities: Capabilities) -> Hashable:
    """Return a key: requests of equal keys may share a vendor job; None: it stands alone.

    A request with a seed does where the backend cannot promise that it gives the same
    counts wherever it stands.

    Raises
    ------
    RequestError
        If the options hold something that is no plain value.
    """
    seeded = any(pub.seed is not None for pub in request.pubs)
    if seeded and not capabilities.seeds:
        return None
    try:
        return _group(request.primitive, _canonical.encode(request.options))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RequestError(
            f"the options of request {request.id} are not plain values: {error}"
        ) from error


@functools.lru_cache(maxsize=1024)
def _group(primitive: Primitive, options: bytes) -> Hashable:
    # One object for all requests that wait, which may be many.
    return primitive, options

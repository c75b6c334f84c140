"""What makes two requests the same: a digest of all that decides what they give."""

import hashlib
from collections.abc import Iterator

import msgspec

from hybridflow.records import PackedPub, Request, Resource

__all__ = ["digest", "form_of"]

_encoder = msgspec.msgpack.Encoder(order="deterministic")


def form_of(resource: Resource) -> bytes:
    """Return what of a resource decides what its results are: also its backend's options."""
    return _encoder.encode((resource.name, resource.backend, resource.options))


def digest(request: Request, resource: bytes) -> bytes:
    """Return the digest of a request's content: equal for equal requests, in every process.

    `resource` is the :func:`form_of` the resource that it is for.

    Who asks does not count. A circuit counts by its structure; one without a structure by the
    bytes that were sent, which are the same again only for the same circuit object or a copy of it.
    Where the request has a key, that stands for its circuits and their values.
    """
    whole = hashlib.blake2b(digest_size=16)
    head = (request.primitive, request.options, request.key)
    contents = () if request.key is not None else _contents(request.pubs)
    for part in (resource, _encoder.encode(head), *map(_form, request.pubs), *contents):
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.digest()


def _form(pub: PackedPub) -> bytes:
    return _encoder.encode((pub.shots, pub.precision, pub.seed, pub.circuits))


def _contents(pubs: tuple[PackedPub, ...]) -> Iterator[bytes]:
    for pub in pubs:
        yield b"structure" if pub.structure else b"circuit"
        yield pub.structure or pub.circuit
        yield pub.parameters or b""
        yield pub.observables or b""

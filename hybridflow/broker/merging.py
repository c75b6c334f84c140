"""From requests to one batch, and from its results back to each request's. Pure functions.

::

    requests      a: [p(1)]     b: [q, p(2)]      c: [p(3)]     p(n): one circuit with other values
    batch         [p(1, 2, 3), q]
    cuts          a: (0, row 0) b: (1), (0, row 1)  c: (0, row 2)

PUBs of one circuit with equal shots, options and observables, and other parameter values, become
one PUB with an array of values: one compilation, one upload. So do circuits that differ in their
gates' angles only, where the backend says that it makes no difference: the angles that differ
become parameters. A PUB with a seed stands alone, since what it gives depends on its place in an
array.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from hybridflow.angles import numbers_of
from hybridflow.errors import InternalError, RequestError
from hybridflow.records import Batch, PackedPub, PackedResult, Record, Request
from hybridflow.wire import array_from_bytes, array_to_bytes

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["Cut", "Part", "merge", "split"]

_NPY = b"\x93NUMPY\x01"


class Part(Record, frozen=True, kw_only=True):
    """Where a PUB of a request stands in a batch; `row` is None where it was not merged."""

    pub: int
    row: int | None = None


class Cut(Record, frozen=True, kw_only=True):
    """A request's part of a batch: a :class:`Part` a PUB, and its share of the cost."""

    parts: tuple[Part, ...]
    share: float


def merge(
    requests: Sequence[Request], weights: Sequence[float], *, late_binding: bool = False
) -> tuple[Batch, tuple[Cut, ...]]:
    """Return compatible requests as one batch, and each request's part of it.

    Parameters
    ----------
    requests
        The requests.
    weights
        What each of them costs, in any unit; the shares of all are 1 in sum.
    late_binding
        Whether an angle may come as a parameter's value instead.
    """
    pubs = [pub for request in requests for pub in request.pubs]
    merged: list[PackedPub] = []
    parts: list[Part] = [Part(pub=0)] * len(pubs)
    for members in _alike(pubs, late_binding):
        whole = _stacked([pubs[place] for place in members])
        for row, place in enumerate(members):
            if whole is None or len(members) == 1:
                parts[place] = Part(pub=len(merged))
                merged.append(pubs[place])
            else:
                parts[place] = Part(pub=len(merged), row=row)
        if whole is not None and len(members) > 1:
            merged.append(whole)
    batch = Batch(primitive=requests[0].primitive, pubs=tuple(merged), options=requests[0].options)
    return batch, tuple(_cuts(requests, parts, weights))


def _alike(pubs: Sequence[PackedPub], late_binding: bool) -> Iterable[list[int]]:
    # The places of PUBs that can be one, in the order of the first of each.
    found: dict[Hashable, list[int]] = {}
    for place, pub in enumerate(pubs):
        kind = _kind(pub)
        if kind is None and late_binding:
            kind = _bound_kind(pub)
        found.setdefault(place if kind is None else kind, []).append(place)
    return found.values()


def _kind(pub: PackedPub) -> Hashable | None:
    # Equal for PUBs that differ in their parameters' values only.
    values = pub.parameters
    if pub.seed is not None or values is None or not values.startswith(_NPY):
        return None
    begin = 10 + int.from_bytes(values[8:10], "little")
    shape = values[:begin]  # and type: the whole header of the array
    circuit = pub.structure or pub.circuit
    return circuit, shape, len(values), pub.observables, pub.shots, pub.precision, pub.circuits


def _bound_kind(pub: PackedPub) -> Hashable | None:
    # Equal for PUBs whose circuits differ in their angles only.
    if pub.seed is not None or pub.parameters is not None or pub.skeleton is None:
        return None
    return pub.skeleton, pub.observables, pub.shots, pub.precision, pub.circuits


def _stacked(pubs: Sequence[PackedPub]) -> PackedPub | None:
    # None: they cannot be one. What somebody sent is no array (it fails alone, at the backend), or
    # it is the same bound circuit, time and again.
    if len(pubs) == 1:
        return pubs[0]
    if pubs[0].parameters is None:
        return _with_angles_open(pubs)
    try:
        return _with_values(pubs[0], [array_from_bytes(pub.parameters or b"") for pub in pubs])
    except RequestError:
        return None


def _with_angles_open(pubs: Sequence[PackedPub]) -> PackedPub | None:
    import numpy as np

    numbers = [numbers_of(pub.circuit) for pub in pubs]
    if len(set(map(len, numbers))) > 1:
        return None  # somebody's circuits are not what they say
    bits = np.stack(numbers).view(np.uint64)
    angles = np.flatnonzero((bits != bits[0]).any(axis=0))
    if not len(angles):
        return None
    whole = _with_values(pubs[0], [values[angles] for values in numbers])
    return msgspec.structs.replace(whole, angles=tuple(angles.tolist()), structure=None)


def _with_values(first: PackedPub, arrays: "Sequence[Array]") -> PackedPub:
    import numpy as np

    padding = max(0, _depth(first.observables) - (arrays[0].ndim - 1))
    stacked = np.stack(arrays)
    shape = (len(arrays), *[1] * padding, *stacked.shape[1:])
    return msgspec.structs.replace(
        first,
        parameters=array_to_bytes(stacked.reshape(shape)),
        circuits=len(arrays) * first.circuits,
    )


def _depth(observables: bytes | None) -> int:
    # Dimensions of an array of observables, which broadcasts with the values: the new axis has to
    # stand in front of them all.
    depth = 0
    nested = msgspec.json.decode(observables) if observables else None
    while isinstance(nested, list) and nested:
        depth, nested = depth + 1, nested[0]
    return depth


def _cuts(
    requests: Sequence[Request], parts: Sequence[Part], weights: Sequence[float]
) -> Iterable[Cut]:
    total = math.fsum(weights)
    begin = 0
    for request, weight in zip(requests, weights, strict=True):
        end = begin + len(request.pubs)
        yield Cut(parts=tuple(parts[begin:end]), share=weight / total)
        begin = end


def split(cuts: Sequence[Cut], results: Sequence[PackedResult]) -> list[tuple[PackedResult, ...]]:
    """Return each request's part of a batch's results.

    Raises
    ------
    InternalError
        If these are not the results of that batch.
    """
    rows: dict[int, int] = {}
    pubs = 0
    for part in (part for cut in cuts for part in cut.parts):
        pubs = max(pubs, part.pub + 1)
        if part.row is not None:
            rows[part.pub] = max(rows.get(part.pub, 0), part.row + 1)
    if len(results) != pubs:
        raise InternalError(f"{len(results)} results for {pubs} PUBs")
    opened = {pub: _rows(results[pub], count) for pub, count in rows.items()}
    return [
        tuple(
            results[part.pub] if part.row is None else opened[part.pub][part.row]
            for part in cut.parts
        )
        for cut in cuts
    ]


def _rows(result: PackedResult, count: int) -> list[PackedResult]:
    arrays = {name: array_from_bytes(data) for name, data in result.arrays.items()}
    lengths = {array.shape[:1] for array in arrays.values()} | {result.shape[:1]}
    if lengths != {(count,)}:
        raise InternalError(f"a result of shape {result.shape} for {count} sets of values")
    return [
        PackedResult(
            arrays={name: array_to_bytes(array[row]) for name, array in arrays.items()},
            bits=result.bits,
            shape=result.shape[1:],
            metadata=result.metadata,
        )
        for row in range(count)
    ]

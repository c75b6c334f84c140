"""One call of a primitive as one request to a broker: PUBs packed, seeds derived, who asks."""

import functools
import math
import operator
import os
import pwd
import socket
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import environment
from hybridflow.errors import RequestError, SiteError
from hybridflow.kernel import process_born, process_namespace
from hybridflow.primitives.structure import skeleton, structure
from hybridflow.records import ClientInfo, PackedPub, Primitive, Request
from hybridflow.tasks import current_attempt
from hybridflow.wire import pack_pubs

__all__ = ["checked_priority", "checked_seed", "make_request", "request_of", "seeds_of"]


def checked_seed(seed: int | None) -> int | None:
    """Return a primitive's seed as a plain integer.

    Raises
    ------
    RequestError
        If it is no integer, or negative.
    """
    if seed is None:
        return None
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0 or isinstance(seed, bool):
        raise RequestError(f"a seed must be an integer of at least 0, or None, not {seed!r}")
    return number


def checked_priority(priority: int) -> int:
    """Return a primitive's priority as a plain integer.

    Raises
    ------
    RequestError
        If it is no integer from -10 to 10.
    """
    try:
        number = operator.index(priority)
    except TypeError:
        number = 11
    if not -10 <= number <= 10:
        raise RequestError(f"a priority must be an integer from -10 to 10, not {priority!r}")
    return number


def make_request(
    primitive: Primitive,
    pubs: Sequence[SamplerPub] | Sequence[EstimatorPub],
    seed: int | None,
    options: Mapping[str, Any],
    key: str | None = None,
    priority: int = 0,
    *,
    late_binding: bool = False,
    readable: int | None = None,
) -> Request:
    """Pack PUBs that were admitted, in a version of QPY up to `readable`.

    With `late_binding`, circuits that differ in their gates' angles only can be told, to be merged.

    Raises
    ------
    RequestError
        If parameter names do not fit a circuit, or a circuit cannot be written as QPY.
    """
    try:
        merges = skeleton if late_binding and seed is None else None
        packed = pack_pubs(pubs, seeds_of(seed, len(pubs)), structure, merges, readable)
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"a PUB's values do not fit its circuit: {error}") from error
    return request_of(primitive, packed, options, key, priority)


def request_of(
    primitive: Primitive,
    packed: tuple[PackedPub, ...],
    options: Mapping[str, Any],
    key: str | None,
    priority: int,
) -> Request:
    """Return packed PUBs as a new request of this process."""
    return Request(
        id=uuid.uuid4().hex,
        primitive=primitive,
        pubs=packed,
        options=dict(options),
        client=_client(),
        key=key,
        priority=priority,
    )


def seeds_of(seed: int | None, count: int) -> list[int | None]:
    """Return a seed a PUB, from its place: two equal PUBs of one call are two samples."""
    if seed is None:
        return [None] * count
    return [_derived(seed, place) for place in range(count)]


def _derived(seed: int, place: int) -> int:
    words = np.random.SeedSequence(seed, spawn_key=(place,)).generate_state(1, np.uint64)
    return int(words[0]) >> 1  # 63 bits: fits every simulator's and msgpack's signed integers


def _client() -> ClientInfo:
    running = current_attempt()
    return ClientInfo(
        user=_user(os.getuid()),
        workflow=os.environ.get(environment.RUN, ""),
        task=running.task,
        attempt=running.attempt,
        engine_task=running.engine_task,
        host=socket.gethostname(),
        pid=os.getpid(),
        namespace=_namespace(os.getpid()),
        born=_born(os.getpid()),
        weight=_weight(os.environ.get(environment.WEIGHT, "")),
    )


@functools.cache
def _born(pid: int) -> int:
    return process_born(pid) or 0


@functools.cache
def _namespace(pid: int) -> int:
    return process_namespace()


@functools.cache
def _weight(text: str) -> float:
    try:
        weight = float(text or 1)
    except ValueError:
        weight = math.nan
    if not 1e-3 <= weight <= 1e3:
        raise SiteError(f"{environment.WEIGHT} is {text!r}; it must be a number, 0.001 to 1000")
    return weight


@functools.cache
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # containers run under uids that nobody has named
        return str(uid)

"""Batches and options as the package's primitives take them, and their results packed again."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from hybridflow import wire
from hybridflow.backends.ibm_json import results_of
from hybridflow.backends.ibm_runtime.package import runtime
from hybridflow.errors import RequestError, TooLargeError
from hybridflow.records import Batch, Capabilities, PackedResult, Primitive

if TYPE_CHECKING:
    from qiskit.primitives.containers.estimator_pub import EstimatorPub
    from qiskit.primitives.containers.sampler_pub import SamplerPub

__all__ = ["OPTIONS", "check_batch", "primitive", "read_results", "shots_of", "unpack_pubs"]

OPTIONS: dict[Primitive, tuple[str, ...]] = {
    Primitive.SAMPLER: ("dynamical_decoupling", "execution", "max_execution_time", "twirling"),
    Primitive.ESTIMATOR: (
        "dynamical_decoupling",
        "execution",
        "max_execution_time",
        "resilience",
        "resilience_level",
        "twirling",
    ),
}
"""Request options, with the names and values of the package's ``SamplerOptions`` and
``EstimatorOptions``. What decides shots, precision, seeds, tags or privacy is not among them.
"""


def check_batch(batch: Batch, can: Capabilities, resource: str) -> None:
    """Refuse what the device does not take, before it is asked.

    Raises
    ------
    RequestError
        If the batch is over a limit, asks for exact values, or has options that are not understood.
    """
    if batch.primitive not in can.primitives:
        raise RequestError(f"{resource} does not run the {batch.primitive} primitive")
    if can.max_pubs is not None and len(batch.pubs) > can.max_pubs:
        raise TooLargeError(
            f"{resource} takes {can.max_pubs} PUBs a vendor job, not {len(batch.pubs)}"
        )
    for pub in batch.pubs:
        if can.max_shots is not None and (pub.shots or 0) > can.max_shots:
            raise TooLargeError(f"{resource} takes {can.max_shots} shots a PUB, not {pub.shots}")
        if batch.primitive is Primitive.ESTIMATOR and not pub.precision:
            raise RequestError(f"{resource} cannot compute exact values: give a precision above 0")
    _check_options(batch)


def _check_options(batch: Batch) -> None:
    allowed = OPTIONS[batch.primitive]
    for name in batch.options:
        if name not in allowed:
            raise RequestError(
                f"the backend 'ibm_runtime' has no {batch.primitive} option {name!r}; "
                f"allowed are: {', '.join(allowed)}"
            )
    execution = batch.options.get("execution")
    if isinstance(execution, Mapping) and execution.get("meas_type", "classified") != "classified":
        raise RequestError("option `execution.meas_type`: only 'classified' gives bits")
    module = runtime("options")
    kind = module.SamplerOptions if _samples(batch) else module.EstimatorOptions
    try:
        kind(**batch.options)
    except ValueError as error:  # pydantic's: one line for each type that a value could have had
        raise RequestError(f"an option is wrong: {_first(error)}") from error


def _first(error: ValueError) -> str:
    details: list[dict[str, Any]] = getattr(error, "errors", list)()
    if not details:
        return str(error)
    # The last types of a place are what it takes; the first is a mark for "not given".
    told = next((one for one in details if "Unset" not in str(one["loc"])), details[0])
    place = ".".join(str(part) for part in told["loc"])
    return f"`{place}`: {told['msg']}"


def _samples(batch: Batch) -> bool:
    return batch.primitive is Primitive.SAMPLER


def primitive(batch: Batch, mode: Any, **more: Any) -> Any:
    """Return the package's primitive for a batch, in a session, in a batch of IBM's, or alone.

    Parameters
    ----------
    batch
        The batch.
    mode
        What its job runs in.
    **more
        Options of the package that are ours to set.
    """
    package = runtime()
    kind = package.SamplerV2 if _samples(batch) else package.EstimatorV2
    return kind(mode=mode, options={**batch.options, **more})


def unpack_pubs(batch: Batch) -> "list[SamplerPub | EstimatorPub]":
    """Return Qiskit's PUBs.

    Raises
    ------
    RequestError
        If one cannot be read.
    """
    return [wire.unpack_pub(pub, batch.primitive) for pub in batch.pubs]


def read_results(text: str, resource: str) -> tuple[PackedResult, ...]:
    """Return the results in what the service sent of a job.

    The service itself does not say in a sampler's result how many shots it has; it is counted.

    Raises
    ------
    ResourceError
        If it is no result of a primitive: transient, since it may have been cut on its way.
    """
    results, _ = results_of(text, None, resource=resource)
    return tuple(_with_shots(packed) for packed in results)


def _with_shots(packed: PackedResult) -> PackedResult:
    if not packed.bits:
        return packed
    array = wire.array_from_bytes(packed.arrays[next(iter(packed.bits))])
    metadata = {**msgspec.json.decode(packed.metadata), "shots": int(array.shape[-2])}
    return msgspec.structs.replace(packed, metadata=msgspec.json.encode(metadata))


def shots_of(results: Iterable[PackedResult]) -> int:
    """Return how many shots results are of; 0 for what does not say."""
    return sum(_shots(result) for result in results)


def _shots(result: PackedResult) -> int:
    shots = msgspec.json.decode(result.metadata).get("shots") or 0
    return int(shots) * math.prod(result.shape) if isinstance(shots, int | float) else 0

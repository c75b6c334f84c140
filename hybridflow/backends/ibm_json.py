"""IBM's JSON: PUBs as its service takes them, results as it sends them; from and to our records.

::

    client   PUBs ─── job_input ──► JSON ──► service ──► batch_of ── Batch      emulator
    client   PackedResult ◄── results_of ── JSON ◄────── result_text ◄───────── emulator

The format is that of qiskit-ibm-runtime's ``RuntimeEncoder`` (its ``json.py``), which writes and
reads it here, too; the fields around it are those of the schemas that IBM publishes in
``Qiskit/ibm-quantum-schemas`` (``sampler_v2``, ``estimator_v2``). Its decoder also makes objects of
classes that a text names: only texts of plain data are handed to it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from hybridflow import wire
from hybridflow.errors import RequestError, ResourceError
from hybridflow.extras import require
from hybridflow.records import Batch, PackedPub, PackedResult, Primitive

__all__ = ["batch_of", "job_input", "result_text", "results_of"]

_DATA = {
    "BindingsArray",
    "BitArray",
    "DataBin",
    "DoubleSliceSpan",
    "EstimatorPubResult",
    "ExecutionSpan",
    "ExecutionSpans",
    "ObservablesArray",
    "Parameter",
    "PrimitiveResult",
    "PubResult",
    "QuantumCircuit",
    "SamplerPubResult",
    "TwirledSliceSpan",
    "TwirledSliceSpanV2",
    "complex",
    "datetime",
    "ndarray",
    "set",
}
"""Types of IBM's JSON that are data and no more."""

_DEFAULT_SHOTS, _DEFAULT_PRECISION = 4096, 0.015625
_PROGRAMS = {primitive.value: primitive for primitive in Primitive}


class _ForeignTypeError(ValueError):
    """A text names a type that is not plain data."""


def _codec() -> Any:
    return require("qiskit_ibm_runtime", "runtime", "IBM's JSON")


def _checked(mapping: dict[str, Any]) -> dict[str, Any]:
    kind = mapping.get("__type__")
    if kind is not None and kind not in _DATA:
        raise _ForeignTypeError(f"it holds an object of the type {str(kind)[:80]!r}")
    return mapping


def _loads(text: str | bytes) -> Any:
    json.loads(text, object_hook=_checked)
    return json.loads(text, cls=_codec().RuntimeDecoder)


# --- the client's side ---------------------------------------------------------------------------


def job_input(pubs: Sequence[Any], options: Mapping[str, Any], resource: str) -> str:
    """Return a vendor job's input as JSON.

    Parameters
    ----------
    pubs
        Qiskit's ``SamplerPub`` or ``EstimatorPub``.
    options
        Of the primitive, as IBM's service has them.
    resource
        Name of the resource, for errors.

    Raises
    ------
    RequestError
        If it cannot be written.
    """
    content = {
        "pubs": pubs,
        "options": dict(options),
        "version": 2,
        "support_qiskit": True,
    }
    try:
        return json.dumps(content, cls=_codec().RuntimeEncoder)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"a request to {resource} cannot be written for IBM's service: {error}"
        ) from error


def results_of(
    text: str, count: int | None, *, resource: str
) -> tuple[tuple[PackedResult, ...], float | None]:
    """Return the results in a vendor job's output, and for how many seconds the device ran.

    The second is None where the output does not tell (``execution_spans``, sampler only).

    Parameters
    ----------
    text
        The output.
    count
        PUBs of the job; None: not known.
    resource
        Name of the resource, for errors.

    Raises
    ------
    ResourceError
        If it is not what a primitive sends: transient, since it may have been cut on its way.
    """
    from qiskit.primitives import PrimitiveResult

    try:
        decoded = _loads(text)
        if not isinstance(decoded, PrimitiveResult):
            raise TypeError(f"it is a {type(decoded).__name__}, no result of a primitive")
        if count is not None and len(decoded) != count:
            raise ValueError(f"it has {len(decoded)} results for {count} PUBs")
        return tuple(wire.pack_result(part) for part in decoded), _seconds(decoded.metadata)
    except Exception as error:  # a vendor's decoder can fail anywhere, and with anything
        raise ResourceError(
            f"the results that {resource} sent cannot be read ({type(error).__name__}: {error}); "
            f"they begin with {text[:80]!r}",
            transient=True,
            resource=resource,
        ) from error


def _seconds(metadata: Mapping[str, Any]) -> float | None:
    spans = (metadata.get("execution") or {}).get("execution_spans")
    return None if spans is None else float(spans.duration)


# --- the service's side --------------------------------------------------------------------------


def batch_of(program: object, text: str | bytes) -> Batch:
    """Return the batch in a job's input.

    Parameters
    ----------
    program
        Which primitive it is for, as the job says.
    text
        The input: JSON.

    Raises
    ------
    RequestError
        If it is no input of a primitive.
    """
    primitive = _PROGRAMS.get(str(program))
    if primitive is None:
        raise RequestError(f"there is no program {program!r}; there is: {', '.join(_PROGRAMS)}")
    try:
        params = _loads(text)
        packed = tuple(_packed(pub, primitive, params) for pub in params["pubs"])
    except RequestError:
        raise
    except Exception as error:  # Qiskit's and IBM's decoders fail anywhere, and with anything
        raise RequestError(
            f"the input of the program {program!r} cannot be read ({type(error).__name__}: {error})"
        ) from error
    return Batch(primitive=primitive, pubs=packed)


def _packed(pub: Any, primitive: Primitive, params: Mapping[str, Any]) -> PackedPub:
    from qiskit.primitives.containers.estimator_pub import EstimatorPub
    from qiskit.primitives.containers.sampler_pub import SamplerPub

    circuit, *rest = (pub,) if isinstance(pub, str) else pub
    parts = (_circuit(circuit), *rest)
    options = params.get("options") or {}
    if primitive is Primitive.SAMPLER:
        shots = params.get("shots") or options.get("default_shots") or _DEFAULT_SHOTS
        coerced = SamplerPub.coerce(parts, shots)
    else:
        precision = params.get("precision") or options.get("default_precision")
        coerced = EstimatorPub.coerce(parts, precision or _DEFAULT_PRECISION)
    return wire.pack_pubs([coerced], [None])[0]


def _circuit(circuit: Any) -> Any:
    # As text it is OpenQASM 3, which is what the primitives of the `qrmi` wheel send.
    if not isinstance(circuit, str):
        return circuit
    from qiskit import qasm3

    return qasm3.loads(circuit)


def result_text(
    results: Sequence[PackedResult], primitive: Primitive, span: tuple[datetime, datetime]
) -> str:
    """Return a job's output as JSON.

    Parameters
    ----------
    results
        One a PUB.
    primitive
        What was asked for.
    span
        When the device executed it.
    """
    from qiskit.primitives import PrimitiveResult, PubResult, SamplerPubResult

    is_sampler = primitive is Primitive.SAMPLER
    kind = SamplerPubResult if is_sampler else PubResult
    parts = [kind(*wire.unpack_result(result)) for result in results]
    metadata: dict[str, Any] = {"version": 2}
    if is_sampler:
        metadata["execution"] = {"execution_spans": _spans(parts, span)}
    result = PrimitiveResult(parts, metadata=metadata)
    return json.dumps(result, cls=_codec().RuntimeEncoder)


def _spans(parts: Sequence[Any], span: tuple[datetime, datetime]) -> Any:
    from qiskit_ibm_runtime.execution_span import ExecutionSpans, SliceSpan

    begun, ended = span
    shapes = {}
    for number, part in enumerate(parts):
        shots = max((bits.num_shots for bits in part.data.values()), default=0)
        shape = (*part.data.shape, shots)
        shapes[number] = shape, slice(0, math.prod(shape))
    return ExecutionSpans([SliceSpan(begun, ended, shapes)])

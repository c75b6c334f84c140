"""Qiskit's objects as bytes, and back: QPY for circuits, ``.npy`` for arrays, msgpack around them.

Nothing here is pickled: what arrives from another process can be wrong, but it cannot run code.
The records that are packed stand in ``records.py``; a broker passes them on without opening them.
"""

import copy
import functools
import io
import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from hybridflow.angles import opened
from hybridflow.errors import RequestError
from hybridflow.npy import array_from_bytes, array_to_bytes
from hybridflow.records import PackedPub, PackedResult, Primitive

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.primitives import DataBin, PubResult
    from qiskit.primitives.containers.estimator_pub import EstimatorPub
    from qiskit.primitives.containers.sampler_pub import SamplerPub

__all__ = [
    "OLDEST_QPY",
    "array_from_bytes",
    "array_to_bytes",
    "circuit_from_qpy",
    "circuit_of",
    "circuit_to_qpy",
    "decode",
    "encode",
    "pack_pubs",
    "pack_result",
    "qpy_version",
    "unpack_pub",
    "unpack_result",
]

OLDEST_QPY = 13
"""Oldest version of QPY that is sent: what no Qiskit 2 writes is not sent to anybody."""

_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()


def encode(message: object) -> bytes:
    """Return a record, or a union of records, as msgpack."""
    return _encoder.encode(message)


@functools.cache
def _decoder(kind: Hashable) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(cast(Any, kind))


def decode(data: bytes | memoryview, kind: type[_T]) -> _T:
    """Return the record of type `kind` in `data`.

    Raises
    ------
    RequestError
        If the bytes are no such record; the message says which field is wrong.
    """
    try:
        return cast(_T, _decoder(cast(Hashable, kind)).decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"a message could not be read: {error}") from error


class _AnyMetadata(json.JSONEncoder):
    # A circuit's metadata is the user's and never leaves the user's process; it must not be able to
    # make the circuit unsendable.
    def default(self, o: object) -> str:
        return repr(o)


def circuit_to_qpy(circuit: "QuantumCircuit", readable: int | None = None) -> bytes:
    """Return a circuit as QPY.

    Parameters
    ----------
    circuit
        The circuit.
    readable
        Newest version of QPY that its reader knows; None: the reader has this Qiskit.

    Raises
    ------
    RequestError
        If the circuit holds something that QPY cannot express, or its reader is too old.
    """
    from qiskit import qpy
    from qiskit.exceptions import QiskitError

    buffer = io.BytesIO()
    version = qpy_version(readable)
    try:
        qpy.dump(circuit, buffer, metadata_serializer=_AnyMetadata, version=version)
    except (QiskitError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise RequestError(f"circuit {circuit.name!r} cannot be written as QPY: {error}") from error
    return buffer.getvalue()


def qpy_version(readable: int | None) -> int:
    """Return the newest version of QPY that this Qiskit writes and a reader knows.

    Raises
    ------
    RequestError
        If there is none.
    """
    import qiskit
    from qiskit import qpy

    if readable is None:
        return int(qpy.QPY_VERSION)
    version = min(readable, int(qpy.QPY_VERSION))
    oldest = max(OLDEST_QPY, int(qpy.QPY_COMPATIBILITY_VERSION))
    if version < oldest:
        raise RequestError(
            f"circuits cannot be sent there: its Qiskit reads QPY up to version {readable}, and "
            f"Qiskit {qiskit.__version__} here writes {oldest} to {qpy.QPY_VERSION}; install a "
            "newer Qiskit there"
        )
    return version


@functools.lru_cache(maxsize=512)
def _load_qpy(data: bytes) -> "QuantumCircuit":
    from qiskit import qpy

    circuits = qpy.load(io.BytesIO(data))
    if len(circuits) != 1:
        raise RequestError(f"one circuit was expected in a QPY message, not {len(circuits)}")
    return circuits[0]


def circuit_from_qpy(data: bytes) -> "QuantumCircuit":
    """Return the circuit in `data`. The object is shared between equal messages: do not change it.

    Raises
    ------
    RequestError
        If the bytes are not QPY that the installed Qiskit can read.
    """
    try:
        return _load_qpy(data)
    except RequestError:
        raise
    except Exception as error:  # a parser can fail anywhere, and with anything, on garbage
        raise RequestError(f"a circuit could not be read from QPY: {error!r}") from error


@functools.lru_cache(maxsize=64)
def _opened(qpy: bytes, angles: tuple[int, ...]) -> "tuple[QuantumCircuit, tuple[float, ...]]":
    return opened(circuit_from_qpy(qpy), angles)


def circuit_of(packed: PackedPub) -> "QuantumCircuit":
    """Return a PUB's circuit, whose parameters are what its values are for.

    The object is shared between equal PUBs: do not change it.

    Raises
    ------
    RequestError
        If it cannot be read, or its values are not for it.
    """
    if not packed.angles:
        return circuit_from_qpy(packed.circuit)
    circuit, first = _opened(packed.circuit, packed.angles)
    values = array_from_bytes(packed.parameters or b"").reshape(-1, len(first))
    if tuple(values[0]) != first:  # the circuit is that of the first row
        raise RequestError("the angles of a PUB are not those of its circuit")
    return circuit


def _untold(circuit: "QuantumCircuit", qpy: bytes) -> bytes | None:
    return None


def pack_pubs(
    pubs: "Iterable[SamplerPub | EstimatorPub]",
    seeds: Iterable[int | None],
    structure: "Callable[[QuantumCircuit, bytes], bytes | None]" = _untold,
    skeleton: "Callable[[QuantumCircuit, bytes], bytes | None] | None" = None,
    readable: int | None = None,
) -> tuple[PackedPub, ...]:
    """Pack coerced PUBs; a circuit that stands in several of them is written once.

    Parameters
    ----------
    pubs
        Qiskit's ``SamplerPub`` or ``EstimatorPub``.
    seeds
        A seed for each PUB, or None.
    structure
        Tells the structure of a circuit, given with its QPY.
    skeleton
        Tells what it has in common with circuits that differ in their gates' angles; None: nothing.
    readable
        Newest version of QPY that their reader knows; None: it has this Qiskit.
    """
    written: dict[int, tuple[bytes, bytes | None, bytes | None]] = {}
    packed = []
    for pub, seed in zip(pubs, seeds, strict=True):
        circuit = pub.circuit
        if id(circuit) not in written:
            qpy = circuit_to_qpy(_bare(circuit), readable)
            told = skeleton(circuit, qpy) if skeleton is not None else None
            written[id(circuit)] = qpy, structure(circuit, qpy), told
        packed.append(_pack_pub(pub, *written[id(circuit)], seed))
    return tuple(packed)


def _bare(circuit: "QuantumCircuit") -> "QuantumCircuit":
    # A layout is written in an order that changes, and nobody there needs it; metadata is the
    # user's own. A shallow copy: the instructions are shared.
    bare = copy.copy(circuit)
    bare._layout, bare.metadata = None, {}
    return bare


def _pack_pub(
    pub: "SamplerPub | EstimatorPub",
    qpy_data: bytes,
    structure: bytes | None,
    skeleton: bytes | None,
    seed: int | None,
) -> PackedPub:
    from qiskit.primitives.containers.estimator_pub import EstimatorPub

    parameters = None
    if pub.circuit.num_parameters or pub.parameter_values.shape:  # no parameters can have a shape
        parameters = array_to_bytes(pub.parameter_values.as_array(pub.circuit.parameters))
    size = max(1, pub.size)
    if isinstance(pub, EstimatorPub):
        observables = msgspec.json.encode(pub.observables.tolist())
        return PackedPub(
            circuit=qpy_data,
            parameters=parameters,
            observables=observables,
            precision=float(pub.precision),
            seed=seed,
            circuits=size,
            structure=structure,
            skeleton=skeleton,
        )
    return PackedPub(
        circuit=qpy_data,
        parameters=parameters,
        shots=int(pub.shots),
        seed=seed,
        circuits=size,
        structure=structure,
        skeleton=skeleton,
    )


def unpack_pub(packed: PackedPub, primitive: Primitive) -> "SamplerPub | EstimatorPub":
    """Return Qiskit's PUB.

    Raises
    ------
    RequestError
        If the message is damaged, or does not fit the primitive.
    """
    from qiskit.primitives.containers.bindings_array import BindingsArray
    from qiskit.primitives.containers.estimator_pub import EstimatorPub
    from qiskit.primitives.containers.observables_array import ObservablesArray
    from qiskit.primitives.containers.sampler_pub import SamplerPub

    if primitive is Primitive.ANALOG:
        raise RequestError("this PUB holds an analogue sequence, which is no circuit")
    circuit = circuit_of(packed)
    try:
        values = None
        if packed.parameters is not None:
            array = array_from_bytes(packed.parameters)
            values = BindingsArray({tuple(circuit.parameters): array}, shape=array.shape[:-1])
        if primitive is Primitive.SAMPLER:
            return SamplerPub(circuit, values, packed.shots)
        observables = ObservablesArray.coerce(msgspec.json.decode(packed.observables or b""))
        return EstimatorPub(circuit, observables, values, packed.precision)
    except (ValueError, TypeError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"a PUB could not be read: {error}") from error


def _plain(value: object) -> object:
    # numpy scalars and arrays in metadata; anything else becomes its text.
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def pack_result(result: "PubResult") -> PackedResult:
    """Pack Qiskit's ``PubResult``: bit arrays stay packed, eight bits a byte."""
    from qiskit.primitives import BitArray

    arrays: dict[str, bytes] = {}
    bits: dict[str, int] = {}
    for name, value in result.data.items():
        if isinstance(value, BitArray):
            bits[name] = value.num_bits
            arrays[name] = array_to_bytes(value.array)
        else:
            arrays[name] = array_to_bytes(value)
    metadata = {k: v for k, v in result.metadata.items() if k != "circuit_metadata"}
    return PackedResult(
        arrays=arrays,
        bits=bits,
        shape=tuple(int(n) for n in result.data.shape),
        metadata=msgspec.json.encode(metadata, enc_hook=_plain),
    )


def unpack_result(
    packed: PackedResult, circuit_metadata: Mapping[str, Any] | None = None
) -> "tuple[DataBin, dict[str, Any]]":
    """Return the data and the metadata of one PUB's result.

    Parameters
    ----------
    packed
        What a backend sent.
    circuit_metadata
        The circuit's own metadata, which never left this process: put back in its place.
    """
    from qiskit.primitives import DataBin

    from hybridflow.bit_array import CountedBitArray

    fields: dict[str, Any] = {}
    for name, data in packed.arrays.items():
        array = array_from_bytes(data)
        bits = packed.bits.get(name)
        fields[name] = array if bits is None else CountedBitArray(array, bits)
    metadata: dict[str, Any] = msgspec.json.decode(packed.metadata)
    metadata["circuit_metadata"] = circuit_metadata if circuit_metadata is not None else {}
    return DataBin(**fields, shape=packed.shape), metadata

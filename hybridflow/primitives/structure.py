"""What a circuit does, as a digest: equal in every process, whatever its parameters are worth.

Requests whose circuits have equal structure may be merged into one PUB, and are the same request
when they come again. It must cost little, since every call of a primitive needs it: it is taken
from the QPY bytes that are sent anyway, without what is the author's (name, metadata) or random
(the identities of parameters). Where QPY itself is not the same from one process to the next,
``digest.py`` looks at the circuit gate by gate, some ten times slower.
"""

import functools
import hashlib
import struct
from dataclasses import dataclass, field

from qiskit import QuantumCircuit
from qiskit.circuit import ParameterExpression
from qiskit.circuit.library import get_standard_gate_name_mapping

from hybridflow.angles import without_numbers
from hybridflow.primitives.digest import circuit_digest

__all__ = ["skeleton", "structure"]

_FILE = struct.Struct("!6sBBBBQcc")  # the beginning of all QPY since version 10
_TABLE = struct.Struct("!Q")  # where the circuit begins, since version 16
_HEADER = struct.Struct("!H1cHIIQIQI")  # of a circuit, since version 12
_VERSIONS = range(12, 19)
_NO_GATES = {"barrier", "unitary"}
_WITHOUT_ANGLES = {"delay"}  # its number is a time, which a device counts in steps
_MOST_STEPS = 2**24
_MOST_KEPT = 2**18
_IDENTITY_BYTES = 16


def structure(circuit: QuantumCircuit, qpy: bytes) -> bytes | None:
    """Return the digest of a circuit's structure.

    Two circuits with equal digests do the same, with parameters of the same names in the same
    order, and give results under the same names. The reverse is not promised: Qiskit's version
    counts, too. The layout of a transpiled circuit must not be in its QPY.

    Parameters
    ----------
    circuit
        The circuit.
    qpy
        The same circuit as QPY.

    Returns
    -------
    bytes or None
        None where it cannot be told exactly.
    """
    written = _Written(qpy, circuit)
    return _kept(written) if len(qpy) <= _MOST_KEPT else _told(written)


def skeleton(circuit: QuantumCircuit, qpy: bytes) -> bytes | None:
    """Return the digest of a circuit without its gates' angles and without its global phase.

    Two circuits with equal digests are one circuit with other angles. The numbers of both stand in
    their QPY in the same order (:func:`hybridflow.angles.numbers_of`).

    Parameters
    ----------
    circuit
        The circuit.
    qpy
        The same circuit as QPY.

    Returns
    -------
    bytes or None
        None for a circuit that has parameters or no angles, and where it cannot be told exactly.
    """
    if circuit.num_parameters or circuit.num_identifiers:
        return None
    if not circuit.count_ops().keys() <= _plain() - _WITHOUT_ANGLES:
        return None
    parts = _parts(circuit, qpy)
    bare = without_numbers(parts[2]) if parts else b""
    if parts is None or len(bare) == len(parts[2]):
        return None
    return _digest(b"skeleton", parts[0], bare)


@dataclass(frozen=True)
class _Written:
    qpy: bytes
    circuit: QuantumCircuit = field(compare=False)


def _told(written: _Written) -> bytes | None:
    circuit, qpy = written.circuit, written.qpy
    told = _without_author(circuit, qpy) if _is_steady(circuit, qpy) else None
    if told is None:
        return _slowly(circuit)
    for place, parameter in enumerate(circuit.parameters):
        told = told.replace(parameter.uuid.bytes, place.to_bytes(_IDENTITY_BYTES))
    return _digest(b"qpy", told)


# An ansatz comes again and again, and to look at its parameters takes longest.
_kept = functools.lru_cache(maxsize=128)(_told)


def _slowly(circuit: QuantumCircuit) -> bytes | None:
    told = circuit_digest(circuit, layout=False)
    names = [parameter.name for parameter in circuit.parameters]
    return None if told is None else _digest(b"gates", told, repr(names).encode())


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _is_steady(circuit: QuantumCircuit, qpy: bytes) -> bool:
    # QPY gives each use of a custom gate a random name, each block of control flow one that counts,
    # and it writes the parameters of an expression in the order of a set.
    if circuit.num_identifiers or not circuit.count_ops().keys() <= _plain():
        return False
    if circuit.num_parameters * len(qpy) > _MOST_STEPS:
        return False
    return not (circuit.num_parameters and _mixes_parameters(circuit))


@functools.cache
def _plain() -> frozenset[str]:
    return frozenset(_NO_GATES | get_standard_gate_name_mapping().keys())


def _mixes_parameters(circuit: QuantumCircuit) -> bool:
    values = [value for instruction in circuit.data for value in instruction.params]
    return any(
        isinstance(value, ParameterExpression) and len(value.parameters) > 1
        for value in (circuit.global_phase, *values)
    )


def _without_author(circuit: QuantumCircuit, qpy: bytes) -> bytes | None:
    parts = _parts(circuit, qpy)
    return b"".join(parts) if parts else None


def _parts(circuit: QuantumCircuit, qpy: bytes) -> tuple[bytes, bytes, bytes] | None:
    # Heads, global phase, and the rest; without what is the author's.
    version = qpy[6]
    if version not in _VERSIONS:
        return None
    begin = _FILE.size + (_TABLE.size if version >= 16 else 0)
    name_size, kind, phase_size, qubits, clbits, metadata_size, *counts = _HEADER.unpack_from(
        qpy, begin
    )
    name = begin + _HEADER.size
    phase = name + name_size
    metadata = phase + phase_size
    if qpy[name:phase] != circuit.name.encode():
        return None  # not the form that we know
    header = _HEADER.pack(0, kind, phase_size, qubits, clbits, 0, *counts)
    return qpy[: _FILE.size] + header, qpy[phase:metadata], qpy[metadata + metadata_size :]

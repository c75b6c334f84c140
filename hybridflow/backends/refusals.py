"""Refuses a batch that a device has declared it cannot run, before its vendor is asked.

For backends whose vendor would say so late, for money, or not at all.
"""

from collections.abc import Sequence
from typing import Any

from hybridflow.errors import RequestError, TooLargeError
from hybridflow.records import Batch, Capabilities, PackedPub

__all__ = ["refuse_undeclared"]


def refuse_undeclared(
    batch: Batch, pubs: Sequence[Any], capabilities: Capabilities, resource: str
) -> None:
    """Check a batch against what its backend declares.

    Parameters
    ----------
    batch
        The batch.
    pubs
        Its PUBs, unpacked: Qiskit's ``SamplerPub`` or ``EstimatorPub``.
    capabilities
        What the backend declares.
    resource
        Name of the resource, for errors.

    Raises
    ------
    RequestError
        If an option, a seed or a precision of 0 is not for this backend.
    TooLargeError
        If a PUB, or their number, is over a limit.
    """
    allowed = capabilities.options.get(batch.primitive, ())
    for option in batch.options:
        if option not in allowed:
            raise RequestError(
                f"{resource} knows no option {option!r} of the {batch.primitive}; allowed are: "
                f"{', '.join(allowed) or 'none'}"
            )
    if capabilities.max_pubs is not None and len(pubs) > capabilities.max_pubs:
        raise TooLargeError(
            f"{resource} takes {capabilities.max_pubs} PUBs a vendor job, not {len(pubs)}"
        )
    for number, (packed, pub) in enumerate(zip(batch.pubs, pubs, strict=True)):
        _refuse_pub(f"PUB {number}", packed, pub.circuit.num_qubits, capabilities, resource)


def _refuse_pub(
    place: str, packed: PackedPub, qubits: int, capabilities: Capabilities, resource: str
) -> None:
    if packed.precision == 0 and not capabilities.exact:
        raise RequestError(
            f"{place}: {resource} has no exact expectation values: ask for a `precision` above 0"
        )
    if packed.seed is not None and not capabilities.seeds:
        raise RequestError(f"{place}: {resource} takes no seed")
    most = capabilities.num_qubits
    if most is not None and qubits > most:
        raise TooLargeError(f"{place}: its circuit has {qubits} qubits, {resource} has {most}")
    shots = capabilities.max_shots
    if shots is not None and (packed.shots or 0) > shots:
        raise TooLargeError(f"{place}: {resource} takes {shots} shots a PUB, not {packed.shots}")

"""What the user wrote as PUBs, coerced by Qiskit's own rules; what is wrong, with its place."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from qiskit import QuantumCircuit
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow.errors import CircuitError, RequestError

__all__ = ["estimator_pubs", "sampler_pubs"]

_Pub = TypeVar("_Pub", SamplerPub, EstimatorPub)

_NO_VALUES = "The number of values (0) does not match"  # what Qiskit's PUBs say


def sampler_pubs(pubs: Iterable[Any], shots: int) -> list[SamplerPub]:
    """Return the PUBs, with `shots` where a PUB names none.

    Raises
    ------
    CircuitError
        If a circuit has unbound parameters.
    RequestError
        If anything else is wrong; the message names the PUB.
    """
    return _coerced(pubs, lambda pub: SamplerPub.coerce(pub, shots))


def estimator_pubs(pubs: Iterable[Any], precision: float) -> list[EstimatorPub]:
    """Return the PUBs, with `precision` where a PUB names none. Raises as :func:`sampler_pubs`."""
    return _coerced(pubs, lambda pub: EstimatorPub.coerce(pub, precision))


def _coerced(pubs: Iterable[Any], coerce: Callable[[Any], _Pub]) -> list[_Pub]:
    if isinstance(pubs, QuantumCircuit):
        raise RequestError(
            "a primitive runs a list of PUBs: write run([circuit]), not run(circuit)"
        )
    return [_one(number, pub, coerce) for number, pub in enumerate(pubs)]


def _one(number: int, pub: Any, coerce: Callable[[Any], _Pub]) -> _Pub:
    try:
        return coerce(pub)
    except (ValueError, TypeError, AttributeError) as error:
        if str(error).startswith(_NO_VALUES):
            raise _unbound(number, pub if isinstance(pub, QuantumCircuit) else pub[0]) from error
        raise RequestError(f"PUB {number}: {error}") from error


def _unbound(number: int, circuit: QuantumCircuit) -> CircuitError:
    names = ", ".join(parameter.name for parameter in circuit.parameters)
    return CircuitError(
        f"PUB {number}: circuit {circuit.name!r} has unbound parameters: {names}; "
        "give their values in the PUB, or bind them"
    )

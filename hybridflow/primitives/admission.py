"""Refuses what cannot be run on a resource, before anything is sent to its broker.

Each function raises an error of :mod:`hybridflow.errors` that names the PUB, what is wrong with it
and what to do, or returns nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Clbit
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.transpiler import Target

from hybridflow import slot
from hybridflow.backends.factory import make_backend
from hybridflow.errors import CircuitError, HybridflowError, RequestError, TooLargeError
from hybridflow.primitives.isa import foreign_instructions, is_isa
from hybridflow.records import Description, Primitive, Resource

__all__ = ["admit", "check_call"]

_MOST_SHOTS = 2**63 - 1
"""What a request can carry as a number."""


def check_call(
    primitive: Primitive,
    options: Mapping[str, Any],
    seed: int | None,
    description: Description,
) -> None:
    """Check what holds for all PUBs of a call against what the backend can do."""
    can = description.capabilities
    where = f"resource {description.resource!r} (backend {description.backend!r})"
    if primitive not in can.primitives:
        offered = ", ".join(can.primitives)
        raise RequestError(
            f"{where} does not run the {primitive} primitive; it runs: {offered}. "
            f"{_others(primitive)}"
        )
    allowed = can.options.get(primitive, ())
    for name in options:
        if name not in allowed:
            raise RequestError(
                f"{where} has no {primitive} option {name!r}; "
                f"allowed are: {', '.join(allowed) or 'none'}"
            )
    if seed is not None and not can.seeds:
        raise RequestError(f"{where} cannot repeat samples from a seed; leave `seed` out")


def _others(primitive: Primitive) -> str:
    # Asked for only when a call has failed: a backend may have to import its vendor's package.
    site = slot.default_site()
    able = [name for name, found in site.resources.items() if _runs(found, primitive)]
    where = f"of site {site.name!r}"
    if not able:
        return f"No resource {where} does"
    return f"Resources {where} that do: {', '.join(able)}"


def _runs(resource: Resource, primitive: Primitive) -> bool:
    try:
        return primitive in make_backend(resource, {}).capabilities.primitives
    except HybridflowError:
        return False  # what cannot be used here (its package is missing, say) is no advice


def admit(
    pubs: Sequence[SamplerPub] | Sequence[EstimatorPub], description: Description, target: Target
) -> None:
    """Check the PUBs of one call."""
    limit = description.capabilities.max_pubs
    if limit is not None and len(pubs) > limit:
        raise TooLargeError(
            f"{len(pubs)} PUBs are over the limit of {limit} of resource {description.resource!r}; "
            "send them in several calls"
        )
    seen: set[int] = set()
    for number, pub in enumerate(pubs):
        if isinstance(pub, SamplerPub):
            _check_sampler_pub(number, pub, description)
        else:
            _check_estimator_pub(number, pub, description)
        _check_values(number, pub)
        if id(pub.circuit) not in seen:
            _check_width(number, pub.circuit, description)
            _check_isa(number, pub.circuit, target, description.resource)
            seen.add(id(pub.circuit))


def _check_width(number: int, circuit: QuantumCircuit, description: Description) -> None:
    bounds = (description.capabilities.num_qubits, description.target.num_qubits)
    limit = min((bound for bound in bounds if bound is not None), default=circuit.num_qubits)
    if circuit.num_qubits > limit:
        raise TooLargeError(
            f"PUB {number}: circuit {circuit.name!r} has {circuit.num_qubits} qubits; "
            f"resource {description.resource!r} has {limit}"
        )


def _check_sampler_pub(number: int, pub: SamplerPub, description: Description) -> None:
    limit = description.capabilities.max_shots or _MOST_SHOTS
    if pub.shots > limit:
        raise TooLargeError(
            f"PUB {number}: {pub.shots} shots are over the limit of {limit} of resource "
            f"{description.resource!r}; send several PUBs"
        )
    circuit = pub.circuit
    if not circuit.cregs:
        raise CircuitError(
            f"PUB {number}: circuit {circuit.name!r} has no classical register, so its result "
            "would be empty; add measurements, for example with measure_all()"
        )
    registered = {bit for register in circuit.cregs for bit in register}
    if registered.isdisjoint(_measured(circuit)):
        raise CircuitError(
            f"PUB {number}: circuit {circuit.name!r} measures nothing into a classical register, "
            "so its result would be all zeros; add measurements"
        )


def _measured(circuit: QuantumCircuit) -> Iterator[Clbit]:
    # The bits of `circuit` itself, also where blocks of control flow write them. Backwards:
    # measurements stand at the end of most circuits.
    for instruction in reversed(circuit.data):
        if instruction.name == "measure":
            yield instruction.clbits[0]
        elif instruction.is_control_flow():
            for block in instruction.operation.blocks:
                outer = dict(zip(block.clbits, instruction.clbits, strict=True))
                yield from (outer[bit] for bit in _measured(block))


def _check_estimator_pub(number: int, pub: EstimatorPub, description: Description) -> None:
    if not math.isfinite(pub.precision):
        raise RequestError(f"PUB {number}: the precision must be finite, not {pub.precision}")
    if pub.precision == 0 and not description.capabilities.exact:
        raise RequestError(
            f"PUB {number}: precision 0 asks for exact values, which resource "
            f"{description.resource!r} cannot compute; ask for a precision above 0"
        )


def _check_values(number: int, pub: SamplerPub | EstimatorPub) -> None:
    if pub.size == 0:
        raise RequestError(
            f"PUB {number}: its shape {pub.shape} is empty: there is nothing to run; leave it out"
        )
    for values in pub.parameter_values.data.values():
        if not np.all(np.isfinite(values)):
            raise RequestError(f"PUB {number}: all parameter values must be finite numbers")


def _check_isa(number: int, circuit: QuantumCircuit, target: Target, resource: str) -> None:
    if is_isa(circuit, target):
        return
    found = next(foreign_instructions(circuit, target), "an instruction")
    known = ", ".join(sorted(map(str, target.operation_names)))
    raise CircuitError(
        f"PUB {number}: circuit {circuit.name!r} is not in the instruction set (ISA) of resource "
        f"{resource!r}: {found}, cannot run there (what can: {known}); "
        "transpile it with hybridflow.transpile(circuit), or pass transpile=True to the primitive"
    )

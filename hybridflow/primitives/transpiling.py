"""Transpiling for a resource: from a snapshot of its target, without a slot, and cached on disk."""

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from qiskit import QuantumCircuit
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.transpiler import Target, generate_preset_pass_manager

from hybridflow import backends, slot
from hybridflow.errors import InputError, SiteError
from hybridflow.primitives.isa import is_isa, qiskit_target
from hybridflow.primitives.transpiler import DEFAULT_LEVEL, DEFAULT_SEED, Transpiler
from hybridflow.records import Description, TargetSnapshot
from hybridflow.route import Route
from hybridflow.site import Site, load_site
from hybridflow.targets import target_of

__all__ = ["isa_pubs", "target", "transpile"]

_Pub = TypeVar("_Pub", SamplerPub, EstimatorPub)

_TAKEN = {"optimization_level", "seed_transpiler", "target", "backend", "_skip_target"}


def target(
    resource: str | None = None, *, site: Site | str | os.PathLike[str] | None = None
) -> Target:
    """Return a resource's target: what it can execute, where, how fast and how well.

    Parameters
    ----------
    resource
        Name of the resource; the slot's, or the site's default one, if not given.
    site
        The site, or the path of its file. If not given: the broker's description in a slot, else
        the default site.

    Raises
    ------
    SiteError
        If the site has no such resource.
    AcquireError
        If the resource had to be asked and could not be.
    """
    _, snapshot = _snapshot(resource, site)
    return target_of(snapshot)


def transpile(
    circuits: QuantumCircuit | Iterable[QuantumCircuit],
    resource: str | None = None,
    *,
    optimization_level: int = DEFAULT_LEVEL,
    seed: int | None = DEFAULT_SEED,
    site: Site | str | os.PathLike[str] | None = None,
    **options: Any,
) -> QuantumCircuit | list[QuantumCircuit]:
    """Transpile circuits for a resource. No slot is needed.

    Results are kept on disk, in the user's cache directory, by circuit structure, target, options
    and Qiskit's version; circuits with control flow or classical variables are transpiled anew each
    time.

    Parameters
    ----------
    circuits
        A circuit, or several.
    resource
        Name of the resource; the slot's, or the site's default one, if not given.
    optimization_level
        0 (none) to 3 (most).
    seed
        Seed of the transpiler's random parts; fixed unless given, so that the same circuit gives
        the same result. None: random, and not cached.
    site
        The site, or the path of its file. If not given: the broker's description in a slot, else
        the default site.
    **options
        Other options of Qiskit's ``generate_preset_pass_manager``, such as ``initial_layout``.

    Returns
    -------
    QuantumCircuit or list
        The transpiled circuit, with the name and the metadata of the one given; a list of them if
        several were given.

    Raises
    ------
    CircuitError
        If a circuit cannot be transpiled for the target.
    TooLargeError
        If it has more qubits than the target.
    InputError
        If an option is wrong.
    SiteError
        If the site has no such resource.
    """
    _check_options(options)
    name, snapshot = _snapshot(resource, site)
    transpiler = Transpiler(name, snapshot, optimization_level, seed, options)
    if isinstance(circuits, QuantumCircuit):
        return transpiler.run(circuits)
    return [transpiler.run(circuit) for circuit in circuits]


def _check_options(options: Mapping[str, Any]) -> None:
    allowed = set(inspect.signature(generate_preset_pass_manager).parameters) - _TAKEN
    for name in options:
        if name not in allowed:
            raise InputError(
                f"transpile() has no option {name!r}; allowed are: optimization_level, seed, site, "
                f"{', '.join(sorted(allowed))}"
            )


def _snapshot(
    resource: str | None, site: Site | str | os.PathLike[str] | None
) -> tuple[str, TargetSnapshot]:
    if site is None:
        _refuse_route(slot.route_here(resource))
    here = slot.current_slot() if site is None else None
    if here is not None and (resource in (None, here.resource) or slot.is_here(resource)):
        description = slot.connect(resource).describe()
        return description.resource, description.target
    found = _site(site).resource(resource)
    return found.name, backends.target_snapshot(found)


def _refuse_route(route: Route | None) -> None:
    if route is not None:
        raise SiteError(
            f"{route.name!r} is a route, and each of its resources has a target of its own: name "
            f"one of {', '.join(route.resources)}, or leave it to the primitive (transpile=True)"
        )


def _site(site: Site | str | os.PathLike[str] | None) -> Site:
    if isinstance(site, Site):
        return site
    return slot.default_site() if site is None else load_site(site)


def isa_pubs(pubs: Sequence[_Pub], description: Description) -> list[_Pub]:
    """Return the PUBs with circuits that a broker's target can run; those that are so stay.

    Raises
    ------
    CircuitError
        If a circuit cannot be transpiled for the target.
    TooLargeError
        If it has more qubits than the target.
    """
    known = qiskit_target(description.target)
    transpiler = Transpiler(description.resource, description.target)
    made: dict[int, QuantumCircuit] = {}
    for pub in pubs:
        circuit = pub.circuit
        if id(circuit) not in made:
            made[id(circuit)] = circuit if is_isa(circuit, known) else transpiler.run(circuit)
    return [
        pub if made[id(pub.circuit)] is pub.circuit else _moved(pub, made[id(pub.circuit)])
        for pub in pubs
    ]


def _moved(pub: _Pub, circuit: QuantumCircuit) -> _Pub:
    values = _values_of(pub, circuit)
    if isinstance(pub, SamplerPub):
        return SamplerPub(circuit, values, pub.shots)
    observables = pub.observables.apply_layout(circuit.layout, circuit.num_qubits)
    return EstimatorPub(circuit, observables, values, pub.precision)


def _values_of(pub: SamplerPub | EstimatorPub, circuit: QuantumCircuit) -> BindingsArray:
    # Optimising can drop a parameter, such as the angle of an RZ before a measurement.
    names = [parameter.name for parameter in pub.circuit.parameters]
    kept = tuple(parameter.name for parameter in circuit.parameters)
    array = pub.parameter_values.as_array(pub.circuit.parameters)
    columns = [names.index(name) for name in kept]
    return BindingsArray({kept: array[..., columns]}, shape=pub.parameter_values.shape)

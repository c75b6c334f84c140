"""A pass manager for one target in front of a cache on disk."""

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import platformdirs
import qiskit
from qiskit import QuantumCircuit
from qiskit.exceptions import QiskitError
from qiskit.transpiler import StagedPassManager, generate_preset_pass_manager

from hybridflow import wire
from hybridflow.errors import CircuitError, InputError, RequestError, TooLargeError
from hybridflow.primitives.cache import DiskCache
from hybridflow.primitives.digest import circuit_digest
from hybridflow.primitives.isa import qiskit_target
from hybridflow.records import TargetSnapshot

__all__ = ["DEFAULT_LEVEL", "DEFAULT_SEED", "Transpiler"]

DEFAULT_LEVEL = 2
DEFAULT_SEED = 0
_FORMAT = 1  # counts the ways in which entries of the cache have been written


class Transpiler:
    """Transpiles circuits for one target with one set of options.

    Parameters
    ----------
    resource
        Name of the resource, for messages.
    snapshot
        Its target.
    level, seed
        Qiskit's optimization level and transpiler seed; without a seed, nothing is cached.
    options
        Other options of ``generate_preset_pass_manager``.
    """

    def __init__(
        self,
        resource: str,
        snapshot: TargetSnapshot,
        level: int = DEFAULT_LEVEL,
        seed: int | None = DEFAULT_SEED,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._resource = resource
        self._snapshot = snapshot
        self._level, self._seed, self._options = level, seed, dict(options or {})

    def run(self, circuit: QuantumCircuit) -> QuantumCircuit:
        """Return the circuit for the target, with its own name, metadata and parameters.

        Raises
        ------
        CircuitError, TooLargeError, InputError
            As :func:`hybridflow.transpile`.
        """
        key = self._key(circuit)
        if key is None:
            return self._transpiled(circuit)
        cache = _cache()
        stored = cache.get(key)
        if stored is not None:
            return _adopted(wire.circuit_from_qpy(stored), circuit)
        made = self._transpiled(circuit)
        try:
            cache.put(key, wire.circuit_to_qpy(_anonymous(made)))
        except RequestError:
            return made  # not every circuit that can be run can be written as QPY
        return made

    def _transpiled(self, circuit: QuantumCircuit) -> QuantumCircuit:
        limit = self._snapshot.num_qubits
        if limit is not None and circuit.num_qubits > limit:
            raise TooLargeError(
                f"circuit {circuit.name!r} has {circuit.num_qubits} qubits; "
                f"resource {self._resource!r} has {limit}"
            )
        try:
            return self._passes.run(circuit)
        except QiskitError as error:
            raise CircuitError(
                f"circuit {circuit.name!r} cannot be transpiled for resource "
                f"{self._resource!r}: {error}"
            ) from error

    @functools.cached_property
    def _passes(self) -> StagedPassManager:
        try:
            return generate_preset_pass_manager(
                self._level,
                target=qiskit_target(self._snapshot),
                seed_transpiler=self._seed,
                **self._options,
            )
        except (QiskitError, ValueError, TypeError) as error:
            raise InputError(f"an option of transpile() is wrong: {error}") from error

    @functools.cached_property
    def _own_key(self) -> bytes | None:
        settings = {"level": self._level, "seed": self._seed, "options": self._options}
        try:
            text = json.dumps([_FORMAT, qiskit.__version__, settings], sort_keys=True)
        except TypeError:
            return None  # an option that is an object: what it does cannot be told
        return text.encode() + wire.encode(self._snapshot)

    def _key(self, circuit: QuantumCircuit) -> str | None:
        structure = circuit_digest(circuit)
        if self._seed is None or self._own_key is None or structure is None:
            return None
        return hashlib.blake2b(structure + self._own_key, digest_size=20).hexdigest()


def _cache() -> DiskCache:
    return DiskCache(platformdirs.user_cache_path("hybridflow") / "transpiled")


def _anonymous(circuit: QuantumCircuit) -> QuantumCircuit:
    # Two circuits of one structure share an entry: what is one user's own does not go there.
    copy: QuantumCircuit = circuit.copy(name="transpiled")
    copy.metadata = {}
    return copy


def _adopted(stored: QuantumCircuit, original: QuantumCircuit) -> QuantumCircuit:
    # The same circuit with the caller's parameters (equal names, other identities), name, metadata.
    own = {parameter.name: parameter for parameter in original.parameters}
    renewed = {parameter: own[parameter.name] for parameter in stored.parameters}
    circuit: QuantumCircuit = stored.assign_parameters(renewed) if renewed else stored.copy()
    circuit.name, circuit.metadata = original.name, original.metadata
    return circuit

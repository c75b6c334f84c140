"""X and Bell circuits, before anybody's circuit runs: a backend that gives nonsense is refused.

An adapter that loses its samples gives zeros, one that mixes registers or bits gives the wrong
ones, and neither says anything. The bounds are wide: they are for nonsense, not for noise.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from hybridflow import wire
from hybridflow.backends.qiskit_api.faults import opening
from hybridflow.errors import AcquireError, HybridflowError
from hybridflow.records import Batch, PackedResult, Primitive, TargetSnapshot

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["self_test"]

_SHOTS = 200
_LEAST, _LEAST_OF_EACH = 0.6, 0.15
_PRECISION, _MOST_OFF = 0.1, 0.6


def self_test(
    resource: str,
    target: TargetSnapshot,
    primitives: tuple[Primitive, ...],
    run: Callable[[Batch], tuple[PackedResult, ...]],
) -> None:
    """Run the test circuits, and look at what comes.

    Parameters
    ----------
    resource
        Name of the resource, for messages.
    target
        Its target.
    primitives
        What to test.
    run
        Runs a batch to its end.

    Raises
    ------
    AcquireError
        If what came back is nonsense, or nothing came back.
    """
    for primitive in primitives:
        with opening(resource):  # its target may be such that not even these fit
            names, pubs, checks = zip(*_tests(primitive, target), strict=True)
        batch = Batch(primitive=primitive, pubs=tuple(pubs))
        try:
            results = run(batch)
        except HybridflowError as error:
            raise AcquireError(
                f"{resource} failed its self-test ({', '.join(names)}, which `self_test = false` "
                f"leaves out): {error}",
                transient=error.transient,
                resource=resource,
            ) from error
        for name, check, result in zip(names, checks, results, strict=True):
            found = check(wire.unpack_result(result)[0])
            if found:
                raise AcquireError(
                    f"{resource} failed its self-test and is not used, since its results are "
                    f"nonsense: {name} gave {found}",
                    resource=resource,
                )


_Test = tuple[str, Any, Callable[[Any], str]]
"""What is run, the packed PUB, and what tells what is wrong with its data; nothing: it is right."""


def _tests(primitive: Primitive, target: TargetSnapshot) -> Iterator[_Test]:
    sampled = primitive is Primitive.SAMPLER
    size = min(2, target.num_qubits or 2)
    flipped = _isa(_flipped(size, measured=sampled), target)
    yield "X on qubit 0", _pub(primitive, flipped, "Z".rjust(size, "I")), _is_flipped
    if size == 2 and any(operation.num_qubits == 2 for operation in target.operations):
        bell = _isa(_bell(measured=sampled), target)
        yield "a Bell pair", _pub(primitive, bell, "XX"), _is_bell


def _flipped(size: int, *, measured: bool) -> "QuantumCircuit":
    from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister

    circuit = QuantumCircuit(QuantumRegister(size, "q"), name="self-test-x")
    circuit.x(0)
    if measured:
        for qubit, name in enumerate(("ones", "zeros")[:size]):
            circuit.add_register(ClassicalRegister(1, name))
            circuit.measure(qubit, qubit)
    return circuit


def _bell(*, measured: bool) -> "QuantumCircuit":
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(2, name="self-test-bell")
    circuit.h(0)
    circuit.cx(0, 1)
    if measured:
        circuit.measure_all()
    return circuit


def _isa(circuit: "QuantumCircuit", target: TargetSnapshot) -> "QuantumCircuit":
    from qiskit import transpile

    from hybridflow.targets import target_of

    return transpile(circuit, target=target_of(target), optimization_level=1, seed_transpiler=1)


def _pub(primitive: Primitive, circuit: "QuantumCircuit", pauli: str) -> Any:
    from qiskit.primitives.containers.estimator_pub import EstimatorPub
    from qiskit.primitives.containers.sampler_pub import SamplerPub
    from qiskit.quantum_info import SparsePauliOp

    if primitive is Primitive.SAMPLER:
        return wire.pack_pubs([SamplerPub(circuit, shots=_SHOTS)], [None])[0]
    observable = SparsePauliOp(pauli).apply_layout(circuit.layout, circuit.num_qubits)
    pub = EstimatorPub.coerce((circuit, observable), _PRECISION)
    return wire.pack_pubs([pub], [None])[0]


def _is_flipped(data: Any) -> str:
    if "evs" in data:
        return _is_near(data, -1.0)
    wanted = {"ones": "1", "zeros": "0"}
    counts = {name: data[name].get_counts() for name in wanted if name in data}
    right = all(found.get(wanted[name], 0) >= _LEAST * _SHOTS for name, found in counts.items())
    return "" if counts and right else f"the counts {counts}"


def _is_bell(data: Any) -> str:
    if "evs" in data:
        return _is_near(data, 1.0)
    counts = data.meas.get_counts()
    both = [counts.get(bits, 0) for bits in ("00", "11")]
    right = sum(both) >= _LEAST * _SHOTS and min(both) >= _LEAST_OF_EACH * _SHOTS
    return "" if right else f"the counts {counts}"


def _is_near(data: Any, wanted: float) -> str:
    found = float(data.evs)
    return "" if abs(found - wanted) <= _MOST_OFF else f"the expectation value {found}"

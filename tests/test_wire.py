"""Qiskit's objects survive the wire, and garbage is refused without running anything."""

import contextlib
import gc
import io
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, qpy
from qiskit.circuit import Parameter, ParameterVector
from qiskit.primitives import StatevectorEstimator, StatevectorSampler
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.quantum_info import SparsePauliOp

from hybridflow.errors import RequestError
from hybridflow.records import PackedPub, PackedResult, Primitive, Request
from hybridflow.wire import (
    array_from_bytes,
    array_to_bytes,
    circuit_from_qpy,
    circuit_to_qpy,
    decode,
    encode,
    pack_pubs,
    pack_result,
    unpack_pub,
    unpack_result,
)


def sweep() -> QuantumCircuit:
    """Parameters whose order of appearance is not their sorted order; two registers."""
    second, first = Parameter("b"), Parameter("a")
    circuit = QuantumCircuit(
        QuantumRegister(2), ClassicalRegister(1, "x"), ClassicalRegister(9, "y")
    )
    circuit.ry(second, 0)
    circuit.rx(first, 1)
    circuit.cx(0, 1)
    circuit.measure(0, 0)
    circuit.measure(1, 9)
    return circuit


def trip(pub: Any, primitive: Primitive, seed: int | None = None) -> Any:
    (packed,) = pack_pubs([pub], [seed])
    return unpack_pub(decode(encode(packed), PackedPub), primitive)


def test_a_sampler_pub_means_the_same_on_the_other_side() -> None:
    pub = SamplerPub.coerce((sweep(), np.random.default_rng(1).random((3, 2, 2)), 200))
    other = trip(pub, Primitive.SAMPLER)
    assert (other.shape, other.shots) == ((3, 2), 200)
    here = StatevectorSampler(seed=5).run([pub]).result()[0].data
    there = StatevectorSampler(seed=5).run([other]).result()[0].data
    assert here.x == there.x
    assert here.y == there.y


@pytest.mark.parametrize(
    "observables",
    [
        SparsePauliOp(["ZZ", "XI"], [0.5, -0.25]),
        [["ZZ"], ["XX"], [{"IY": 2.0, "0+": 1.0}]],
    ],
)
def test_an_estimator_pub_means_the_same_on_the_other_side(observables: Any) -> None:
    circuit = sweep().remove_final_measurements(inplace=False)
    assert circuit is not None
    values = np.random.default_rng(1).random((4, 2))
    pub = EstimatorPub.coerce((circuit, observables, values), 0.0)
    other = trip(pub, Primitive.ESTIMATOR)
    assert other.shape == pub.shape
    assert other.observables.tolist() == pub.observables.tolist()


def test_a_circuit_that_stands_in_many_pubs_is_written_once() -> None:
    circuit = sweep()
    pubs = [SamplerPub.coerce((circuit, np.zeros(2), shots)) for shots in (1, 2, 3)]
    packed = pack_pubs(pubs, [None, 7, None])
    assert packed[0].circuit is packed[1].circuit is packed[2].circuit
    assert [pub.seed for pub in packed] == [None, 7, None]


def test_many_parameters_keep_their_order() -> None:
    vector = ParameterVector("t", 12)  # t[10] sorts after t[9], not after t[1]
    circuit = QuantumCircuit(1, 1)
    for parameter in vector:
        circuit.rx(parameter, 0)
    circuit.measure(0, 0)
    values = np.arange(12.0)
    other = trip(SamplerPub.coerce((circuit, values, 1)), Primitive.SAMPLER)
    assert [value for value in other.parameter_values.as_array(list(vector))] == list(values)


def test_a_result_survives_with_its_metadata() -> None:
    sampled = StatevectorSampler(seed=1).run([(sweep(), np.zeros((2, 2)), 10)]).result()[0]
    sampled.metadata["number"] = np.int64(3)
    packed = decode(encode(pack_result(sampled)), PackedResult)
    data, metadata = unpack_result(packed, {"mine": object})
    assert data.x == sampled.data.x
    assert data.y == sampled.data.y
    assert data.shape == (2,)
    assert metadata == {"shots": 10, "number": 3, "circuit_metadata": {"mine": object}}


def test_an_estimate_survives() -> None:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    estimate = StatevectorEstimator().run([(circuit, [["XI", "IX"], ["ZI", "IZ"]])]).result()[0]
    data, _ = unpack_result(pack_result(estimate))
    assert np.array_equal(data.evs, estimate.data.evs)
    assert data.shape == (2, 2)


def test_metadata_of_any_kind_cannot_make_a_circuit_unsendable() -> None:
    circuit = QuantumCircuit(1, metadata={"anything": object()})
    assert circuit_from_qpy(circuit_to_qpy(circuit)).num_qubits == 1


@given(
    npst.arrays(
        dtype=st.sampled_from([np.uint8, np.int64, np.float64, np.complex128]),
        shape=npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
@settings(deadline=None)
def test_any_array_survives(array: np.ndarray[Any, Any]) -> None:
    copy = array_from_bytes(array_to_bytes(array))
    assert copy.dtype == array.dtype
    assert copy.shape == array.shape
    assert np.array_equal(copy, array, equal_nan=array.dtype.kind in "fc")


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.arange(6.0).reshape(2, 3).T,
        np.zeros((0, 2)),
        np.ones((2, 3), dtype=">f4"),
        np.array([True, False]),
        np.array(["text", "more"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    ],
)
def test_arrays_are_written_and_read_as_numpy_does(array: np.ndarray[Any, Any]) -> None:
    theirs = io.BytesIO()
    np.lib.format.write_array(theirs, np.asarray(array, order="C"))
    assert array_to_bytes(array) == theirs.getvalue()
    by_columns = io.BytesIO()
    np.save(by_columns, np.asarray(array, order="F"))
    for data in (theirs.getvalue(), by_columns.getvalue()):
        read = array_from_bytes(data)
        assert read.dtype == array.dtype
        assert read.flags.writeable
        assert np.array_equal(read, array)


@given(st.data())
@settings(deadline=None, max_examples=200, derandomize=True)
def test_a_damaged_array_is_a_typed_error_or_an_array(data: st.DataObject) -> None:
    damaged = bytearray(array_to_bytes(np.arange(6.0).reshape(2, 3)))
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=3)):
        damaged[place] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings(), contextlib.suppress(RequestError):
        warnings.simplefilter("ignore")  # NumPy's and Python's, about what the header says now
        assert array_from_bytes(bytes(damaged)).dtype.kind != "O"


def test_an_array_of_objects_is_refused() -> None:
    """Objects in ``.npy`` are pickles, which could run code."""
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        array_to_bytes(np.array([object()]))
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RequestError, match="could not be read"):
        array_from_bytes(buffer.getvalue())


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=200)
def test_garbage_is_a_typed_error(data: bytes) -> None:
    for read in (circuit_from_qpy, array_from_bytes, lambda d: decode(d, Request)):
        with pytest.raises(RequestError):
            read(data)


def test_a_cut_off_circuit_is_a_typed_error() -> None:
    good = circuit_to_qpy(sweep())
    for length in range(0, len(good), 7):
        with pytest.raises(RequestError):
            circuit_from_qpy(good[:length])


def test_two_circuits_in_one_message_are_refused() -> None:
    buffer = io.BytesIO()
    qpy.dump([QuantumCircuit(1), QuantumCircuit(2)], buffer)
    with pytest.raises(RequestError, match="one circuit was expected"):
        circuit_from_qpy(buffer.getvalue())


def test_arrays_can_be_read_in_many_threads() -> None:
    # More headers than are kept, so that each is read anew.
    written = [array_to_bytes(np.ones(length)) for length in range(1, 1000)]

    def read(_: int) -> bool:
        return all(array_from_bytes(data).size == size for size, data in enumerate(written, 1))

    def switch(phase: str, info: object) -> None:
        time.sleep(0)  # lets go of the interpreter in the midst of a collection

    gc.callbacks.append(switch)
    try:
        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(read, range(16)))
    finally:
        gc.callbacks.remove(switch)

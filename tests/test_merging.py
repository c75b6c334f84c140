"""From requests to one batch and back: each gets what it would have got alone."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import wire
from hybridflow.broker.merging import merge, split
from hybridflow.errors import InternalError
from hybridflow.primitives.structure import structure
from hybridflow.records import Batch, PackedPub, PackedResult, Primitive, Request
from hybridflow.testing import FakeQPU


def circuit(measure: bool = True) -> QuantumCircuit:
    made = QuantumCircuit(2)
    made.rx(Parameter("a"), 0)
    made.ry(Parameter("b"), 1)
    if measure:
        made.measure_all()
    return made


def sampled(values: Any, shots: int = 10, seed: int | None = None) -> PackedPub:
    pub = SamplerPub.coerce((circuit(), values), shots)
    return wire.pack_pubs([pub], [seed], structure)[0]


def estimated(values: Any, observables: Any = "ZZ", precision: float = 0.0) -> PackedPub:
    pub = EstimatorPub.coerce((circuit(measure=False), observables, values), precision)
    return wire.pack_pubs([pub], [None], structure)[0]


def requests(*pubs: list[PackedPub], primitive: Primitive = Primitive.SAMPLER) -> list[Request]:
    return [Request(id=str(i), primitive=primitive, pubs=tuple(p)) for i, p in enumerate(pubs)]


def merged(asked: list[Request]) -> Batch:
    return merge(asked, [1.0] * len(asked))[0]


def run(batch: Batch) -> tuple[PackedResult, ...]:
    device = FakeQPU("fake")
    device.acquire()
    try:
        job = device.start(batch, tag="t")
        assert device.status(job, wait=30).state.final
        return device.result(job)
    finally:
        device.release()


def test_other_values_of_one_circuit_become_one_pub() -> None:
    other = QuantumCircuit(1)
    other.measure_all()
    bound = wire.pack_pubs([SamplerPub.coerce(other, 10)], [None], structure)[0]
    asked = requests([sampled([0.1, 0.2])], [bound, sampled([0.3, 0.4])], [sampled([0.5, 0.6])])
    batch, cuts = merge(asked, [1.0, 2.0, 1.0])
    assert [pub.circuits for pub in batch.pubs] == [3, 1]
    values = wire.array_from_bytes(batch.pubs[0].parameters or b"")
    assert values.tolist() == [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
    places = [[(part.pub, part.row) for part in cut.parts] for cut in cuts]
    assert places == [[(0, 0)], [(1, None), (0, 1)], [(0, 2)]]
    assert [cut.share for cut in cuts] == [0.25, 0.5, 0.25]


@pytest.mark.parametrize(
    "others",
    [
        sampled([0.3, 0.4], shots=11),
        sampled([0.3, 0.4], seed=7),
        sampled([[0.3, 0.4], [0.5, 0.6]]),
        msgspec.structs.replace(sampled([0.3, 0.4]), structure=b"another"),
    ],
    ids=["shots", "seed", "shape", "circuit"],
)
def test_what_differs_in_more_than_values_stays_apart(others: PackedPub) -> None:
    assert len(merged(requests([sampled([0.1, 0.2])], [others])).pubs) == 2


def test_equal_seeds_stay_apart_too() -> None:
    """Each has its own place in an array, and would not get what it would have got alone."""
    seeded = sampled([0.1, 0.2], seed=7)
    asked = requests([seeded], [seeded], [sampled([0.3, 0.4])], [sampled([0.5, 0.6])])
    batch, cuts = merge(asked, [1.0] * 4)
    assert [pub.circuits for pub in batch.pubs] == [1, 1, 2]
    results = split(cuts, run(batch))
    alone = run(merged(requests([seeded])))
    assert results[0] == results[1] == tuple(alone)


def test_observables_are_compared() -> None:
    asked = requests(
        [estimated([0.1, 0.2])],
        [estimated([0.3, 0.4])],
        [estimated([0.5, 0.6], "XX")],
        [estimated([0.5, 0.6], precision=0.1)],
        primitive=Primitive.ESTIMATOR,
    )
    assert [pub.circuits for pub in merged(asked).pubs] == [2, 1, 1]


_shapes = st.sampled_from([(), (1,), (3,), (2, 1)])
_observables = st.sampled_from(["ZZ", ["ZZ", "XI", "IY"], [["ZI"], ["IX"]]])


@settings(max_examples=25, deadline=None)
@given(shape=_shapes, observables=_observables, count=st.integers(1, 4), seed=st.integers(0, 99))
def test_expectation_values_come_back_to_whom_they_belong(
    shape: tuple[int, ...], observables: Any, count: int, seed: int
) -> None:
    """Exact ones: what each request gets is what it would have got alone, in the same shape."""
    rng = np.random.default_rng(seed)
    pubs = [estimated(rng.uniform(0, 6, (*shape, 2)), observables) for _ in range(count)]
    asked = requests(*[[pub] for pub in pubs], primitive=Primitive.ESTIMATOR)
    batch, cuts = merge(asked, [1.0] * count)
    assert len(batch.pubs) == 1
    for (part,), one in zip(split(cuts, run(batch)), asked, strict=True):
        (alone,) = run(merged([one]))
        assert part.shape == alone.shape
        for name in ("evs", "stds"):
            mine, theirs = (wire.array_from_bytes(p.arrays[name]) for p in (part, alone))
            assert mine.shape == theirs.shape
            assert mine == pytest.approx(theirs)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_samples_come_back_to_whom_they_belong(shape: tuple[int, ...]) -> None:
    """Rotations by 0 and π have one outcome each: it says whose samples these are."""
    flips = [[0.0, 0.0], [np.pi, 0.0], [0.0, np.pi]]
    pubs = [sampled(np.broadcast_to(values, (*shape, 2))) for values in flips]
    batch, cuts = merge(requests(*[[pub] for pub in pubs]), [1.0] * 3)
    assert len(batch.pubs) == 1
    for (part,), expected in zip(split(cuts, run(batch)), ("00", "01", "10"), strict=True):
        data, metadata = wire.unpack_result(part)
        assert data.meas.shape == shape
        assert data.meas.get_counts() == {expected: 10 * int(np.prod(shape))}
        assert metadata["shots"] == 10


def test_what_is_no_array_does_no_harm() -> None:
    """It is sent as it is, and fails alone."""
    good = sampled([0.1, 0.2])
    assert good.parameters is not None
    broken = msgspec.structs.replace(good, parameters=good.parameters[:10] + b"!" * 134)
    batch, cuts = merge(requests([broken], [broken], [good]), [1.0] * 3)
    assert batch.pubs == (broken, broken, good)
    assert [cut.parts[0].row for cut in cuts] == [None] * 3


def test_results_of_another_shape_are_refused() -> None:
    batch, cuts = merge(requests([sampled([0.1, 0.2])], [sampled([0.3, 0.4])]), [1.0] * 2)
    (result,) = run(batch)
    with pytest.raises(InternalError, match="2 sets of values"):
        split(cuts, [msgspec.structs.replace(result, shape=(3,))])
    with pytest.raises(InternalError, match="0 results for 1 PUBs"):
        split(cuts, [])

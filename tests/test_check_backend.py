"""The conformance suite: right backends pass it, and wrong ones hear what is wrong with them."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from hybridflow import wire
from hybridflow.backends.aer import AerBackend, AerOptions
from hybridflow.backends.base import Backend, NotifyingBackend
from hybridflow.backends.process import BackendProcess
from hybridflow.backends.pulser import PulserBackend, PulserOptions
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    RequestError,
    ResourceError,
    VendorJobError,
)
from hybridflow.records import (
    Batch,
    Capabilities,
    JobState,
    JobStatus,
    PackedResult,
    Primitive,
    Resource,
    TargetSnapshot,
    Usage,
)
from hybridflow.testing import FakeOptions, FakeQPU, check_backend
from hybridflow.testing.fake_target import fake_target


def aer(**options: Any) -> AerBackend:
    return AerBackend("aer", AerOptions(**options))


def fake(**options: Any) -> FakeQPU:
    return FakeQPU("fake", FakeOptions(**options))


def hosted(backend: str) -> BackendProcess:
    return BackendProcess(Resource(name="hosted", backend=backend), {})


NOISY = PulserOptions(p_false_neg=0.02, dephasing_rate=0.05)
LINE = {"num_qubits": 4, "basis_gates": ("rz", "sx", "x", "cx"), "coupling": ((0, 1), (1, 2))}

RIGHT: dict[str, tuple[Callable[[], Backend], float]] = {
    "aer": (aer, 1),
    "aer_hosted": (lambda: hosted("aer"), 1),
    "aer_single_precision": (lambda: aer(precision="single"), 0.999),
    "aer_cheap_noise": (lambda: aer(depolarizing=0.02, readout_flip=0.01, num_qubits=5), 0.85),
    "aer_device": (lambda: aer(device="FakeManilaV2"), 0.75),
    "fake": (fake, 1),
    "pulser": (lambda: PulserBackend("noisy", NOISY), 0.85),
    "fake_hosted": (lambda: hosted("fake"), 1),
    "fake_small": (lambda: fake(max_pubs=2, max_shots=2000, lanes=3, tags=False, **LINE), 1),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_backends_pass(name: str) -> None:
    make, fidelity = RIGHT[name]
    check_backend(make, fidelity=fidelity)


def test_they_are_backends() -> None:
    for backend in (aer(), fake(), hosted("fake")):
        assert isinstance(backend, NotifyingBackend)


# Wrong ones


class Zeros(FakeQPU):
    """Loses its samples, as an adapter does that asks for memory and gets counts."""

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        results = []
        for result in super().result(job_id):
            arrays = {
                name: wire.array_to_bytes(np.zeros_like(wire.array_from_bytes(data)))
                if name in result.bits
                else data
                for name, data in result.arrays.items()
            }
            results.append(msgspec.structs.replace(result, arrays=arrays))
        return tuple(results)


class Disordered(FakeQPU):
    """Gives the results of a batch in another order."""

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        return super().result(job_id)[::-1]


class Forgetful(FakeQPU):
    """Declares seeds and ignores them."""

    count = 0

    def start(self, batch: Batch, *, tag: str) -> str:
        self.count += 1
        pubs = tuple(
            msgspec.structs.replace(pub, seed=None if pub.seed is None else self.count)
            for pub in batch.pubs
        )
        return super().start(msgspec.structs.replace(batch, pubs=pubs), tag=tag)


class Limited(FakeQPU):
    """Declares late binding, and takes the angles that come as values from 0 to pi only."""

    def start(self, batch: Batch, *, tag: str) -> str:
        pubs = tuple(
            msgspec.structs.replace(
                pub,
                parameters=wire.array_to_bytes(
                    np.abs(wire.array_from_bytes(pub.parameters or b"")) % np.pi
                ),
            )
            if pub.angles
            else pub
            for pub in batch.pubs
        )
        return super().start(msgspec.structs.replace(batch, pubs=pubs), tag=tag)


class Mirrored(FakeQPU):
    """Mixes up two registers."""

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        results = []
        for result in super().result(job_id):
            if set(result.arrays) == {"first", "second"}:
                arrays = {"first": result.arrays["second"], "second": result.arrays["first"]}
                bits = {"first": 1, "second": 2}
                result = msgspec.structs.replace(result, arrays=arrays, bits=bits)
            results.append(result)
        return tuple(results)


class Flat(FakeQPU):
    """Loses the shape of parameter arrays."""

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        results = []
        for result in super().result(job_id):
            if len(result.shape) == 2 and result.bits:
                arrays = {}
                for name, data in result.arrays.items():
                    array = wire.array_from_bytes(data)
                    arrays[name] = wire.array_to_bytes(array.reshape(-1, *array.shape[2:]))
                size = result.shape[0] * result.shape[1]
                result = msgspec.structs.replace(result, arrays=arrays, shape=(size,))
            results.append(result)
        return tuple(results)


class Careless(FakeQPU):
    """Ignores options that it does not know."""

    def start(self, batch: Batch, *, tag: str) -> str:
        return super().start(msgspec.structs.replace(batch, options={}), tag=tag)


class Untyped(FakeQPU):
    """Lets its vendor's exceptions through."""

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        status = super().status(job_id, wait=wait)
        if status.state is JobState.FAILED:
            raise KeyError(job_id)
        return status


class Inexact(FakeQPU):
    """Declares exact values and adds noise to them."""

    def start(self, batch: Batch, *, tag: str) -> str:
        pubs = tuple(
            msgspec.structs.replace(pub, precision=0.3, seed=len(self.batches))
            if pub.precision == 0
            else pub
            for pub in batch.pubs
        )
        return super().start(msgspec.structs.replace(batch, pubs=pubs), tag=tag)


class SamplerOnly(FakeQPU):
    """Declares the sampler alone and takes the estimator's batches all the same."""

    @property
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(super().capabilities, primitives=(Primitive.SAMPLER,))


class Boundless(FakeQPU):
    """Declares fewer qubits than its target has."""

    def target(self) -> TargetSnapshot:
        return fake_target(self.options.num_qubits + 1)


class Lost(FakeQPU):
    """Cannot find the jobs whose tags it keeps."""

    def find(self, tag: str) -> str | None:
        return None


class Immortal(FakeQPU):
    """Starts jobs after its release."""

    def release(self) -> None:
        self.released += 1


class Stubborn(FakeQPU):
    """Cannot be released twice."""

    def release(self) -> None:
        if self.released:
            raise RuntimeError("not open")
        super().release()


class Free(FakeQPU):
    """Counts no shots."""

    def usage(self, job_id: str) -> Usage:
        super().usage(job_id)
        return Usage()


WRONG = [
    (Zeros, "sampler_is_not_silent.*X on three qubits: 111 should come"),
    (Disordered, "sampler_keeps_order.*PUB 0: 0 should come"),
    (Forgetful, "sampler_repeats_seeds.*other shots in a batch than alone"),
    (Limited, "sampler_binds_late.*an angle of 1 pi: 11 should come"),
    (Mirrored, "sampler_keeps_registers.*register `first`"),
    (Flat, r"sampler_keeps_shapes.*\(2, 3\) gave a result of \(6,\)"),
    (Careless, "bad_batches_fail_clearly.*no_such_option"),
    (Untyped, "bad_batches_fail_clearly.*KeyError"),
    (Inexact, "estimator_(broadcasts|is_exact)"),
    (SamplerOnly, "undeclared_primitives_are_refused.*estimator is not declared"),
    (Boundless, "target.*13 qubits and the capabilities declare 12"),
    (Lost, "jobs_are_found_by_tag"),
    (Immortal, "released backend starts a job"),
    (Stubborn, r"release\(\) raised RuntimeError"),
    (Free, "sampler_keeps_order.*0 shots, not 524"),
]


@pytest.mark.parametrize(
    ("kind", "message"), WRONG, ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_backends_are_told_what_is_wrong(kind: type[FakeQPU], message: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_backend(kind, fidelity=1)


def test_a_backend_that_answers_nothing_is_silent() -> None:
    with pytest.raises(AssertionError, match="sampler_is_not_silent"):
        check_backend(lambda: fake(mode="null", null_bits=3))


def test_what_lacks_methods_is_no_backend() -> None:
    class Nothing:
        capabilities = Capabilities()

    with pytest.raises(AssertionError, match=r"lacks methods .*acquire.*start"):
        check_backend(Nothing)  # type: ignore[arg-type]


# The fake QPU's faults


def one(name: str = "bell") -> Batch:
    from qiskit import QuantumCircuit
    from qiskit.primitives.containers.sampler_pub import SamplerPub

    circuit = QuantumCircuit(1, name=name)
    circuit.measure_all()
    return Batch(
        primitive=Primitive.SAMPLER, pubs=wire.pack_pubs([SamplerPub(circuit, shots=5)], [None])
    )


def test_acquisitions_are_refused_as_often_as_asked() -> None:
    backend = fake(refuse_acquires=2)
    for _ in range(2):
        with pytest.raises(AcquireError) as caught:
            backend.acquire()
        assert caught.value.transient
    backend.acquire()
    backend.release()
    assert (backend.acquired, backend.released) == (3, 1)


def test_the_jobs_that_shall_fail_fail() -> None:
    backend = fake(fail_jobs=(2,), fail_transient=True, fail_circuits="bad.*")
    backend.acquire()
    states = []
    for name in ("good", "good", "bad one", "good"):
        job_id = backend.start(one(name), tag="tag")
        status = backend.status(job_id, wait=30)
        states.append(status.state)
        if status.state is JobState.FAILED:
            assert status.transient
            with pytest.raises(VendorJobError, match="as its options say"):
                backend.result(job_id)
    done, failed = JobState.DONE, JobState.FAILED
    assert states == [done, failed, failed, done]
    assert len(backend.batches) == 4
    backend.release()


def test_the_connection_is_lost_until_it_is_acquired_again() -> None:
    backend = fake(lose_on_job=2, mode="null")
    backend.acquire()
    backend.start(one(), tag="tag")
    with pytest.raises(BackendLostError):
        backend.start(one(), tag="tag")
    with pytest.raises(BackendLostError):
        backend.status("any")
    backend.acquire()
    job_id = backend.start(one(), tag="tag")
    assert backend.status(job_id).state is JobState.DONE  # `null` answers at once
    backend.release()
    with pytest.raises(ResourceError, match="acquire"):
        backend.start(one(), tag="tag")


def test_a_job_that_was_lost_while_it_ran_does_not_disturb_the_next() -> None:
    backend = fake(lose_on_job=2, seconds_per_job=0.1, mode="null")
    backend.acquire()
    lost = backend.start(one(), tag="tag")
    with pytest.raises(BackendLostError):
        backend.start(one(), tag="tag")
    backend.acquire()
    job_id = backend.start(one(), tag="tag")
    assert backend.status(job_id, wait=30).state is JobState.DONE
    with pytest.raises(ResourceError, match="no job"):
        backend.status(lost)
    backend.release()


def test_wrong_options_are_refused() -> None:
    for wrong in ({"lanes": 0}, {"fail_circuits": "("}, {"mode": "sleep"}, {"speed": 1}):
        with pytest.raises(msgspec.ValidationError, match=next(iter(wrong))):
            msgspec.convert(wrong, FakeOptions)
    with pytest.raises(RequestError, match="no request options"):
        _acquired().start(msgspec.structs.replace(one(), options={"a": 1}), tag="tag")


def _acquired() -> FakeQPU:
    backend = fake(mode="null")
    backend.acquire()
    return backend

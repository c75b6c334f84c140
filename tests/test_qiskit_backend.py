"""The backend ``qiskit``: any ``BackendV2`` by its counts, and any pair of V2 primitives."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import vendor_devices
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.exceptions import QiskitError
from qiskit.primitives import BackendSamplerV2
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import wire
from hybridflow.backends.base import Backend
from hybridflow.backends.qiskit_api import QiskitBackend, QiskitOptions
from hybridflow.backends.qiskit_api.counts import bits_of, counts_of, shots_of
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    CircuitError,
    HybridflowError,
    MissingExtraError,
    RequestError,
    ResourceError,
    SiteError,
    TooLargeError,
    VendorJobError,
)
from hybridflow.records import Batch, JobState, Primitive
from hybridflow.testing import check_backend

FAKE = "qiskit.providers.fake_provider:GenericBackendV2"


def make(credentials: dict[str, str] | None = None, **options: Any) -> QiskitBackend:
    return QiskitBackend("device", msgspec.convert(options, QiskitOptions), credentials)


def device(name: str, **options: Any) -> QiskitBackend:
    return make(factory=f"vendor_devices:{name}", **options)


PAIR = {
    "sampler": "qiskit.primitives:StatevectorSampler",
    "estimator": "qiskit.primitives:StatevectorEstimator",
}

RIGHT: dict[str, tuple[Callable[[], Backend], float]] = {
    "aer": (lambda: make(factory="qiskit_aer:AerSimulator", seed_option="seed_simulator"), 1),
    "generic": (lambda: make(factory=FAKE, arguments={"num_qubits": 4, "seed": 1}), 0.8),
    "runtime_fake": (lambda: make(factory="qiskit_ibm_runtime.fake_provider:FakeManilaV2"), 0.75),
    "counts_only": (lambda: device("CountsOnly"), 1),
    "without_target": (lambda: device("Bare"), 1),
    "pair": (lambda: make(**PAIR, exact=True, num_qubits=10), 1),
    "sampler_on_a_backend": (
        lambda: make(
            factory="qiskit.providers.basic_provider:BasicSimulator",
            sampler="vendor_devices:backend_sampler",
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_ones_pass(name: str) -> None:
    backend, fidelity = RIGHT[name]
    check_backend(backend, fidelity=fidelity)


def bell(shots: int = 100) -> Batch:
    circuit = QuantumCircuit(2, name="bell")
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return batch(circuit, shots)


def batch(circuit: QuantumCircuit, shots: int = 100) -> Batch:
    pubs = wire.pack_pubs([SamplerPub(circuit, shots=shots)], [None])
    return Batch(primitive=Primitive.SAMPLER, pubs=pubs)


def run(backend: QiskitBackend, work: Batch) -> Any:
    job_id = backend.start(work, tag="")
    assert backend.status(job_id, wait=30).state is JobState.DONE
    return wire.unpack_result(backend.result(job_id)[0])[0]


# Counts


def test_what_qiskits_own_sampler_makes_zeros_of_is_right_here() -> None:
    circuit = QuantumCircuit(1)
    circuit.x(0)
    circuit.measure_all()
    ran = _AsResult(vendor_devices.CountsOnly())
    lost = BackendSamplerV2(backend=ran).run([circuit], shots=10).result()[0].data.meas
    assert lost.get_counts() == {"0": 10}  # the reason for an adapter of our own
    backend = device("CountsOnly")
    backend.acquire()
    assert run(backend, batch(circuit, 10)).meas.get_counts() == {"1": 10}
    backend.release()


class _AsResult(vendor_devices.CountsOnly):
    """The same device, with a result that Qiskit's sampler can look at."""

    def __init__(self, device: vendor_devices.CountsOnly) -> None:
        super().__init__()
        self._inner = device

    def run(self, run_input: list[QuantumCircuit], **options: Any) -> Any:
        options.pop("seed_simulator")
        job = self._inner.run(run_input, **options)
        result = job.result()
        result.results = [_Experiment(options["shots"]) for _ in run_input]
        job.result = lambda: result
        return job


class _Experiment:
    def __init__(self, shots: int) -> None:
        self.shots = shots
        self.data = object()


def test_counts_are_split_over_registers_and_mixed() -> None:
    circuit = QuantumCircuit(
        QuantumRegister(4), ClassicalRegister(1, "a"), ClassicalRegister(3, "b")
    )
    for text in ("101 1", "1011", "0xb", 0b1011):
        shots = shots_of([counts_of({text: 3}, 4)], 4, (), None)
        found = {name: bits.get_counts() for name, bits in bits_of(shots, circuit).items()}
        assert found == {"a": {"1": 3}, "b": {"101": 3}}
    counts = counts_of({"0000": 500, "1111": 500}, 4)
    first = shots_of([counts], 4, (), None)[:100]
    assert 20 < np.count_nonzero(first) < 80  # a slice of the shots is a sample, too
    assert np.array_equal(*(shots_of([counts], 4, (), 7) for _ in range(2)))


@pytest.mark.parametrize("counts", [{"111": 1}, {"12": 1}, {"0x4": 1}, {}, {"00": -1}, {"00": 0.5}])
def test_counts_that_do_not_fit_are_refused(counts: dict[str, Any]) -> None:
    with pytest.raises(VendorJobError, match="counts"):
        counts_of(counts, 2)


def test_bits_that_counts_cannot_tell_apart_are_refused() -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.add_register(ClassicalRegister(name="again", bits=circuit.clbits))
    circuit.measure(0, 0)
    backend = device("CountsOnly", self_test=False)
    backend.acquire()
    with pytest.raises(CircuitError, match="in several"):
        backend.start(batch(circuit), tag="")
    backend.release()


# What it declares


def test_it_declares_what_the_device_declares() -> None:
    backend = device("CountsOnly")
    can = backend.capabilities
    assert not can.simulator  # nobody knows that it is one, unless the site file says so
    assert device("CountsOnly", simulator=True).capabilities.simulator
    assert make(factory=FAKE, arguments={"num_qubits": 2}).capabilities.simulator
    assert can.max_shots == 50_000
    assert can.options[Primitive.SAMPLER] == ("shade",)
    assert not any((can.seeds, can.tags, can.durable_jobs, can.exact))
    assert backend.metadata()["name"] == "counts-only"
    with pytest.raises(TooLargeError, match="50000"):
        _acquired(backend).start(bell(50_001), tag="")


def _acquired(backend: QiskitBackend) -> QiskitBackend:
    backend.acquire()
    return backend


def test_a_batch_is_as_many_calls_as_the_device_needs() -> None:
    backend = _acquired(device("CountsOnly", self_test=False))
    pubs = bell().pubs * 4 + bell(7).pubs
    job_id = backend.start(Batch(primitive=Primitive.SAMPLER, pubs=pubs), tag="")
    assert backend._machine._device.calls == [3, 1, 1]  # equal shots, three circuits at most
    assert job_id == "job-1+job-2+job-3"
    assert backend.status(job_id, wait=30).state is JobState.DONE
    shots = [wire.unpack_result(each)[0].meas.num_shots for each in backend.result(job_id)]
    assert shots == [100] * 4 + [7]


def test_a_device_without_target_says_what_it_can() -> None:
    snapshot = device("Bare").target()
    assert snapshot.num_qubits == 3
    operations = {operation.name: operation for operation in snapshot.operations}
    assert {"cx", "rz", "sx", "x", "measure"} <= set(operations)
    assert [pair for pair, _, _ in operations["cx"].places or ()] == [(0, 1), (1, 2)]


# The self-test


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("silent", "X on qubit 0 gave the counts {'ones': {'0': 200}"),
        ("mirrored", "X on qubit 0 gave"),
        ("uniform", "X on qubit 0 gave"),
    ],
)
def test_nonsense_is_refused_when_the_slot_opens(name: str, found: str) -> None:
    backend = device(name)
    with pytest.raises(AcquireError, match="nonsense") as caught:
        backend.acquire()
    assert found in str(caught.value)
    assert not caught.value.transient
    with pytest.raises(ResourceError, match="not been acquired"):
        backend.start(bell(), tag="")
    _acquired(device(name, self_test=False)).release()


def test_primitives_that_give_nonsense_are_refused() -> None:
    with pytest.raises(AcquireError, match=r"expectation value 0\.25"):
        make(sampler=PAIR["sampler"], estimator="vendor_devices:Quarter").acquire()


def test_a_self_test_that_does_not_end_can_be_tried_again() -> None:
    with pytest.raises(AcquireError, match="self_test_seconds") as caught:
        device("Busy", self_test_seconds=0.05).acquire()
    assert caught.value.transient


def test_a_device_whose_jobs_fail_says_why() -> None:
    with pytest.raises(AcquireError, match="the fridge is warm"):
        device("Failing").acquire()
    backend = _acquired(device("Failing", self_test=False))
    job_id = backend.start(bell(), tag="")
    status = backend.status(job_id, wait=30)
    assert (status.state, status.message) == (JobState.FAILED, "RuntimeError: the fridge is warm")
    with pytest.raises(VendorJobError, match="the fridge is warm"):
        backend.result(job_id)


# Jobs that outlive a process


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_another_process_reads_the_results_of_a_durable_job(tmp_path: Path) -> None:
    first, second = (_acquired(device("Service", durable=True)) for _ in range(2))
    assert first.capabilities.durable_jobs
    circuit = QuantumCircuit(2)
    circuit.x(0)
    observables = ["ZI", "IZ", "XX"]
    estimated = wire.pack_pubs([EstimatorPub.coerce((circuit, observables), 0.1)], [None])
    work = Batch(primitive=Primitive.ESTIMATOR, pubs=estimated * 2)
    job_id = first.start(work, tag="tag")
    first.release()
    assert second.status(job_id, wait=30).state is JobState.DONE
    for result in second.result(job_id):
        assert wire.unpack_result(result)[0].evs[:2].tolist() == [1, -1]
    assert second.usage(job_id).shots == 400
    for lost in ("job-99", "nonsense"):
        with pytest.raises(ResourceError, match="cannot tell what job"):
            second.status(lost)
    vendor_devices.Service.jobs.clear()
    with pytest.raises(ResourceError, match="no job"):
        _acquired(device("Service", durable=True, self_test=False)).status(job_id)
    (kept,) = (tmp_path / "hybridflow" / "jobs").iterdir()
    os.utime(kept, (0, 0))
    second.release()
    second.acquire()
    assert not kept.exists()


def test_a_device_without_a_way_to_its_jobs_is_not_durable() -> None:
    with pytest.raises(SiteError, match="retrieve_job"):
        device("CountsOnly", durable=True).acquire()


# What goes wrong


class Answered(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"the service says {status}")
        self.response = type("Response", (), {"status_code": status})()


class Unheard(Exception):
    """Of a vendor: what it means, only the site file says."""


def _from(cause: Exception) -> Exception:
    error = QiskitError("wrapped")
    error.__cause__ = cause
    return error


STARTING: list[tuple[Exception, type[HybridflowError], bool]] = [
    (ValueError("gate not native"), RequestError, False),
    (QiskitError("too deep"), RequestError, False),
    (NotImplementedError("no loops"), RequestError, False),
    (Answered(422), RequestError, False),
    (Unheard("not native"), RequestError, False),
    (Answered(401), ResourceError, False),
    (Answered(429), ResourceError, True),
    (Answered(503), ResourceError, True),
    (Answered(500), BackendLostError, True),
    (ConnectionResetError("gone"), BackendLostError, True),
    (TimeoutError(), BackendLostError, True),
    (_from(ConnectionResetError("gone")), BackendLostError, True),
    (json.JSONDecodeError("no JSON", "<html>", 0), BackendLostError, True),
    (RuntimeError("who knows"), BackendLostError, True),
]


@pytest.mark.parametrize(("raised", "kind", "transient"), STARTING, ids=lambda value: repr(value))
def test_what_a_vendor_raises_in_run_is_typed(
    raised: Exception, kind: type[HybridflowError], transient: bool
) -> None:
    backend = _acquired(device("Refusing", self_test=False, refusals=["Unheard"]))
    backend._machine._device.error = raised
    with pytest.raises(HybridflowError) as caught:
        backend.start(bell(), tag="")
    assert type(caught.value) is kind
    assert caught.value.transient is transient
    assert type(raised).__name__ in str(caught.value)
    assert str(raised).strip("'\"") in str(caught.value)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"factory": "no_such_package.of_any:Vendor"}, MissingExtraError, "hybridflow env create"),
        ({"factory": "qiskit:NoSuchThing"}, SiteError, "qiskit has no 'NoSuchThing'"),
        ({"factory": FAKE, "arguments": {"colour": 1}}, SiteError, "colour"),
        ({"factory": "qiskit:QuantumCircuit"}, SiteError, "not a BackendV2"),
        ({"factory": "builtins:__doc__", "arguments": {"a": 1}}, SiteError, "no callable"),
        ({"sampler": PAIR["estimator"]}, SiteError, "not a BaseSamplerV2"),
        ({"factory": "vendor_devices:keyed", "secrets": {"token": "KEY"}}, AcquireError, "KEY"),
        ({"factory": "vendor_devices:keyed", "arguments": {"token": ""}}, AcquireError, "wrong"),
    ],
)
def test_what_cannot_be_made_says_why(
    options: dict[str, Any], kind: type[HybridflowError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make(**options).acquire()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "factory"),
        ({"factory": "no path"}, "import path"),
        ({"factory": FAKE, "exact": True}, "`exact` has no effect"),
        ({"sampler": PAIR["sampler"], "seed_option": "seed"}, "`seed_option` has no effect"),
        ({"factory": FAKE, "num_qubits": 0}, "num_qubits"),
        ({"factory": FAKE, "run_options": {"shots": 1}}, "`run_options` cannot have `shots`"),
        ({"factory": FAKE, "self_test_seconds": -1}, "self_test_seconds"),
        ({"factory": FAKE, "arguments": {"a": 1}, "secrets": {"a": "K"}}, "`a` stands in"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(options, QiskitOptions)


def test_credentials_are_handed_to_the_factory_alone() -> None:
    backend = make(
        {"QRMI_KEY": "s3cret"}, factory="vendor_devices:keyed", secrets={"token": "QRMI_KEY"}
    )
    backend.acquire()
    assert "s3cret" not in repr(vars(backend)) + repr(backend.metadata())
    backend.release()

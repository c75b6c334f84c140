"""The backend ``qrmi``: the real wheel, against a service here that speaks as IBM's does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qiskit import QuantumCircuit
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.quantum_info import SparsePauliOp

from hybridflow import wire
from hybridflow.backends.ibm_json import batch_of, results_of
from hybridflow.backends.qrmi import QrmiBackend, QrmiOptions
from hybridflow.backends.qrmi.definition import definition_of
from hybridflow.backends.qrmi.faults import ANSWERS
from hybridflow.backends.qrmi.kinds import KINDS
from hybridflow.environment import TOKEN
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    HybridflowError,
    MissingExtraError,
    RequestError,
    ResourceError,
    SiteError,
    VendorJobError,
)
from hybridflow.records import Batch, JobState, Primitive
from hybridflow.testing import QpuEmulator, check_backend, ibm_service

SECONDS = 60
SECRET = "a-key-that-nobody-may-see"


@pytest.fixture(scope="module")
def running() -> Iterator[QpuEmulator]:
    keys = {"alice": SECRET}
    options = {"readout_flip": 0.0, "seconds_per_job": 0.05, "seconds_per_shot": 0.001}
    with ibm_service("manila", keys=keys, **options) as service:
        yield service


@pytest.fixture
def service(running: QpuEmulator) -> Iterator[QpuEmulator]:
    yield running
    running.faults()


@pytest.fixture
def backend(service: QpuEmulator) -> Iterator[QrmiBackend]:
    made = QrmiBackend("manila", QrmiOptions(), service.qrmi_keys(SECRET))
    made.acquire()
    yield made
    service.faults()
    made.release()


def x_circuit() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.x(1)
    circuit.measure_all()
    return circuit


def batch(*pubs: Any, shots: int = 50, **options: Any) -> Batch:
    coerced = [SamplerPub.coerce(pub, shots) for pub in pubs or (x_circuit(),)]
    packed = wire.pack_pubs(coerced, [None] * len(coerced))
    return Batch(primitive=Primitive.SAMPLER, pubs=packed, options=options)


def finished(backend: QrmiBackend, job_id: str) -> JobState:
    return backend.status(job_id, wait=SECONDS).state


def jobs(service: QpuEmulator) -> int:
    return len(service.log())


def test_it_keeps_the_promises_of_all_backends(service: QpuEmulator) -> None:
    keys = service.qrmi_keys(SECRET)
    check_backend(lambda: QrmiBackend("manila", QrmiOptions(), keys), fidelity=0.95)


def test_a_system_of_ones_own_keeps_them_too(service: QpuEmulator) -> None:
    keys = service.qrmi_keys(SECRET, system=True)
    check_backend(lambda: QrmiBackend("manila", QrmiOptions(), keys), fidelity=0.95)
    backend = QrmiBackend("manila", QrmiOptions(), keys)
    backend.acquire()
    service.faults(fail_jobs=1)
    job = backend.start(batch(), tag="")
    assert finished(backend, job) is JobState.FAILED
    with pytest.raises(VendorJobError, match="the job failed, as the emulator was told"):
        backend.result(job)
    service.faults(drop_accepted=1)
    with pytest.raises(BackendLostError):
        backend.start(batch(), tag="")
    backend.release()


def test_a_result_says_what_the_device_took(backend: QrmiBackend) -> None:
    job = backend.start(batch(shots=100), tag="")
    assert finished(backend, job) is JobState.DONE
    data, _ = wire.unpack_result(backend.result(job)[0])
    assert data.meas.get_counts() == {"10": 100}
    usage = backend.usage(job)
    assert usage.shots == 100
    assert usage.qpu_seconds == pytest.approx(0.15)
    assert backend.target().calibration == backend.metadata()["calibration"] != ""


def test_what_an_estimator_costs_is_estimated(service: QpuEmulator) -> None:
    options = QrmiOptions(seconds_per_job=3.0, seconds_per_shot=0.001)
    backend = QrmiBackend("manila", options, service.qrmi_keys(SECRET))
    backend.acquire()
    circuit = QuantumCircuit(1)
    circuit.x(0)
    pub = EstimatorPub.coerce((circuit, SparsePauliOp("Z")), 0.05)
    asked = Batch(primitive=Primitive.ESTIMATOR, pubs=wire.pack_pubs([pub], [None]))
    job = backend.start(asked, tag="")
    assert finished(backend, job) is JobState.DONE
    data, _ = wire.unpack_result(backend.result(job)[0])
    assert float(data.evs) == pytest.approx(-1, abs=0.2)
    assert backend.usage(job).qpu_seconds == pytest.approx(3.0 + 4.096)
    backend.release()


def test_a_job_outlives_who_started_it(service: QpuEmulator, backend: QrmiBackend) -> None:
    job = backend.start(batch(shots=30), tag="")
    other = QrmiBackend("manila", QrmiOptions(), service.qrmi_keys(SECRET))
    assert finished(other, job) is JobState.DONE
    data, _ = wire.unpack_result(other.result(job)[0])
    assert data.meas.get_counts() == {"10": 30}
    assert other.usage(job).shots == 30


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"drop_accepted": 1},
        {"break_accepted": 1},
        {"halved": 1, "only": ["start"]},
        {"pages": 1, "only": ["start"]},
    ],
    ids=str,
)
def test_a_job_whose_id_was_lost_may_run(
    service: QpuEmulator, backend: QrmiBackend, fault: dict[str, Any]
) -> None:
    before = jobs(service)
    service.faults(**fault)
    with pytest.raises(BackendLostError, match="whether the job was accepted is not known"):
        backend.start(batch(), tag="")
    assert jobs(service) <= before + 1
    assert backend.find("") is None


@pytest.mark.parametrize(
    ("fault", "kind", "transient"),
    [
        ({"offline": True}, ResourceError, True),
        ({"away_seconds": 60}, ResourceError, True),
        ({"busy": 50, "only": ["start"]}, ResourceError, True),
        ({"broken": 50, "only": ["describe"]}, ResourceError, True),
        ({"expired": 50, "only": ["start"]}, ResourceError, False),
        ({"halved": 50, "only": ["describe"]}, ResourceError, True),
    ],
    ids=str,
)
def test_what_was_not_started_is_not_uncertain(
    service: QpuEmulator,
    backend: QrmiBackend,
    fault: dict[str, Any],
    kind: type[HybridflowError],
    transient: bool,
) -> None:
    before = jobs(service)
    service.faults(**fault)
    with pytest.raises(kind) as caught:
        backend.start(batch(), tag="")
    assert not isinstance(caught.value, BackendLostError)
    assert caught.value.transient is transient
    assert jobs(service) == before


@pytest.mark.parametrize(
    "fault",
    [{"busy": 9}, {"broken": 9}, {"pages": 1}, {"halved": 1}, {"drop_results": 1}],
    ids=str,
)
def test_results_that_do_not_come_are_asked_for_again(
    service: QpuEmulator, backend: QrmiBackend, fault: dict[str, Any]
) -> None:
    job = backend.start(batch(), tag="")
    assert finished(backend, job) is JobState.DONE
    service.faults(**fault, only=["result"])
    with pytest.raises(ResourceError) as caught:
        backend.result(job)
    assert caught.value.transient
    service.faults()
    assert len(backend.result(job)) == 1


def test_a_failed_job_has_the_vendors_reason(service: QpuEmulator, backend: QrmiBackend) -> None:
    service.faults(fail_jobs=1)
    job = backend.start(batch(), tag="")
    assert finished(backend, job) is JobState.FAILED
    with pytest.raises(VendorJobError, match="the job failed, as the emulator was told") as caught:
        backend.result(job)
    assert caught.value.vendor_job_id == job


def test_a_wrong_key_is_told_and_not_shown(service: QpuEmulator) -> None:
    wrong = "a-wrong-key-of-somebody"
    backend = QrmiBackend("manila", QrmiOptions(), service.qrmi_keys(wrong))
    with pytest.raises(AcquireError, match="manila cannot be acquired") as caught:
        backend.acquire()
    assert wrong not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"


def test_a_device_that_is_offline_cannot_be_acquired_now(service: QpuEmulator) -> None:
    service.faults(offline=True)
    backend = QrmiBackend("manila", QrmiOptions(), service.qrmi_keys(SECRET))
    with pytest.raises(AcquireError, match="offline") as caught:
        backend.acquire()
    assert caught.value.transient


def test_a_device_that_the_service_does_not_have(service: QpuEmulator) -> None:
    backend = QrmiBackend("brisbane", QrmiOptions(), service.qrmi_keys(SECRET))
    with pytest.raises(AcquireError, match="brisbane"):
        _ = backend.capabilities


def test_the_plugins_session_is_used_and_left_open(service: QpuEmulator) -> None:
    plugin = QrmiBackend("manila", QrmiOptions(), service.qrmi_keys(SECRET))
    plugin.acquire()
    token = str(plugin._token)
    keys = service.qrmi_keys(SECRET) | {TOKEN: token}
    for _ in range(2):  # released, it would take no more jobs
        backend = QrmiBackend("manila", QrmiOptions(), keys)
        backend.acquire()
        assert finished(backend, backend.start(batch(), tag="")) is JobState.DONE
        backend.release()
    plugin.release()
    backend.acquire()
    with pytest.raises(ResourceError, match=r"the session .* is closed"):
        backend.start(batch(), tag="")


def test_a_session_that_the_service_closed_is_opened_again(backend: QrmiBackend) -> None:
    backend._handle.release(backend._token)
    assert finished(backend, backend.start(batch(), tag="")) is JobState.DONE


# --- refusals ------------------------------------------------------------------------------------


def test_what_a_device_cannot_do_is_refused_before_it_is_asked(
    service: QpuEmulator, backend: QrmiBackend
) -> None:
    before = jobs(service)
    wide = QuantumCircuit(6)
    wide.measure_all()
    for wrong, message in [
        (batch(wide), "6 qubits, manila has 5"),
        (batch(shots=10**7), "shots a PUB"),
        (batch(colour="blue"), "knows no option 'colour'"),
    ]:
        with pytest.raises(RequestError, match=message):
            backend.start(wrong, tag="")
    assert jobs(service) == before


def test_a_backend_that_is_not_acquired_starts_nothing(service: QpuEmulator) -> None:
    backend = QrmiBackend("manila", QrmiOptions(), service.qrmi_keys(SECRET))
    with pytest.raises(ResourceError, match="has not been acquired"):
        backend.start(batch(), tag="")


def test_only_plain_data_is_decoded() -> None:
    foreign = {"__type__": "settings", "__module__": "os", "__class__": "system", "__value__": {}}
    with pytest.raises(RequestError, match="type 'settings'"):
        batch_of("sampler", json.dumps({"pubs": [foreign]}))
    with pytest.raises(ResourceError, match="type 'settings'"):
        results_of(json.dumps(foreign), 1, resource="manila")


@pytest.mark.parametrize("text", ["", "<html>", "{}", "[1]", '{"__type__": "PrimitiveResult"}'])
def test_results_that_are_none_are_transient(text: str) -> None:
    with pytest.raises(ResourceError, match="the results that manila sent cannot be read") as error:
        results_of(text, 1, resource="manila")
    assert error.value.transient


@pytest.mark.parametrize("body", ["", "<html>", "{}", '{"pubs": [7]}', "[]"])
def test_jobs_that_are_none_are_refused(body: str) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        batch_of("sampler", body)


def test_every_exception_of_the_wheel_is_known() -> None:
    import qrmi

    classes = [value for value in vars(qrmi).values() if isinstance(value, type)]
    errors = {kind.__name__ for kind in classes if issubclass(kind, Exception)}
    assert errors - {qrmi.QrmiError.__name__} == set(ANSWERS)
    assert all(issubclass(getattr(qrmi, name), qrmi.QrmiError) for name in ANSWERS)


def test_every_type_of_the_wheel_is_known() -> None:
    import qrmi

    members = {name for name in dir(qrmi.ResourceType) if not name.startswith("_")}
    assert {kind.member for kind in KINDS.values()} == members


# --- definitions ---------------------------------------------------------------------------------


def config(folder: Path, *, mode: int = 0o600, **definition: Any) -> str:
    entry = {"name": "manila", "type": "ibm-quantum-compute-service", "is_dynamic": False}
    file = folder / "qrmi_config.json"
    file.write_text(json.dumps({"resources": [entry | definition]}))
    file.chmod(mode)
    return str(file)


def test_a_definition_from_a_file(service: QpuEmulator, tmp_path: Path) -> None:
    file = config(tmp_path, environment=service.qrmi_keys(SECRET))
    backend = QrmiBackend("mine", QrmiOptions(config=file, name="manila"))
    assert backend.capabilities.num_qubits == 5
    assert SECRET not in repr(backend._definition)
    assert backend._definition.secrets == (SECRET,)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"mode": 0o644}, {}, "can be read by others"),
        ({"type": "abacus"}, {}, "the type of 'manila' is not known"),
        ({}, {"name": "lima"}, "defines no resource 'lima'; it defines: manila"),
        ({"environment": [1]}, {}, "is no qrmi_config.json"),
        ({"type": "iqm-server"}, {}, "has no form of requests"),
    ],
    ids=str,
)
def test_wrong_definitions_are_explained(
    tmp_path: Path, change: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    file = config(tmp_path, **{"environment": {"KEY": SECRET}, **change})
    with pytest.raises(SiteError, match=message) as caught:
        QrmiBackend("manila", QrmiOptions(config=file, **options))
    assert SECRET not in f"{caught.value} {caught.value.__context__}"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="cannot be read: No such file"):
        definition_of("manila", QrmiOptions(config=str(tmp_path / "none.json")), {})


def test_without_credentials_it_says_where_they_come_from() -> None:
    with pytest.raises(AcquireError, match=r"`--qpu=manila`.*`config` in \[qpu.manila\]"):
        QrmiBackend("manila")


@pytest.mark.parametrize("kind", KINDS)
def test_the_keys_tell_the_type(kind: str) -> None:
    keys = {f"{KINDS[kind].prefix}SOMETHING": "1"}
    assert definition_of("one", QrmiOptions(), keys).kind == kind


@pytest.mark.parametrize(
    "wrong", [{"type": "abacus"}, {"lanes": 0}, {"timeout_seconds": 0}, {"seconds_per_job": -1}]
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        QrmiOptions(**wrong)


def test_a_missing_wheel_names_the_extra(
    service: QpuEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "qrmi", None)
    with pytest.raises(MissingExtraError, match=r"hybridflow\[qrmi\]"):
        QrmiBackend("manila", QrmiOptions(), service.qrmi_keys(SECRET))


# --- through the door ----------------------------------------------------------------------------

DOOR = [sys.executable, "-m", "hybridflow", "slot", "run", "--site", "site.toml", "--"]
PROGRAM = """
import os
from qiskit import QuantumCircuit
import hybridflow as hf

assert not [name for name in os.environ if "QRMI" in name]
circuit = QuantumCircuit(2)
circuit.x(1)
circuit.measure_all()
jobs = [hf.Sampler().run([circuit], shots=shots) for shots in (10, 20, 30)]
for job in jobs:
    result = job.result()
    print(result[0].data.meas.get_counts(), result.metadata["hybridflow"]["backend"])
"""


def test_a_program_in_a_slot_has_no_key_and_its_results(
    service: QpuEmulator, tmp_path: Path
) -> None:
    (tmp_path / "site.toml").write_text('[qpu.manila]\nbackend = "qrmi"\n')
    (tmp_path / "program.py").write_text(PROGRAM)
    keys = {f"manila_{name}": value for name, value in service.qrmi_keys(SECRET).items()}
    before = jobs(service)
    done = subprocess.run(
        [*DOOR, sys.executable, "program.py"],
        cwd=tmp_path,
        env=os.environ | keys,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.stdout.splitlines() == [f"{{'10': {shots}}} qrmi" for shots in (10, 20, 30)], (
        done.stderr
    )
    assert SECRET not in done.stderr
    assert before < jobs(service) <= before + 3

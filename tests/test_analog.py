"""Analogue sequences: from Pulser's objects through a real broker to QuTiP's samples, and back."""

import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pulser
import pytest
from qiskit import QuantumCircuit

import hybridflow as hf
from hybridflow import environment, wire
from hybridflow.backends.pulser import PulserBackend, PulserOptions
from hybridflow.broker.ledger.identity import digest
from hybridflow.errors import MissingExtraError, RequestError, SiteError, TooLargeError
from hybridflow.primitives.analog import _packed
from hybridflow.records import Batch, PackedPub, Primitive, Request

ALONE = [(0.0, 0.0)]
BLOCKED = [(0.0, 0.0), (5.0, 0.0)]


def sequence(
    places: list[tuple[float, float]] = BLOCKED, device: Any = pulser.AnalogDevice
) -> pulser.Sequence:
    """A global pulse of 1048 ns whose amplitude, in rad/µs, is a variable."""
    atoms = {f"q{number}": place for number, place in enumerate(places)}
    made = pulser.Sequence(pulser.Register(atoms), device)
    made.declare_channel("global", "rydberg_global")
    amplitude = made.declare_variable("amplitude")
    made.add(pulser.Pulse.ConstantPulse(1048, amplitude, 0.0, 0.0), "global")
    return made


PI = {"amplitude": 2.9977}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text each time: one embedded broker serves the whole module."""
    file = tmp_path / "lab.toml"
    file.write_text("[qpu.fresnel]\nbackend = 'pulser'\n[qpu.fake]\nbackend = 'fake'\n")
    monkeypatch.setenv(environment.SITE, str(file))


@pytest.mark.usefixtures("site")
def test_round_trip() -> None:
    """Values, shots and seeds hold; text and object are the same; atoms keep their order."""
    sampler = hf.AnalogSampler("fresnel", seed=5)
    far = [*BLOCKED, (30.0, 0.0)]
    pubs = [
        (sequence(far), PI, 300),
        sequence(ALONE).build(**PI),
        (sequence(ALONE), {"amplitude": 0}),
    ]
    first = sampler.run(pubs, shots=200)
    data = [part.data.meas for part in first.result()]
    assert [array.num_shots for array in data] == [300, 200, 200]
    assert all(text[2] == "1" and text != "111" for text in data[0].get_counts() if text != "000")
    assert data[1].get_counts().get("1", 0) >= 199
    assert data[2].get_counts() == {"0": 200}
    texts = [pub[0].build(**pub[1]).to_abstract_repr() for pub in (pubs[0], pubs[2])]
    again = sampler.run([(texts[0], None, 300), pubs[1], texts[1]], shots=200).result()
    assert [part.data.meas for part in again] == data
    origin = first.provenance()
    assert (origin.resource, origin.simulator, origin.batch_pubs) == ("fresnel", True, 3)


@pytest.mark.usefixtures("site")
def test_a_sequence_that_does_not_fit_fails_alone() -> None:
    """Others that shared its batch get their samples; the error has Pulser's reason."""
    sampler = hf.AnalogSampler("fresnel")
    jobs = [sampler.run([(sequence(), PI)], shots=10) for _ in range(3)]
    wrong = sampler.run([(sequence(device=pulser.MockDevice), PI)])
    jobs.append(sampler.run([(sequence(), PI)], shots=10))
    with pytest.raises(
        RequestError, match=r"made for MockDevice, does not fit AnalogDevice: .*Rydb"
    ):
        wrong.result(60)
    assert [job.result(60)[0].data.meas.num_shots for job in jobs] == [10] * 4


@pytest.mark.usefixtures("site")
def test_each_kind_of_request_is_told_where_it_can_run() -> None:
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    with pytest.raises(RequestError, match=r"'fresnel'.*runs: analog.*'lab' that do: fake$"):
        hf.Sampler("fresnel").run([circuit])
    with pytest.raises(RequestError, match=r"'fake'.*sampler, estimator.*'lab' that do: fresnel$"):
        hf.AnalogSampler("fake").run([(sequence(), PI)])


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("pub", "kind", "reason"),
    [
        (lambda: sequence(), RequestError, "variables without values: amplitude"),
        (
            lambda: (sequence(), {"omega": 1}),
            RequestError,
            "no variable 'omega'; it has: amplitude",
        ),
        (lambda: (sequence(), [1.0]), RequestError, "values are a mapping"),
        (lambda: (sequence(), {"amplitude": 1e9}), RequestError, "cannot be built: .*amplitude"),
        (lambda: (sequence(), PI, 2.5), RequestError, "shots must be an integer"),
        (lambda: (sequence(), PI, 10, 10), RequestError, "4 parts"),
        (lambda: (sequence(), PI, 2001), TooLargeError, "2001 shots are over the limit of 2000"),
        (lambda: QuantumCircuit(1, 1), RequestError, "run by Sampler"),
        (lambda: ("{}", PI), RequestError, "values need the sequence itself"),
    ],
)
def test_wrong_pubs_are_refused_before_they_are_sent(
    pub: Callable[[], Any], kind: type[Exception], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        hf.AnalogSampler("fresnel").run([pub()])


def test_a_list_is_asked_for() -> None:
    with pytest.raises(RequestError, match=r"write run\(\[sequence\]\)"):
        hf.AnalogSampler().run(sequence())


def test_the_ledger_knows_an_equal_sequence_again() -> None:
    """Made anew, as after a restart, it has the same digest; with another value, another one."""

    def told(amplitude: float) -> bytes:
        pubs = _packed([(sequence(), {"amplitude": amplitude})], 100, None)
        request = Request(id=uuid.uuid4().hex, primitive=Primitive.ANALOG, pubs=pubs)
        return digest(wire.decode(wire.encode(request), Request), b"fresnel")

    assert told(1.0) == told(1.0) != told(2.0)


@pytest.mark.parametrize(
    ("circuit", "kind", "reason"),
    [
        (b"\xff", RequestError, "could not be read: UnicodeDecodeError"),
        (b"no JSON", RequestError, "could not be read: JSONDecodeError"),
        (b"{}", RequestError, "could not be read: ValidationError"),
        (sequence().to_abstract_repr().encode(), RequestError, "without values"),
        (
            _packed([(sequence([*BLOCKED, (10.0, 0.0)]), PI)], 1, None)[0].circuit,
            TooLargeError,
            "3 at",
        ),
    ],
)
def test_the_backend_trusts_nobody(circuit: bytes, kind: type[Exception], reason: str) -> None:
    backend = PulserBackend(options=PulserOptions(num_qubits=2))
    backend.acquire()
    try:
        pub = PackedPub(circuit=circuit, shots=10)
        with pytest.raises(kind, match=reason):
            backend.start(Batch(primitive=Primitive.ANALOG, pubs=(pub,)), tag="t")
    finally:
        backend.release()


def test_a_device_from_its_vendors_file(tmp_path: Path) -> None:
    file = tmp_path / "device.json"
    file.write_text(pulser.MockDevice.to_abstract_repr())
    assert PulserBackend(options=PulserOptions(device=str(file))).capabilities.max_shots is None
    file.write_text("{}")
    for name, reason in ((file, "holds no device"), (tmp_path / "none.json", "cannot be read")):
        with pytest.raises(SiteError, match=f"qpu.pulser.device.*{reason}"):
            _ = PulserBackend(options=PulserOptions(device=str(name))).capabilities
    with pytest.raises(SiteError, match="no device 'Fresnel'; Pulser has: AnalogDevice, "):
        _ = PulserBackend(options=PulserOptions(device="Fresnel")).capabilities


@pytest.mark.parametrize(
    "wrong", [{"num_qubits": 0}, {"p_false_neg": 2.0}, {"dephasing_rate": -1.0}, {"noise": 1}]
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, PulserOptions)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pulser.devices", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hybridflow\[pulser\]'"):
        _ = PulserBackend().capabilities

"""The backend `ibm_runtime` without a service: its local mode, its options, who it asks as."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit, transpile
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow import environment, wire
from hybridflow.backends.ibm_runtime import IbmRuntimeBackend, IbmRuntimeOptions
from hybridflow.backends.ibm_runtime.account import API_KEY, Held, find_account
from hybridflow.backends.registry import backend_type
from hybridflow.errors import MissingExtraError, NoSlotError, RequestError, SiteError, TooLargeError
from hybridflow.records import Batch, PackedPub, Primitive
from hybridflow.site import load_site
from hybridflow.targets import target_of
from hybridflow.testing import check_backend

CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/1:2::"
KEY = "an-api-key-that-nobody-may-read"
CREDENTIALS = {API_KEY: KEY, "QRMI_IBM_QCS_SERVICE_CRN": CRN}


def local(**options: Any) -> IbmRuntimeBackend:
    return IbmRuntimeBackend(
        "fake", IbmRuntimeOptions(channel="local", device="fake_manila", **options)
    )


@pytest.fixture(scope="module")
def backend() -> Iterator[IbmRuntimeBackend]:
    opened = local()
    opened.acquire()
    yield opened
    opened.release()


def bell(backend: IbmRuntimeBackend) -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return transpile(circuit, target=target_of(backend.target()), seed_transpiler=1)


def pub(backend: IbmRuntimeBackend, *, shots: int = 50, seed: int | None = None) -> PackedPub:
    return wire.pack_pubs([SamplerPub.coerce(bell(backend), shots)], [seed])[0]


def sampled(pub: PackedPub, **options: Any) -> Batch:
    return Batch(primitive=Primitive.SAMPLER, pubs=(pub,), options=options)


# --- the local mode ------------------------------------------------------------------------------


def test_local_mode_keeps_the_promises_of_a_backend() -> None:
    check_backend(local, fidelity=0.65)


def test_a_seed_of_zero_counts_too(backend: IbmRuntimeBackend) -> None:
    seeded = pub(backend, seed=0)
    found = []
    for number in range(2):
        job_id = backend.start(sampled(seeded), tag=f"zero-{number}")
        assert backend.status(job_id, wait=60).state.final
        data, _ = wire.unpack_result(backend.result(job_id)[0])
        found.append(data.meas.array)
    assert np.array_equal(*found)


def test_options_are_those_of_the_package(backend: IbmRuntimeBackend) -> None:
    wanted = {"twirling": {"enable_gates": True}, "dynamical_decoupling": {"enable": True}}
    job_id = backend.start(sampled(pub(backend), **wanted), tag="options")
    assert backend.status(job_id, wait=60).state == "done"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"twirling": {"enable_gates": "a bit"}}, r"twirling.*enable_gates.*boolean"),
        ({"twirling": {"no_such": 1}}, "no_such"),
        ({"max_execution_time": "long"}, "max_execution_time"),
        ({"execution": {"meas_type": "kerneled"}}, "only 'classified'"),
        ({"environment": {"job_tags": ["mine"]}}, "no sampler option 'environment'"),
        ({"resilience_level": 1}, "no sampler option 'resilience_level'"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(
    backend: IbmRuntimeBackend, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        backend.start(sampled(pub(backend), **options), tag="wrong")


def test_limits_are_the_devices(backend: IbmRuntimeBackend) -> None:
    can = backend.capabilities
    assert (can.num_qubits, can.simulator, can.durable_jobs) == (5, True, False)
    with pytest.raises(TooLargeError, match="takes 300 PUBs"):
        backend.start(
            Batch(primitive=Primitive.SAMPLER, pubs=(pub(backend),) * 301), tag="too many"
        )


def test_an_unknown_device_is_named_with_those_that_are_near() -> None:
    backend = IbmRuntimeBackend("qpu", IbmRuntimeOptions(channel="local", device="fake_manilla"))
    with pytest.raises(SiteError, match=r"qpu\.qpu\.device.*'fake_manilla'.*mean fake_manila"):
        _ = backend.capabilities


# --- the site file -------------------------------------------------------------------------------


def test_the_example_of_a_site_is_right() -> None:
    site = load_site(Path(__file__).parent.parent / "configs" / "ibm.toml")
    assert {resource.backend for resource in site.resources.values()} == {"ibm_runtime"}
    assert backend_type("ibm_runtime").own_process


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('mode = "sesion"', r"allowed are: 'job', 'batch', 'session'"),
        ('url = "http://quantum.example.org/api"', "must begin with https"),
        ('url = "quantum.example.org"', "begins with https"),
        ('token_url = "https://user:secret@iam.example.org"', "no user, password"),
        ('url = "https://[::1"', "is no address"),
        ("idle_seconds = -1", "`idle_seconds` must be at least 0"),
        ("session_seconds = 0", "`session_seconds` must be above 0"),
        ('account_file = "accounts.json"', "needs `account`"),
        ('channel = "local"', "needs `device`"),
        ('token = "abc"', "unknown key `qpu.fez.token`"),
    ],
)
def test_a_wrong_key_is_explained(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "site.toml"
    file.write_text(f'[qpu.fez]\nbackend = "ibm_runtime"\n{line}\n')
    with pytest.raises(SiteError, match=said):
        load_site(file)


def test_a_loopback_server_needs_no_encryption() -> None:
    for host in ("127.0.0.1:80", "localhost", "[::1]:8080"):
        assert IbmRuntimeOptions(url=f"http://{host}/api/v1", token_url=f"http://{host}")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qiskit_ibm_runtime", None)
    monkeypatch.delitem(sys.modules, "qiskit_ibm_runtime.fake_provider", raising=False)
    with pytest.raises(MissingExtraError, match=r"'hybridflow\[runtime\]'"):
        local().acquire()


# --- who asks ------------------------------------------------------------------------------------


def test_credentials_are_those_of_the_outside_contract() -> None:
    where = {
        "QRMI_IBM_QCS_ENDPOINT": "https://quantum.example.org/api/v1",
        "QRMI_IBM_QCS_IAM_ENDPOINT": "https://iam.example.org",
    }
    account = find_account("fez", IbmRuntimeOptions(), CREDENTIALS | where)
    assert (account.token, account.instance, account.held) == (KEY, CRN, None)
    assert (account.url, account.token_url) == tuple(where.values())
    assert KEY not in repr(account)


def test_the_site_file_says_where_before_the_credentials_do() -> None:
    options = IbmRuntimeOptions(url="https://mine.example.org", instance="crn:mine")
    theirs = {"QRMI_IBM_QCS_ENDPOINT": "https://theirs.example.org"}
    account = find_account("fez", options, CREDENTIALS | theirs)
    assert (account.url, account.instance) == ("https://mine.example.org", "crn:mine")


def test_a_session_that_the_plugin_has_acquired_is_used() -> None:
    token = {environment.TOKEN: "s-1"}
    account = find_account("fez", IbmRuntimeOptions(), CREDENTIALS | token)
    assert account.held == Held("s-1", "session")
    batch = token | {"QRMI_IBM_QCS_SESSION_MODE": "batch"}
    account = find_account("fez", IbmRuntimeOptions(), CREDENTIALS | batch)
    assert account.held == Held("s-1", "batch")


def test_a_saved_account_is_read_by_its_name(tmp_path: Path) -> None:
    options = saved(tmp_path, mine={"channel": "ibm_cloud", "token": KEY, "instance": CRN})
    account = find_account("fez", options, {})
    assert (account.token, account.channel, account.instance) == (KEY, "ibm_cloud", CRN)


def saved(folder: Path, **accounts: Any) -> IbmRuntimeOptions:
    file = folder / "accounts.json"
    file.write_text(json.dumps(accounts))
    return IbmRuntimeOptions(account="mine", account_file=str(file))


@pytest.mark.parametrize(
    ("accounts", "said"),
    [
        ({"other": {"channel": "ibm_cloud", "token": KEY}}, "no account 'mine'"),
        ({"mine": KEY}, "cannot be read"),
        ({"mine": {"channel": "no_such", "token": KEY}}, "cannot be read"),
        ({"mine": {"channel": "ibm_cloud", "token": f"{KEY}\n"}}, "is no key"),
        ({"mine": {"channel": "ibm_cloud", "token": KEY, "instance": [KEY]}}, "cannot be used"),
    ],
)
def test_a_wrong_saved_account_is_explained_without_its_token(
    tmp_path: Path, accounts: dict[str, Any], said: str
) -> None:
    with pytest.raises(SiteError, match=said) as raised:
        find_account("fez", saved(tmp_path, **accounts), {})
    assert KEY not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("credentials", "said"),
    [
        ({}, r"hybridflow slot run.*fez_QRMI_IBM_QCS_IAM_APIKEY"),
        ({API_KEY: KEY}, r"set `qpu\.fez\.instance`"),
        (CREDENTIALS | {API_KEY: f"{KEY} x"}, "is no key"),
        (CREDENTIALS | {"QRMI_IBM_QCS_ENDPOINT": "http://example.org"}, "must begin with https"),
    ],
)
def test_what_is_missing_or_wrong_is_explained(credentials: dict[str, str], said: str) -> None:
    with pytest.raises((NoSlotError, SiteError), match=said) as raised:
        find_account("fez", IbmRuntimeOptions(), credentials)
    assert KEY not in str(raised.value)

"""IBM's service under test: the emulated QPU as IBM's clients see it, and who asks it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import requests
from qiskit import QuantumCircuit, transpile
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit_ibm_runtime.fake_provider import FakeManilaV2

from hybridflow import wire
from hybridflow.backends.ibm_runtime import IbmRuntimeBackend, IbmRuntimeOptions
from hybridflow.backends.ibm_runtime.account import API_KEY
from hybridflow.records import Batch, PackedPub, Primitive, Resource
from hybridflow.testing import QpuEmulator

KEY = "key-of-alice-that-nobody-may-read"
KEYS = {"alice": KEY}
CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/1:2::"
CREDENTIALS = {API_KEY: KEY, "QRMI_IBM_QCS_SERVICE_CRN": CRN}

PER_SHOT = 0.001
"""Seconds of the device that a shot takes."""


def options_of(emulator: QpuEmulator, **options: Any) -> dict[str, Any]:
    url = f"{emulator.url}/ibm"
    return {"url": url, "token_url": url, "find_seconds": 0.2, "poll_seconds": 0.1} | options


def resource_of(emulator: QpuEmulator, **options: Any) -> Resource:
    return Resource(name="qpu", backend="ibm_runtime", options=options_of(emulator, **options))


def backend_of(
    emulator: QpuEmulator, *, credentials: dict[str, str] = CREDENTIALS, **options: Any
) -> IbmRuntimeBackend:
    return IbmRuntimeBackend(
        "qpu", IbmRuntimeOptions(**options_of(emulator, **options)), credentials
    )


@contextlib.contextmanager
def acquired(emulator: QpuEmulator, **options: Any) -> Iterator[IbmRuntimeBackend]:
    backend = backend_of(emulator, **options)
    backend.acquire()
    try:
        yield backend
    finally:
        backend.release()


def pub(shots: int = 5) -> PackedPub:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    isa = transpile(circuit, FakeManilaV2(), seed_transpiler=1)
    return wire.pack_pubs([SamplerPub.coerce(isa, shots)], [None])[0]


def batch(shots: int = 5, pubs: int = 1) -> Batch:
    return Batch(primitive=Primitive.SAMPLER, pubs=(pub(shots),) * pubs)


class Console:
    """IBM's service as its user sees it in another window: with the same key, by plain HTTP."""

    def __init__(self, emulator: QpuEmulator) -> None:
        self._url = f"{emulator.url}/ibm"
        token = requests.post(
            f"{self._url}/identity/token", data={"apikey": KEY}, timeout=20
        ).json()["access_token"]
        self._headers = {"Authorization": f"Bearer {token}"}

    def _get(self, path: str) -> Any:
        return requests.get(f"{self._url}{path}", headers=self._headers, timeout=20).json()

    def session_of(self, job_id: str) -> str | None:
        """The session of a job."""
        found: str | None = self._get(f"/jobs/{job_id}")["session_id"]
        return found

    def session(self, session_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._get(f"/sessions/{session_id}")
        return found

    def is_open(self, session_id: str) -> bool:
        return bool(self.session(session_id)["accepting_jobs"])

    def open(self, mode: str) -> str:
        """Open a session, as a plugin does."""
        body = {"mode": mode, "backend": "qpu"}
        found: str = requests.post(
            f"{self._url}/sessions", json=body, headers=self._headers, timeout=20
        ).json()["id"]
        return found

    def close(self, session_id: str) -> None:
        """Close a session, as the service does at its limit: jobs that wait are cancelled."""
        requests.delete(
            f"{self._url}/sessions/{session_id}/close", headers=self._headers, timeout=20
        ).raise_for_status()

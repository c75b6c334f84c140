"""``qpu_emulator``: an emulated QPU as a process of its own, for the length of a ``with`` block.

``ibm_service`` is the same, for clients of IBM's: the ``qrmi`` wheel and qiskit-ibm-runtime. What
was executed is asked of the service itself, at the vendor's side of whatever is tested.
"""

import contextlib
import os
import secrets
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import msgspec

from hybridflow.backends.emulator.client import Client
from hybridflow.backends.emulator.messages import Execution, Faults
from hybridflow.errors import AcquireError

__all__ = ["QpuEmulator", "ibm_service", "qpu_emulator"]

_START_SECONDS, _END_SECONDS = 60.0, 10.0
_ADMIN = "hybridflow.testing"
"""Who switches the faults and reads the log, where the service has keys."""


class QpuEmulator:
    """A running service; :func:`qpu_emulator` makes it.

    Attributes
    ----------
    url
        Its address.
    pid
        Its process.
    resources
        Names of its resources.
    """

    def __init__(self, url: str, pid: int, resources: Sequence[str], key: str) -> None:
        self.url = url
        self.pid = pid
        self.resources = tuple(resources)
        self._key = key

    @property
    def site(self) -> str:
        """The text of a site file with its resources."""
        tables = (
            f'[qpu."{name}"]\nbackend = "emulator"\nurl = "{self.url}"\n' for name in self.resources
        )
        return "\n".join(tables)

    @property
    def ibm_url(self) -> str:
        """Address of the interface that IBM's clients know: what to give them as endpoint."""
        return f"{self.url}/ibm"

    def qrmi_keys(self, key: str = "any-key", *, system: bool = False) -> dict[str, str]:
        """Return what the ``qrmi`` wheel has to be told to reach a resource here.

        Parameters
        ----------
        key
            The key of a user; without keys, the service takes any.
        system
            Whether as an IBM Quantum System, and not through the Quantum Compute Service.
        """
        if system:
            return {
                "QRMI_IBM_QS_ENDPOINT": f"{self.url}/ibm-system",
                "QRMI_IBM_QS_IAM_ENDPOINT": self.ibm_url,
                "QRMI_IBM_QS_IAM_APIKEY": key,
                "QRMI_IBM_QS_SERVICE_CRN": "crn:v1:emulated",
                "QRMI_IBM_QS_AWS_ACCESS_KEY_ID": key,
                "QRMI_IBM_QS_AWS_SECRET_ACCESS_KEY": "not-looked-at",
                "QRMI_IBM_QS_S3_ENDPOINT": f"{self.url}/ibm-system/s3/",
                "QRMI_IBM_QS_S3_BUCKET": "jobs",
                "QRMI_IBM_QS_S3_REGION": "us-east",
            }
        return {
            "QRMI_IBM_QCS_ENDPOINT": self.ibm_url,
            "QRMI_IBM_QCS_IAM_ENDPOINT": self.ibm_url,
            "QRMI_IBM_QCS_IAM_APIKEY": key,
            "QRMI_IBM_QCS_SERVICE_CRN": "crn:v1:emulated",
            "QRMI_IBM_QCS_SESSION_MODE": "batch",
        }

    def log(self) -> list[Execution]:
        """Return the vendor jobs that it was given by all its users, the oldest first."""
        with self._client() as client:
            return client.log()

    def faults(self, **faults: Any) -> None:
        """Switch faults on, and all others off: the fields of :class:`Faults`."""
        with self._client() as client:
            client.set_faults(Faults(**faults))

    @contextlib.contextmanager
    def _client(self) -> Iterator[Client]:
        client = Client(self.url, self._key)
        try:
            yield client
        finally:
            client.close()


@contextlib.contextmanager
def qpu_emulator(
    *resources: str, keys: Mapping[str, str] | None = None, **options: Any
) -> Iterator[QpuEmulator]:
    """Start an emulated QPU on a free port of this machine, and end it at the block's end.

    It also ends when this process does, however that ends.

    Parameters
    ----------
    resources
        Names of its resources; without any, one named ``emulated``.
    keys
        The key of each user; without them, nobody is asked for one.
    options
        Of each resource: see :class:`hybridflow.emulator.DeviceOptions`.

    Raises
    ------
    AcquireError
        If it cannot be started; with its own words.

    Examples
    --------
    >>> from hybridflow.testing import qpu_emulator
    >>> with qpu_emulator("qpu", seconds_per_job=0.2) as emulator:
    ...     print(emulator.log())
    []
    """
    names = resources or ("emulated",)
    own = secrets.token_hex() if keys else ""
    config: dict[str, Any] = {"qpu": dict.fromkeys(names, options)}
    if keys:
        config |= {"keys": {**keys, _ADMIN: own}, "admins": [_ADMIN]}
    with tempfile.TemporaryFile() as log, _process(config, log) as process:
        address = _address(process, log)
        yield QpuEmulator(address, process.pid, names, own)


def ibm_service(
    *resources: str,
    keys: Mapping[str, str] | None = None,
    device: str = "FakeManilaV2",
    **options: Any,
) -> "contextlib.AbstractContextManager[QpuEmulator]":
    """Start an emulated QPU that also speaks as IBM's Quantum Compute Service does.

    Parameters
    ----------
    resources, keys, options
        As for :func:`qpu_emulator`.
    device
        The fake device of qiskit-ibm-runtime that each resource imitates.

    Examples
    --------
    >>> from hybridflow.testing import ibm_service
    >>> with ibm_service("fake_manila", readout_flip=0.0) as service:
    ...     print(service.qrmi_keys()["QRMI_IBM_QCS_ENDPOINT"].rpartition("/")[2])
    ibm
    """
    return qpu_emulator(*resources, keys=keys, device=device, **options)


@contextlib.contextmanager
def _process(config: object, log: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    # The configuration goes through a pipe: there is no file with keys to be left behind.
    command = [sys.executable, "-P", "-m", "hybridflow", "qpu-emulator", "--port", "0"]
    with subprocess.Popen(
        [*command, "--config", "-", "--until-eof"],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        process_group=0,  # Ctrl-C is for the tests
    ) as process:
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended; its log says why
                process.stdin.write(msgspec.json.encode(config) + b"\n")
            yield process
        finally:
            process.stdin.close()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(process: "subprocess.Popen[bytes]", log: IO[bytes]) -> str:
    assert process.stdout is not None
    until, line = time.monotonic() + _START_SECONDS, b""
    while b"\n" not in line:
        left = max(0.0, until - time.monotonic())
        ready = select.select([process.stdout], [], [], left)[0]
        data = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not data:
            log.seek(0)
            reason = log.read().decode(errors="replace").strip() or "it said nothing in time"
            raise AcquireError(f"the emulated QPU did not start: {reason}")
        line += data
    return line.partition(b"\n")[0].decode()

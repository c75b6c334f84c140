"""The keys of a site file's ``[qpu.NAME]`` table with ``backend = "ibm_runtime"``."""

import math
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

import msgspec

__all__ = ["Channel", "IbmRuntimeOptions", "Mode", "check_address"]

Mode = Literal["job", "batch", "session"]

Channel = Literal["ibm_quantum_platform", "ibm_cloud", "local"]


class IbmRuntimeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the backend ``ibm_runtime``. No credential is among them.

    Attributes
    ----------
    device
        Name of the device at IBM, such as ``ibm_fez``; in the channel ``local``, of a fake one,
        such as ``fake_fez``. Without it, the name that the resource has in the site file.
    mode
        What jobs run in: alone (``job``), in a ``batch``, or in a ``session``, which bills the time
        of the clock while it is open.
    channel
        ``local`` is the package's local mode: a fake device in this process, for laptops and CI.
    account
        Name of an account that the user has saved with ``QiskitRuntimeService.save_account``. For
        a laptop; a slot's credentials are handed over by the door.
    account_file
        The file it is saved in; without it, the package's own (``~/.qiskit/qiskit-ibm.json``).
    instance
        Cloud resource name (CRN) of the service instance; else, what the credentials or the saved
        account say.
    url
        Base address of the API, such as ``https://quantum.cloud.ibm.com/api/v1``; else, what the
        credentials say, or the one of the instance's region.
    token_url
        Address of the identity service, such as ``https://iam.cloud.ibm.com``.
    fractional_gates
        Whether the target has the device's fractional gates (``rzz``, ``rx``).
    session_seconds
        Time that a session or batch may be open at most, in seconds: IBM closes it then, whatever
        has become of this process.
    idle_seconds
        Time after the end of a session's last job after which it is closed, unless another one was
        started.
    timeout_seconds
        Patience with an answer of the service, in seconds.
    poll_seconds
        Longest time between two questions whether a job has ended, in seconds; at first it is
        asked more often.
    find_seconds
        Time that a job which the service has taken may be missing from its list, in seconds.
    jobs
        Vendor jobs that the service takes at a time.
    seconds_per_job, seconds_per_shot
        Estimated cost of a vendor job and of one shot of one circuit, for budgets and batches; 0:
        what the device says (its repetition delay), or nothing.
    """

    device: str = ""
    mode: Mode = "job"
    channel: Channel = "ibm_quantum_platform"
    account: str = ""
    account_file: str = ""
    instance: str = ""
    url: str = ""
    token_url: str = ""
    fractional_gates: bool = False
    session_seconds: int = 1800
    idle_seconds: float = 2.0
    timeout_seconds: float = 60.0
    poll_seconds: float = 1.0
    find_seconds: float = 10.0
    jobs: int = 3
    seconds_per_job: float = 2.0
    seconds_per_shot: float = 0.0

    def __post_init__(self) -> None:
        for key in ("url", "token_url"):
            if value := getattr(self, key):
                check_address(key, value)
        for key in ("session_seconds", "timeout_seconds", "poll_seconds", "jobs"):
            if not 0 < getattr(self, key) < math.inf:
                raise ValueError(f"`{key}` must be above 0, not {getattr(self, key)}")
        for key in ("idle_seconds", "find_seconds", "seconds_per_job", "seconds_per_shot"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ValueError(f"`{key}` must be at least 0, not {getattr(self, key)}")
        if self.account_file and not self.account:
            raise ValueError("`account_file` needs `account`, the name of one in it")
        if self.is_local and not self.device:
            raise ValueError('`channel = "local"` needs `device`, such as "fake_fez"')

    @property
    def is_local(self) -> bool:
        """Whether it is the package's local mode."""
        return self.channel == "local"


def check_address(key: str, value: str) -> None:
    """Check an address that a key is sent to.

    Raises
    ------
    ValueError
        If it is none, or would carry the key over a network unencrypted.
    """
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"`{key}` is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"`{key}` begins with https:// and a host")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"`{key}` has no user, password, query or fragment")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError(f"`{key}` must begin with https://: a key is sent there")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""What the service offers, to whom: its configuration file, checked.

TOML (``configs/emulator/service.toml``): ``[qpu.NAME]`` tables with :class:`DeviceOptions`, and in
``[keys]`` the key of each user. Without keys, whoever can reach the service may use it.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from hybridflow.backends.aer import AerOptions
from hybridflow.errors import InputError, SiteError

__all__ = ["Config", "DeviceOptions", "configured", "is_loopback", "load_config", "read_config"]

_SHORTEST_KEY = 8


class DeviceOptions(AerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of one emulated QPU: those of the backend ``aer``, and these.

    Attributes
    ----------
    time_scale
        Seconds that pass for each second of the device: 0.1 makes it ten times as quick, and bills
        the same. Computing its results can take longer than that.
    overlap
        Whether a job's fixed cost passes while it waits, too, as with a vendor that prepares jobs
        beside the device; otherwise nothing else is executed meanwhile.
    tags
        Whether jobs can be found by their tag.
    lanes
        Jobs that a client may have started at the same time, as it is declared; they wait in the
        one queue.
    max_queued
        Jobs of all users that may wait; more are refused, to be sent again.
    max_pubs, max_shots
        Limits of one job (PUBs) and of one PUB (shots).
    calibration
        Name of its calibration; without it, the date of the fake device's, or what is made of these
        options.
    """

    time_scale: float = 1.0
    overlap: bool = False
    tags: bool = True
    lanes: int = 8
    max_queued: int = 1000
    max_pubs: int | None = None
    max_shots: int | None = None
    calibration: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.time_scale < float("inf"):
            raise ValueError(f"`time_scale` must be at least 0, not {self.time_scale}")
        for name in ("lanes", "max_queued", "max_pubs", "max_shots"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, not {value}")

    @property
    def aer(self) -> AerOptions:
        """The simulator behind the device, which takes no time of its own accord."""
        timing = set(self.timing.__struct_fields__)
        own = set(AerOptions.__struct_fields__) - timing
        return AerOptions(**{name: getattr(self, name) for name in own})


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Configuration of the service.

    Attributes
    ----------
    qpu
        The resources, by name.
    keys
        The key of each user, by the user's name; without any, nobody is asked for one.
    admins
        Names of users who may switch faults and read everybody's log; without keys, all may.
    max_request_mib
        Largest request, in MiB.
    kept_jobs, kept_results_mib
        Ended jobs that are remembered, and MiB of their results; the oldest go first.
    """

    qpu: dict[str, DeviceOptions]
    keys: dict[str, str] = {}
    admins: tuple[str, ...] = ()
    max_request_mib: int = 256
    kept_jobs: int = 10_000
    kept_results_mib: int = 1024

    def __post_init__(self) -> None:
        if not self.qpu:
            raise ValueError("there is no resource; add a table like [qpu.emulated]")
        for name in ("max_request_mib", "kept_jobs", "kept_results_mib"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, not {getattr(self, name)}")
        for user, key in self.keys.items():
            if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(
                    f"the key of {user!r} must have at least {_SHORTEST_KEY} characters, all of "
                    "them ASCII and no blank"
                )
        if len(set(self.keys.values())) != len(self.keys):
            raise ValueError("two users have the same key")
        if unknown := set(self.admins) - set(self.keys):
            raise ValueError(f"`admins` names who has no key: {', '.join(sorted(unknown))}")


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration file.

    Raises
    ------
    SiteError
        If it cannot be read, says something wrong, or holds keys that others can read.
    """
    file = Path(path)
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        config = msgspec.toml.decode(file.read_bytes(), type=Config)
    except OSError as error:
        raise SiteError(f"the configuration {file} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SiteError(f"{file}: {error}") from error
    if config.keys and mode & 0o077:
        raise SiteError(
            f"{file} holds keys and can be read by others (mode {mode:o}); do: chmod 600 {file}"
        )
    return config


def read_config(descriptor: int) -> Config:
    """Read a configuration from a pipe: one line of JSON, after which the pipe stays open.

    Raises
    ------
    SiteError
        If it says something wrong.
    """
    line = b""
    while not line.endswith(b"\n") and (data := os.read(descriptor, 65536)):
        line += data
    try:
        return msgspec.json.decode(line, type=Config)
    except msgspec.DecodeError as error:
        raise SiteError(f"the configuration on standard input: {error}") from error


def configured(names: Iterable[str], options: Mapping[str, Any]) -> Config:
    """Return the configuration of some resources with the same options.

    Raises
    ------
    InputError
        If an option is wrong.
    """
    try:
        return msgspec.convert({"qpu": dict.fromkeys(names, options)}, Config)
    except msgspec.ValidationError as error:
        raise InputError(f"an option of the emulated QPU is wrong: {error}") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

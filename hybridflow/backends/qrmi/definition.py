"""A resource's definition: what the wheel has to be told of it, from wherever it comes.

::

    Slurm's plugin ── credentials ─┐
    the user's environment ────────┼──► Definition ──► the wheel's from_config
    qrmi_config.json ──────────────┘

What is in the credentials goes before what is in the file.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hybridflow.backends.qrmi.kinds import KINDS, Kind, kind_of_keys
from hybridflow.backends.qrmi.options import QrmiOptions
from hybridflow.environment import TIMEOUT_SECONDS, TOKEN
from hybridflow.errors import AcquireError, SiteError
from hybridflow.records import Record

__all__ = ["Definition", "definition_of"]

_SECRETS = ("APIKEY", "API_KEY", "ACCESS_KEY", "SECRET", "TOKEN", "CLIENT_ID")


class Definition(Record, frozen=True, kw_only=True):
    """What is known of a resource.

    Attributes
    ----------
    name
        Name of the device at the vendor.
    kind
        Its type.
    keys
        The wheel's keys and their values, credentials among them.
    has_token
        Whether the plugin has acquired it: then nothing is acquired here, and nothing released.
    """

    name: str
    kind: str
    keys: dict[str, str]
    has_token: bool

    def __repr__(self) -> str:
        return f"<Definition of {self.name!r}, {self.kind}>"

    @property
    def type(self) -> Kind:
        """What is known of its type."""
        return KINDS[self.kind]

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that nobody may see."""
        return tuple(
            value for key, value in self.keys.items() if any(part in key for part in _SECRETS)
        )


class _Entry(msgspec.Struct, frozen=True):
    # Other keys are the site's own.
    name: str
    type: str
    environment: dict[str, str]


class _File(msgspec.Struct, frozen=True):
    resources: list[_Entry]


def definition_of(name: str, options: QrmiOptions, credentials: Mapping[str, str]) -> Definition:
    """Return the definition of a resource.

    Parameters
    ----------
    name
        Its name in the site file.
    options
        Its options.
    credentials
        The wheel's keys, by their names without the resource's in front.

    Raises
    ------
    SiteError
        If the file or the type is wrong.
    AcquireError
        If there are no keys at all.
    """
    remote = options.name or name
    entry = _entry(remote, options.config, name) if options.config else None
    keys = (entry.environment if entry else {}) | dict(credentials)
    if not keys.keys() - {TOKEN}:
        raise AcquireError(
            f"there are no credentials of {name!r} here: in a Slurm job the plugin brings them "
            f"(`--qpu={name}`); elsewhere set `config` in [qpu.{name}] to your qrmi_config.json, "
            f"or export {name}_QRMI_…",
            resource=name,
        )
    kind = options.type or (entry.type if entry else kind_of_keys(keys))
    if kind not in KINDS:
        raise SiteError(
            f"the type of {name!r} is not known ({kind or 'none of its keys tells'}): set `type` "
            f"in [qpu.{name}] to one of {', '.join(KINDS)}",
            resource=name,
        )
    return Definition(
        name=remote,
        kind=kind,
        keys=_limits(KINDS[kind], options) | keys,
        has_token=TOKEN in credentials,
    )


def _limits(kind: Kind, options: QrmiOptions) -> dict[str, str]:
    if not kind.takes_primitives:
        return {}
    seconds = str(options.timeout_seconds)
    return {f"{kind.prefix}TIMEOUT_SECONDS": seconds, TIMEOUT_SECONDS: seconds}


def _entry(remote: str, config: str, name: str) -> _Entry:
    file = Path(config).expanduser()
    # The last definition of a name counts, as with the plugin.
    known = {entry.name: entry for entry in _read(file).resources}
    if remote not in known:
        raise SiteError(
            f"{file} defines no resource {remote!r}; it defines: {', '.join(known) or 'none'} (if "
            f"the vendor has another name for it, set `name` in [qpu.{name}])",
            resource=name,
        )
    return known[remote]


def _read(file: Path) -> _File:
    try:
        with file.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            data = stream.read()
    except OSError as error:
        raise SiteError(f"{file} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise SiteError(
            f"{file} holds keys and can be read by others (mode {mode:o}); do: chmod 600 {file}"
        )
    found: Any = None
    try:
        found = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        wrong = str(error)
    if found is None:
        # Outside the handler, whose traceback may quote what is in the file.
        raise SiteError(f"{file} is no qrmi_config.json: {wrong}")
    checked: _File = found
    return checked

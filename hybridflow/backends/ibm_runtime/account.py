"""Who asks, and where: from a slot's credentials, the site file, or an account that was saved.

The credentials have the names of the type ``ibm-quantum-compute-service`` of the outside contract,
so that a site's one definition serves both this backend and ``qrmi``. A saved account is read here,
in the backend's own process, and its token goes no further.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from hybridflow import environment
from hybridflow.backends.ibm_runtime.options import IbmRuntimeOptions, check_address
from hybridflow.backends.ibm_runtime.package import runtime
from hybridflow.errors import NoSlotError, SiteError
from hybridflow.redaction import redact

__all__ = ["API_KEY", "Account", "Held", "find_account"]

_PREFIX = "QRMI_IBM_QCS_"

API_KEY = f"{_PREFIX}IAM_APIKEY"
"""Credential: the API key. The other keys of the type say where it is sent, and for which instance.
"""

_ENDPOINT, _TOKEN_ENDPOINT = f"{_PREFIX}ENDPOINT", f"{_PREFIX}IAM_ENDPOINT"
_INSTANCE, _SESSION_MODE = f"{_PREFIX}SERVICE_CRN", f"{_PREFIX}SESSION_MODE"


class Held(msgspec.Struct, frozen=True):
    """A session that the job's plugin has acquired: it is used, and never closed by us."""

    id: str
    mode: Literal["session", "batch"]


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection is made of.

    Attributes
    ----------
    token
        The API key.
    channel, instance
        As the package takes them; no instance: the package looks for one.
    url, token_url
        Base address of the API and address of the identity service; empty: IBM's own.
    extra
        What else a saved account says: its proxies, its region, ….
    held
        The slot's session, where its plugin has acquired one.
    """

    token: str
    channel: str = "ibm_quantum_platform"
    instance: str = ""
    url: str = ""
    token_url: str = ""
    extra: dict[str, Any] = {}
    held: Held | None = None

    def __repr__(self) -> str:
        return f"Account(instance={self.instance!r}, url={self.url!r}, token=***)"


def find_account(name: str, options: IbmRuntimeOptions, credentials: Mapping[str, str]) -> Account:
    """Return the account of a resource: its credentials, or the saved one that its options name.

    Raises
    ------
    NoSlotError
        If there is neither.
    SiteError
        If what there is cannot be used; it quotes no credential.
    """
    if credentials.get(API_KEY):
        return _handed_over(name, options, credentials)
    if options.account:
        return _saved(name, options)
    raise NoSlotError(
        f"there are no credentials for {name!r}: in a slot they are handed over by "
        f"`hybridflow slot run`; on a laptop, name a saved account in the site file "
        f'(`qpu.{name}.account = "NAME"`), or set {name}_{API_KEY}',
        resource=name,
    )


def _handed_over(name: str, options: IbmRuntimeOptions, credentials: Mapping[str, str]) -> Account:
    instance = options.instance or credentials.get(_INSTANCE, "")
    if not instance:
        raise SiteError(
            f"resource {name!r}: the service instance is not known: set `qpu.{name}.instance` in "
            f"the site file, or {name}_{_INSTANCE}, to its CRN",
            resource=name,
        )
    return Account(
        token=_checked_key(name, credentials[API_KEY]),
        channel=options.channel,
        instance=instance,
        url=options.url or _address(name, credentials, _ENDPOINT),
        token_url=options.token_url or _address(name, credentials, _TOKEN_ENDPOINT),
        held=_held(credentials),
    )


def _held(credentials: Mapping[str, str]) -> Held | None:
    token = credentials.get(environment.TOKEN)
    if not token:
        return None
    batch = credentials.get(_SESSION_MODE, "").lower() == "batch"
    return Held(token, "batch" if batch else "session")


def _address(name: str, credentials: Mapping[str, str], key: str) -> str:
    value = credentials.get(key, "")
    if value:
        try:
            check_address(f"{name}_{key}", value)
        except ValueError as error:
            raise SiteError(f"resource {name!r}: {error}", resource=name) from error
    return value


def _checked_key(name: str, key: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        # Here, and without the key: what sends it as a header would quote it.
        raise SiteError(
            f"the credential {name}_{API_KEY} is no key: it has a blank, a line end or what is not "
            "ASCII",
            resource=name,
        )
    return key


def _saved(name: str, options: IbmRuntimeOptions) -> Account:
    where = options.account_file or "~/.qiskit/qiskit-ibm.json"
    service = runtime().QiskitRuntimeService
    try:
        found = service.saved_accounts(name=options.account, filename=options.account_file or None)
    except Exception as error:  # the package reads a file of any content without checking it
        raise SiteError(
            f"resource {name!r}: the saved accounts in {where} cannot be read: "
            f"{type(error).__name__}",
            resource=name,
        ) from None  # the file's content would be shown beside it
    entry = found.get(options.account)
    if not entry:
        raise SiteError(
            f"key `qpu.{name}.account`: there is no account {options.account!r} in {where}; save "
            f"it with QiskitRuntimeService.save_account(name={options.account!r}, …)",
            resource=name,
        )
    return _from_saved(name, options, dict(entry))


def _from_saved(name: str, options: IbmRuntimeOptions, entry: dict[str, Any]) -> Account:
    token = _checked_key(name, str(entry.pop("token", "")))
    kept = ("proxies", "private_endpoint", "region", "plans_preference", "tags")
    extra = {key: entry[key] for key in kept if entry.get(key)}
    base = entry.get("url")
    if base:
        extra["url"] = base  # of IBM's cloud; the package makes the API's address of it
    try:
        return msgspec.convert(
            {
                "token": token,
                "channel": entry.get("channel") or options.channel,
                "instance": options.instance or entry.get("instance") or "",
                "url": options.url,
                "token_url": options.token_url,
                "extra": extra,
            },
            Account,
        )
    except msgspec.ValidationError as error:
        raise SiteError(
            f"resource {name!r}: the saved account {options.account!r} cannot be used: "
            f"{redact(str(error), [token])}",
            resource=name,
        ) from None

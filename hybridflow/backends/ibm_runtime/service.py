"""The connection: how ``QiskitRuntimeService`` is made, and what it must not do by itself.

Two seams of the package are used. Its constructor takes a function that says where the API is, so
that any endpoint can be named, a loopback server too. And it looks an instance that is named by its
CRN up in IBM Cloud's global search, at a host of its own: ``instances()`` is overridden, since who
names a CRN has said all. With a CRN, a node needs to reach two hosts: the API and the identity
service (whose address the package reads from ``IAM_URL``).

The package sends a new job again by itself when the answer is a server's error, and waits 15
minutes for one: jobs would be paid for twice. Its HTTP sessions get an adapter that does neither.
Whoever asks decides whether to ask again.

What is not documented of the package is used here alone, so that a release which changes it breaks
one file.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from hybridflow.backends.ibm_runtime.account import Account
from hybridflow.backends.ibm_runtime.package import runtime
from hybridflow.errors import AcquireError

__all__ = ["Connection", "Reason", "connect", "reason_of", "text_of"]


class Connection(NamedTuple):
    """The package's service and device objects."""

    service: Any
    device: Any

    def is_closed(self, session_id: str | None) -> bool:
        """Whether the service has closed a session (or batch)."""
        if not session_id:
            return False
        details = self.service._get_api_client().session_details(session_id)
        return bool(details.get("state") == "closed")

    def close(self) -> None:
        """Close its sockets."""
        for session in _sessions(self.service):
            session.close()


class Reason(NamedTuple):
    """Why a job has not ended well, in IBM's words and by its registry of error codes."""

    text: str
    code: int | None


def reason_of(job: Any) -> Reason:
    """Return why one of the package's jobs failed or was cancelled, as far as it says so."""
    return Reason(str(getattr(job, "_reason", None) or ""), getattr(job, "_reason_code", None))


def text_of(job: Any) -> str:
    """Return the results of one of the package's jobs as the service sent them.

    Its own decoder makes objects of whatever a text names, and hands out what it cannot read.
    """
    return str(job.result(decoder=_as_text()) or "")


@functools.cache
def _as_text() -> Any:
    base = runtime("decoders.result_decoder").ResultDecoder

    class Text(base):  # type: ignore[valid-type,misc]
        """Decodes nothing."""

        @classmethod
        def decode(cls, data: Any) -> Any:
            """Return what came."""
            return data

    return Text


def connect(account: Account, device: str, *, fractional: bool, seconds: float) -> Connection:
    """Return a connection to a device; whatever the package raises is raised.

    Parameters
    ----------
    account
        Who asks, and where.
    device
        Name of the device.
    fractional
        Whether its target has fractional gates.
    seconds
        Patience with an answer.
    """
    _silence()
    with _identity_service(account.token_url):
        _check_key(account, seconds)
        service = _service(account)
    _bound(service, seconds)
    _look_up(service, device)
    return Connection(service, service.backend(device, use_fractional_gates=fractional))


def _look_up(service: Any, device: str) -> None:
    # What goes wrong with these two questions, the package takes for a device that is not there.
    holders = {
        found["name"]: client for client in _clients(service) for found in client.list_backends()
    }
    if device not in holders:
        names = ", ".join(sorted(holders)) or "none"
        raise AcquireError(f"IBM has no device {device!r} for this account; it has: {names}")
    holders[device].backend_configuration(device)  # and keeps it


def _check_key(account: Account, seconds: float) -> None:
    # With a key that the identity service does not know, the package waits for a minute, and then
    # asks the API with it.
    authorization = runtime("api.auth").CloudAuth(
        api_key=account.token,
        crn=account.instance,
        private=bool(account.extra.get("private_endpoint")),
        proxies=_proxies(account),
    )
    authorization.tm.http_config["timeout"] = seconds
    authorization.tm.get_token()


def _proxies(account: Account) -> Any:
    found = account.extra.get("proxies")
    return runtime("proxies").ProxyConfiguration(**found) if found else None


def _silence() -> None:
    # On every connection it says, as a warning, whose account and which instance it uses.
    if not os.environ.get("QISKIT_IBM_RUNTIME_LOG_LEVEL"):
        logging.getLogger("qiskit_ibm_runtime").setLevel(logging.ERROR)


def _service(account: Account) -> Any:
    arguments: dict[str, Any] = {
        **account.extra,
        "channel": account.channel,
        "token": account.token,
        "instance": account.instance or None,
    }
    private = arguments.pop("private_endpoint", None)
    if account.url:
        base = account.url.rstrip("/")
        arguments["url_resolver"] = lambda *_: base
    elif private:
        arguments["private_endpoint"] = True
    if account.instance.startswith("crn:"):
        return _one_instance()(**arguments)
    return runtime().QiskitRuntimeService(**arguments)


@contextlib.contextmanager
def _identity_service(url: str) -> Iterator[None]:
    # The package has no other way; it is read when the service is made.
    before = os.environ.get("IAM_URL")
    if url:
        os.environ["IAM_URL"] = url.rstrip("/")
    try:
        yield
    finally:
        if url:
            os.environ.pop("IAM_URL")
            if before is not None:
                os.environ["IAM_URL"] = before


@functools.cache
def _one_instance() -> Any:
    base = runtime().QiskitRuntimeService

    class OneInstanceService(base):  # type: ignore[valid-type,misc]
        """A service for the one instance that is named by its CRN, without looking it up."""

        def __init__(self, **arguments: Any) -> None:
            self._named = arguments["instance"]
            super().__init__(**arguments)

        def instances(self) -> list[dict[str, Any]]:
            """Return that instance."""
            unknown = {"plan": "unknown", "name": self._named, "tags": []}
            return [{"crn": self._named, "pricing_type": "unknown", **unknown}]

    return OneInstanceService


def _clients(service: Any) -> list[Any]:
    clients = [service._get_api_client(), *service._get_api_clients().values()]
    return list({id(client): client for client in clients}.values())


def _sessions(service: Any) -> list[Any]:
    return [client._session for client in _clients(service)]


def _bound(service: Any, seconds: float) -> None:
    adapter = _adapter_class()(seconds)
    for session in _sessions(service):
        session.mount("https://", adapter)
        session.mount("http://", adapter)


@functools.cache
def _adapter_class() -> Any:
    from requests.adapters import HTTPAdapter

    class OneTryAdapter(HTTPAdapter):
        """Sends each question once, and waits for its answer for a bounded time."""

        def __init__(self, seconds: float) -> None:
            super().__init__(max_retries=0)
            self.seconds = seconds

        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            """Send a question; `requests` gives all but the question itself by name."""
            return super().send(request, *args, **{**kwargs, "timeout": self.seconds})

    return OneTryAdapter

"""What the package raises, as errors of ours: its own text is kept, a credential is not.

What a failed question means depends on how far it came, which the package tells of by its HTTP
client's exception somewhere behind its own::

    never reached the service, or refused for now (429, 503)    transient; nothing was done
    refused for good (400, 401, 403, 404, …)                    whoever asked must act
    no answer, or one without sense                             transient; but where a job was
                                                                being submitted, it may run: lost
"""

import enum
import json
from collections.abc import Iterable, Iterator

from hybridflow.backends.ibm_runtime.caller import LateError
from hybridflow.backends.ibm_runtime.package import runtime
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    HybridflowError,
    RequestError,
    ResourceError,
    TooLargeError,
    VendorJobError,
)
from hybridflow.redaction import redact

__all__ = ["KINDS", "Phase", "http_status", "is_transient_reason", "is_unauthorized", "typed"]


class Phase(enum.Enum):
    """What is being done when something goes wrong."""

    CONNECTING = "connecting"
    ASKING = "asking"
    STARTING = "starting"


KINDS: dict[str, tuple[type[HybridflowError], bool]] = {
    "IBMError": (ResourceError, False),
    "IBMAccountError": (AcquireError, False),
    "AccountsError": (AcquireError, False),
    "InvalidAccountError": (AcquireError, False),
    "AccountNotFoundError": (AcquireError, False),
    "AccountAlreadyExistsError": (AcquireError, False),
    "CloudResourceNameResolutionError": (AcquireError, False),
    "IBMBackendError": (ResourceError, False),
    "IBMBackendApiProtocolError": (ResourceError, False),
    "IBMBackendApiError": (ResourceError, True),
    "IBMBackendValueError": (RequestError, False),
    "IBMInputValueError": (RequestError, False),
    "IBMNotAuthorizedError": (AcquireError, False),
    "IBMApiError": (ResourceError, True),
    "IBMRuntimeError": (ResourceError, False),
    "RuntimeProgramNotFound": (ResourceError, False),
    "RuntimeJobFailureError": (VendorJobError, False),
    "RuntimeJobNotFound": (ResourceError, False),
    "RuntimeInvalidStateError": (ResourceError, False),
    "RuntimeJobTimeoutError": (ResourceError, True),
    "RuntimeJobMaxTimeoutError": (VendorJobError, False),
    "ApiError": (ResourceError, False),
    "RequestsApiError": (ResourceError, True),
    "AuthenticationLicenseError": (AcquireError, False),
    "ApiIBMProtocolError": (ResourceError, False),
    "UserTimeoutExceededError": (ResourceError, True),
    "BackendPropertyError": (ResourceError, False),
    "BackendConfigurationError": (ResourceError, False),
    # Of Qiskit, and of what checks the options:
    "QiskitBackendNotFoundError": (AcquireError, False),
    "ValidationError": (RequestError, False),
}
"""Each exception class of the package by its name: ours, and whether trying again can help.

Where an HTTP status or a broken connection is behind it, that says more, and decides.
"""

_NOT_NOW = (423, 429, 503)
"""HTTP: nothing was done; it may be tried again later."""

_WRONG_INPUT = (400, 409, 413, 422)
"""HTTP: a job is not taken as it is."""

_TOO_MANY_JOBS = (1012, 3458)
"""IBM's codes for a job that is not taken as long as so many others are under way."""

_RETRY_REASONS = frozenset({1006, 1008, 1010, 1011})
"""Reasons of a failed job for which IBM's registry of error codes says to try again."""


def is_transient_reason(code: int | None) -> bool:
    """Whether a job that failed with a code of IBM's registry may succeed when it is repeated.

    From https://quantum.cloud.ibm.com/docs/errors; 9XXX are the device's own internal errors.
    """
    return code is not None and (code in _RETRY_REASONS or 9000 <= code < 10000)


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status behind an exception; None: there is none."""
    for link in _chain(error):
        status = getattr(getattr(link, "response", None), "status_code", None)
        if status is None:  # of the identity service's client
            status = getattr(link, "status_code", None)
        if isinstance(status, int) and status > 0:
            return status
    return None


def _code(error: BaseException) -> int | None:
    """Return the code of IBM's registry that the service has answered with; None: there is none."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if response is None:
            continue
        try:
            content = response.json()
            told = content.get("error") or content["errors"][0]
            return int(told["code"])
        except (ValueError, TypeError, AttributeError, LookupError):
            return None  # a proxy's answer, or one without a code
    return None


def typed(
    error: Exception, *, resource: str, phase: Phase, secrets: Iterable[str] = ()
) -> HybridflowError:
    """Return an exception of the package as one of ours.

    Parameters
    ----------
    error
        What was raised.
    resource
        Name of the resource.
    phase
        What was being done.
    secrets
        What must not stand in the text.
    """
    if isinstance(error, HybridflowError):
        return error
    kind, transient = _kind(error, phase)
    if phase is Phase.CONNECTING and not issubclass(kind, AcquireError):
        kind = AcquireError
    text = redact(_text(error), secrets)
    what = _what(kind, phase, transient=transient)
    return kind(f"{resource}: {what}: {text}", transient=transient, resource=resource)


def _text(error: Exception) -> str:
    if any(isinstance(link, json.JSONDecodeError) for link in _chain(error)):
        return f"the answer is no JSON ({error}): is `url` right, or does a proxy answer?"
    return f"{type(error).__name__}: {error}"


def _what(kind: type[HybridflowError], phase: Phase, *, transient: bool) -> str:
    if issubclass(kind, BackendLostError):
        return "IBM may have taken a job, and its answer did not come"
    if phase is Phase.CONNECTING:
        return "cannot be acquired"
    if phase is Phase.STARTING:
        return "IBM did not take a job"
    return "IBM does not answer" if transient else "IBM refuses"


def _kind(error: Exception, phase: Phase) -> tuple[type[HybridflowError], bool]:
    status = http_status(error)
    unheard = _unheard(error)
    starting = phase is Phase.STARTING and _may_have_submitted(error)
    if _code(error) in _TOO_MANY_JOBS:
        return ResourceError, True
    if status is not None:
        return _by_status(status, phase, starting=starting)
    if unheard is not None:
        return (BackendLostError if starting and not unheard else ResourceError), True
    found = next((KINDS[name] for name in _names(error) if name in KINDS), None)
    if found is not None:
        return found
    if phase is Phase.STARTING and isinstance(error, ValueError):
        return RequestError, False
    # An answer without sense: HTML, half a body, a field that is not there.
    return (BackendLostError if starting else ResourceError), True


def _by_status(status: int, phase: Phase, *, starting: bool) -> tuple[type[HybridflowError], bool]:
    if status in _NOT_NOW:
        return ResourceError, True
    if status >= 500:
        return (BackendLostError if starting else ResourceError), True
    if status == 413:
        return TooLargeError, False
    if phase is Phase.STARTING and status in _WRONG_INPUT:
        return RequestError, False
    if 200 <= status < 300:  # said yes, and nothing that can be read
        return (BackendLostError if starting else ResourceError), True
    return (AcquireError if status in (401, 403) else ResourceError), False


def _unheard(error: Exception) -> bool | None:
    """Whether a question certainly did not reach the service; None: its connection did not fail."""
    import requests
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    links = list(_chain(error))
    never = (
        requests.exceptions.ConnectTimeout,
        requests.exceptions.SSLError,
        requests.exceptions.InvalidURL,
        NewConnectionError,
        ConnectTimeoutError,
    )
    if any(isinstance(link, never) for link in links):
        return True
    if any(isinstance(link, LateError | requests.exceptions.RequestException) for link in links):
        return False
    return None


def _may_have_submitted(error: Exception) -> bool:
    """Whether the question that failed was the one that submits a job, or may have been."""
    for link in _chain(error):
        request = getattr(link, "request", None)
        if request is not None:
            path = str(request.url or "").partition("?")[0]
            return request.method == "POST" and path.endswith("/jobs")
    return True


def _names(error: BaseException) -> Iterator[str]:
    for link in _chain(error):
        for kind in type(link).__mro__:
            yield kind.__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    # The package raises much `from None`: what was behind it is still there.
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def is_unauthorized(error: BaseException) -> bool:
    """Whether the service did not accept the token of a question: nothing was done."""
    return http_status(error) == 401 or isinstance(
        error, runtime("exceptions").IBMNotAuthorizedError
    )

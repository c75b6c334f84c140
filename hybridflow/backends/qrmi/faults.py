"""The wheel's exceptions in our words: which of our errors, and whether trying again can help.

All of them derive from ``QrmiError``. Those that have no class of their own carry the HTTP status
in their text ("response body: 429 Too Many Requests …"), or say that there was no answer ("error in
reqwest: …") or one that could not be read ("error in serde: …").
"""

import re
from collections.abc import Iterable

from hybridflow.errors import (
    BackendLostError,
    HybridflowError,
    RequestError,
    ResourceError,
    SiteError,
)
from hybridflow.redaction import redact

__all__ = ["ANSWERS", "http_status", "is_closed_session", "refusal", "translated"]

ANSWERS: dict[str, tuple[type[HybridflowError], bool]] = {
    "AuthenticationFailedError": (ResourceError, False),
    "ConfigError": (SiteError, False),
    "EnvVarNotSetError": (SiteError, False),
    "InvalidInputError": (RequestError, False),
    "ResourceNotFoundError": (ResourceError, False),
    "TaskNotFoundError": (ResourceError, False),
    "TaskNotReadyError": (ResourceError, True),
    "UnsupportedFunctionError": (ResourceError, False),
    "UnsupportedPayloadError": (RequestError, False),
    "UnsupportedResourceTypeError": (SiteError, False),
}
"""By name of the wheel's class: our class, and whether trying again can help."""

_STATUS = re.compile(r"(?:response body: |API error \()(\d{3}) ")
_NOT_NOW = (408, 423, 425, 429, 500, 502, 503, 504)
_NOTHING_DONE = (423, 425, 429, 503)
_CURES = {
    "AuthenticationFailedError": "; the vendor does not know the key, or does not any more",
}
_LONGEST = 2000


def translated(
    error: Exception, what: str, resource: str, secrets: Iterable[str]
) -> HybridflowError:
    """Return the error of ours that an exception of the wheel's is.

    Parameters
    ----------
    error
        The exception.
    what
        What was asked for, in words.
    resource
        Name of the resource.
    secrets
        What the vendor's text must not tell.
    """
    name = type(error).__name__
    kind, transient = ANSWERS.get(name) or (ResourceError, _may_pass(error))
    text = redact(str(error), secrets)[:_LONGEST]
    return kind(
        f"{resource} did not {what}: {text}{_CURES.get(name, '')}",
        transient=transient,
        resource=resource,
    )


def refusal(
    error: Exception, resource: str, secrets: Iterable[str], *, resends: bool = False
) -> HybridflowError:
    """Return what an exception means that came in place of a new job's id.

    A :class:`~hybridflow.errors.BackendLostError` if the job may run all the same.

    Parameters
    ----------
    error, resource, secrets
        As for :func:`translated`.
    resends
        Whether the wheel sends a job once more by itself where no answer came: then what was
        refused may be the second one.
    """
    found = translated(error, "start a vendor job", resource, secrets)
    status = http_status(error)
    is_answered = type(error).__name__ in ANSWERS or not _may_pass(error)
    may_be_the_second = resends and isinstance(found, RequestError)
    if not may_be_the_second and (is_answered or status in _NOTHING_DONE):
        return found
    return BackendLostError(
        f"{found}; whether the job was accepted is not known", resource=resource
    )


def is_closed_session(error: Exception) -> bool:
    """Whether an exception says that the session is over, and nothing was done."""
    text = str(error).lower()
    return "session" in text and ("closed" in text or "not found" in text or "no session" in text)


def http_status(error: Exception) -> int | None:
    """Return the HTTP status that an exception without a class of its own carries."""
    found = _STATUS.search(str(error))
    return int(found.group(1)) if found else None


def _may_pass(error: Exception) -> bool:
    status = http_status(error)
    return status is None or status in _NOT_NOW

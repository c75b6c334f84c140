"""A vendor's exceptions as ours: the one place where they are mapped.

Nothing is known of the packages behind this backend but that they are Python. What an exception
tells is its type, the HTTP status that it or one of its causes carries, and its text, which is
kept. What it does not tell is not guessed: an exception in the middle of ``run()`` that may have
come after the vendor had taken the job says that nobody knows.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    HybridflowError,
    RequestError,
    ResourceError,
    VendorJobError,
)

__all__ = ["asking", "ended", "opening", "starting", "text_of"]

_NOT_NOW = (408, 425, 429, 503)
_UNREADABLE = ("pydantic", "pydantic_core", "msgspec")
"""Packages whose ``ValidationError`` means that an answer came, and could not be read."""


@contextmanager
def opening(resource: str) -> Iterator[None]:
    """Map what goes wrong while a device is made or looked at: :class:`AcquireError`."""
    try:
        yield
    except HybridflowError:
        raise
    except Exception as error:  # any, from a package of which nothing is known
        raise AcquireError(
            f"{resource} cannot be had: {text_of(error)}",
            transient=_may_pass(error),
            resource=resource,
        ) from error


@contextmanager
def starting(resource: str, refusals: Collection[str] = ()) -> Iterator[None]:
    """Map what goes wrong in ``run()``.

    Parameters
    ----------
    resource
        Name of the resource.
    refusals
        Names of exceptions that say that the circuits were refused.

    Raises
    ------
    RequestError
        If the vendor has refused the circuits.
    ResourceError
        If it has said that it takes none: not now (transient), or not from us.
    BackendLostError
        If nobody knows whether a job was started.
    """
    try:
        yield
    except HybridflowError:
        raise
    except Exception as error:  # any, from a package of which nothing is known
        raise _not_started(error, resource, refusals) from error


def _not_started(error: Exception, resource: str, refusals: Collection[str]) -> HybridflowError:
    status = _http_status(error)
    if status in _NOT_NOW:
        return ResourceError(
            f"{resource} takes no job now: {text_of(error)}", transient=True, resource=resource
        )
    if status in (401, 402, 403):
        return ResourceError(f"{resource} takes no job: {text_of(error)}", resource=resource)
    named = any(kind.__name__ in refusals for kind in type(error).__mro__)
    unsent = status is None and _is_refusal(error)
    if named or unsent or (status is not None and 400 <= status < 500):
        return RequestError(f"{resource} refuses the circuits: {text_of(error)}", resource=resource)
    return BackendLostError(
        f"{resource} failed while a job was being started: {text_of(error)}", resource=resource
    )


@contextmanager
def asking(resource: str, job_id: str) -> Iterator[None]:
    """Map what goes wrong while a job is asked about: :class:`ResourceError`, transient or not."""
    try:
        yield
    except HybridflowError:
        raise
    except Exception as error:  # any, from a package of which nothing is known
        raise ResourceError(
            f"{resource} does not say what has become of its job {job_id}: {text_of(error)}",
            transient=_may_pass(error),
            resource=resource,
            vendor_job_id=job_id,
        ) from error


@contextmanager
def ended(resource: str, job_id: str) -> Iterator[None]:
    """Map what the results of an ended job raise.

    Raises
    ------
    ResourceError
        If the way to the vendor failed: the results may be had later (transient).
    VendorJobError
        If the job has none.
    """
    try:
        yield
    except HybridflowError:
        raise
    except Exception as error:  # any, from a package of which nothing is known
        kind = ResourceError if _may_pass(error) else VendorJobError
        raise kind(
            f"job {job_id} of {resource} has no results: {text_of(error)}",
            transient=_may_pass(error),
            resource=resource,
            vendor_job_id=job_id,
        ) from error


def text_of(error: BaseException) -> str:
    """Return an exception's type and its own text; without one, its representation."""
    # Qiskit's errors put their text in quotation marks.
    words = str(getattr(error, "message", "") or error).strip()
    return f"{type(error).__name__}: {words}" if words else repr(error)


def _is_refusal(error: Exception) -> bool:
    """Whether an exception says that the circuits were looked at and not sent."""
    from qiskit.exceptions import QiskitError

    if any(_is_the_way(cause) or _is_unreadable(cause) for cause in _causes(error)):
        return False
    return isinstance(error, (QiskitError, ValueError, TypeError, NotImplementedError))


def _may_pass(error: Exception) -> bool:
    status = _http_status(error)
    if status is not None:
        return status in _NOT_NOW or status >= 500
    return any(_is_the_way(cause) for cause in _causes(error))


def _is_the_way(error: BaseException) -> bool:
    # Sockets, TLS, requests and urllib; httpx, gRPC and urllib3 have trees of their own.
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return False
    if isinstance(error, OSError | EOFError):
        return True
    kinds = {
        kind.__module__.partition(".")[0] + "." + kind.__name__ for kind in type(error).__mro__
    }
    return bool(kinds & {"httpx.TransportError", "grpc.RpcError", "urllib3.HTTPError"})


def _is_unreadable(error: BaseException) -> bool:
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return True
    kind = type(error)
    return kind.__name__ == "ValidationError" and kind.__module__.split(".")[0] in _UNREADABLE


def _http_status(error: Exception) -> int | None:
    for cause in _causes(error):
        for holder in (cause, getattr(cause, "response", None)):
            for name in ("status_code", "status", "code"):
                value = getattr(holder, name, None)
                if isinstance(value, int) and 400 <= value < 600:
                    return int(value)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

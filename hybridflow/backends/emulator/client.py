"""HTTP to the service: one call a request, and everything that can go wrong as a typed error.

Nothing is sent twice here: whoever calls decides whether to try again (``transient``). A request
that may have reached the service, and whose answer did not come, is told from one that did not.
"""

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from hybridflow import wire
from hybridflow.backends.emulator.messages import (
    API_KEY,
    LONGEST_WAIT_SECONDS,
    DeviceInfo,
    Execution,
    Faults,
    JobId,
    Submission,
)
from hybridflow.errors import (
    AcquireError,
    BackendLostError,
    ErrorRecord,
    HybridflowError,
    MissingExtraError,
    RequestError,
    ResourceError,
    TooLargeError,
)
from hybridflow.records import JobStatus, PackedResult, TargetSnapshot, Usage

if TYPE_CHECKING:
    import urllib3

__all__ = ["Client"]

_T = TypeVar("_T")
_NOT_NOW = (423, 429, 503)
"""Nothing was done: it may be tried again later. The service itself says why, a proxy does not."""


class Client:
    """A connection to the service, opened when it is first used. For one thread.

    Parameters
    ----------
    url
        Address of the service.
    key
        The key that it knows its user by; empty: none.
    timeout_seconds
        Patience with an answer.

    Raises
    ------
    AcquireError
        If the key cannot be one.
    """

    def __init__(self, url: str, key: str = "", *, timeout_seconds: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._headers = _authorization(key)
        self._timeout_seconds = timeout_seconds
        self._opened: urllib3.PoolManager | None = None

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        if self._opened is not None:
            self._opened.clear()
            self._opened = None

    # What the service has

    def info(self, resource: str) -> DeviceInfo:
        """Return what the service says of a resource; an error while it is offline."""
        return self._json("GET", _resource(resource), DeviceInfo)

    def target(self, resource: str) -> TargetSnapshot:
        """Return a resource's target."""
        return self._msgpack("GET", f"{_resource(resource)}/target", TargetSnapshot)

    def log(self) -> list[Execution]:
        """Return the jobs that the service was given, the oldest first."""
        return self._json("GET", "/log", list[Execution])

    def set_faults(self, faults: Faults) -> Faults:
        """Replace the service's faults, and return them."""
        return self._json("PUT", "/faults", Faults, msgspec.json.encode(faults))

    # Jobs

    def start(self, resource: str, submission: Submission, max_bytes: int) -> str:
        """Start a job and return its id.

        Raises
        ------
        BackendLostError
            If the job may have been accepted, but its id did not come.
        TooLargeError
            If it has more than `max_bytes`; nothing was sent.
        """
        body = wire.encode(submission)
        if len(body) > max_bytes:
            raise TooLargeError(
                f"a vendor job of {len(body)} bytes is too large: {self.url} takes {max_bytes}"
            )
        data = self._call("POST", f"{_resource(resource)}/jobs", body, 0.0, may_start=True)
        try:
            return msgspec.json.decode(data, type=_Accepted).id
        except msgspec.DecodeError as error:
            raise self._unanswered(f"a job's id was expected: {error}", may_start=True) from error

    def find(self, resource: str, tag: str) -> str | None:
        """Return the id of the youngest job with a tag."""
        return self._json("GET", f"{_resource(resource)}/jobs?{urlencode({'tag': tag})}", JobId).id

    def status(self, job_id: str, wait: float) -> JobStatus:
        """Return a job's state; the service answers after `wait` seconds, or at the job's end."""
        wait = min(max(0.0, wait), LONGEST_WAIT_SECONDS)
        return self._json("GET", f"{_job(job_id)}?wait={wait:.6f}", JobStatus, wait=wait)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return a job's results."""
        return self._msgpack("GET", f"{_job(job_id)}/result", tuple[PackedResult, ...])

    def usage(self, job_id: str) -> Usage:
        """Return what a job cost."""
        return self._json("GET", f"{_job(job_id)}/usage", Usage)

    def cancel(self, job_id: str) -> JobStatus:
        """Have a job ended; return its state."""
        return self._json("POST", f"{_job(job_id)}/cancel", JobStatus)

    # The way there

    def _json(
        self, method: str, path: str, kind: type[_T], body: bytes | None = None, wait: float = 0.0
    ) -> _T:
        data = self._call(method, path, body, wait)
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError as error:
            raise self._stranger(str(error)) from error

    def _msgpack(self, method: str, path: str, kind: type[_T]) -> _T:
        data = self._call(method, path, None, 0.0)
        try:
            return wire.decode(data, kind)
        except RequestError as error:
            raise self._stranger(str(error)) from error

    def _call(
        self, method: str, path: str, body: bytes | None, wait: float, *, may_start: bool = False
    ) -> bytes:
        pool = self._pool()
        import urllib3
        from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

        patience = urllib3.Timeout(connect=self._timeout_seconds, read=self._timeout_seconds + wait)
        try:
            answer = pool.request(
                method,
                self.url + path,
                body=body,
                headers=self._headers,
                timeout=patience,
                retries=False,
            )
        except (NewConnectionError, ConnectTimeoutError) as error:
            raise ResourceError(
                f"no emulated QPU can be reached at {self.url} ({_reason(error)}): start it with "
                "`hybridflow qpu-emulator`, or correct `url` in the site file",
                transient=True,
            ) from error
        except HTTPError as error:
            raise self._unanswered(_reason(error), may_start=may_start) from error
        if answer.status >= 400:
            raise self._refusal(answer.status, answer.data, may_start=may_start)
        return bytes(answer.data)

    def _pool(self) -> "urllib3.PoolManager":
        if self._opened is None:
            try:
                import urllib3
            except ModuleNotFoundError as error:
                raise MissingExtraError(
                    "the backend 'emulator' needs urllib3, which is not installed; install it "
                    "with: pip install 'hybridflow[emulator]'"
                ) from error
            self._opened = urllib3.PoolManager(num_pools=1, maxsize=1)
        return self._opened

    def _unanswered(self, reason: str, *, may_start: bool) -> HybridflowError:
        what = f"{self.url} gave no answer ({reason})"
        if may_start:  # it may have been heard
            return BackendLostError(what)
        return ResourceError(what, transient=True)

    def _refusal(self, status: int, data: bytes, *, may_start: bool) -> HybridflowError:
        try:
            return msgspec.json.decode(data, type=ErrorRecord).error()
        except msgspec.DecodeError:
            reason = f"HTTP status {status}"
            if status in _NOT_NOW:
                return ResourceError(f"{self.url} is not to be had now ({reason})", transient=True)
            if status >= 500:
                return self._unanswered(reason, may_start=may_start)
            return self._stranger(reason)

    def _stranger(self, reason: str) -> HybridflowError:
        return ResourceError(
            f"what answers at {self.url} is no emulated QPU of this version: {reason}"
        )


class _Accepted(JobId, frozen=True, kw_only=True):
    id: str


def _authorization(key: str) -> dict[str, str]:
    if not key:
        return {}
    if not key.isascii() or not key.isprintable() or " " in key:
        # Here, and without the key: http.client would quote it.
        raise AcquireError(
            f"the credential {API_KEY} is no key: it has a blank, a line end or what is not ASCII"
        )
    return {"Authorization": f"Bearer {key}"}


def _resource(name: str) -> str:
    return f"/resources/{quote(name, safe='')}"


def _job(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}"


def _reason(error: Exception) -> str:
    # urllib3 puts the operating system's own error into the cause.
    cause = error.__cause__ or error.__context__
    return str(getattr(cause, "strerror", None) or cause or error)

"""HTTP in front of the service: paths to questions, and errors to answers. No state lives here.

``backends/emulator/messages.py`` lists the paths.
"""

import asyncio
import contextlib
import math
from typing import Any, cast

import msgspec
from tornado import netutil, web
from tornado.httpserver import HTTPServer

from hybridflow import wire
from hybridflow.backends.emulator.messages import (
    API_KEY,
    LONGEST_WAIT_SECONDS,
    Faults,
    JobId,
    Submission,
)
from hybridflow.emulator.jobs import Job
from hybridflow.emulator.service import Service
from hybridflow.errors import (
    AcquireError,
    ErrorRecord,
    HybridflowError,
    InternalError,
    RequestError,
    UserError,
)

__all__ = ["listen"]

_UNKNOWN_KEY = f"the emulated QPU does not know this key: correct the credential {API_KEY}"


def listen(service: Service, host: str, port: int) -> tuple[HTTPServer, str]:
    """Answer for a service; return the server and its address."""
    application = web.Application(
        [
            (r"/resources", _Resources),
            (r"/resources/([^/]+)", _Resource),
            (r"/resources/([^/]+)/target", _Target),
            (r"/resources/([^/]+)/jobs", _JobsOf),
            (r"/jobs/([^/]+)", _Status),
            (r"/jobs/([^/]+)/result", _Result),
            (r"/jobs/([^/]+)/usage", _Usage),
            (r"/jobs/([^/]+)/cancel", _Cancel),
            (r"/log", _Log),
            (r"/faults", _Faults),
        ],
        default_handler_class=_Nothing,
        service=service,
    )
    server = HTTPServer(
        application,
        max_body_size=service.max_bytes,
        max_buffer_size=service.max_bytes + 2**20,
        idle_connection_timeout=600,
        body_timeout=600,
    )
    sockets = netutil.bind_sockets(port, host)
    server.add_sockets(sockets)
    shown = f"[{host}]" if ":" in host else host
    return server, f"http://{shown}:{sockets[0].getsockname()[1]}"


class _Handler(web.RequestHandler):
    """What all questions share: keys, errors, and answers that are slow on demand."""

    is_public = False
    is_slow = True
    account = ""

    @property
    def service(self) -> Service:
        return cast(Service, self.settings["service"])

    async def prepare(self) -> None:
        if self.is_slow:
            await asyncio.sleep(self.service.faults.slow_seconds)
        if self.is_public:
            return
        account = self.service.account(self.request.headers.get("Authorization", ""))
        if account is None:
            raise web.HTTPError(401, _UNKNOWN_KEY)
        self.account = account

    def answer(self, message: object) -> None:
        """Send a message as JSON."""
        self.set_header("Content-Type", "application/json")
        self.write(msgspec.json.encode(message))

    def send_msgpack(self, data: bytes) -> None:
        """Send bytes that are msgpack."""
        self.set_header("Content-Type", "application/msgpack")
        self.write(data)

    def drop(self) -> None:
        """Close the connection without an answer."""
        self.detach().close()

    def compute_etag(self) -> str | None:
        return None  # nobody asks a second time

    def job(self, job_id: str) -> Job:
        """Return a job of this user."""
        return self.service.jobs.get(job_id, self.account)

    # Errors

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Send an error as a record, with the status that fits it."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, HybridflowError):
            self.set_status(_status_of(error))
            self.answer(ErrorRecord.of(error))
        elif isinstance(error, web.HTTPError):
            kind = AcquireError if status_code == 401 else RequestError
            self.answer(ErrorRecord(kind.__name__, error.log_message or str(error)))
        else:
            self.answer(ErrorRecord(InternalError.__name__, f"{type(error).__name__}: {error}"))
        self.finish()

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what is not an ordinary refusal."""
        if not isinstance(value, HybridflowError):
            super().log_exception(typ, value, tb)


def _status_of(error: HybridflowError) -> int:
    if isinstance(error, UserError):
        return 400
    return 503 if error.transient else 404


class _Nothing(_Handler):
    is_public = True

    async def prepare(self) -> None:
        raise RequestError(f"there is nothing at {self.request.path}")


# Resources


class _Resources(_Handler):
    is_public = True

    def get(self) -> None:
        self.answer(list(self.service.devices))


class _Resource(_Handler):
    def get(self, name: str) -> None:
        self.answer(self.service.online(name).info)


class _Target(_Handler):
    is_public = True

    def get(self, name: str) -> None:
        self.send_msgpack(wire.encode(self.service.device(name).target))


class _JobsOf(_Handler):
    def get(self, name: str) -> None:
        found = None
        if self.service.device(name).options.tags:
            found = self.service.jobs.find(name, self.get_query_argument("tag"), self.account)
        self.answer(JobId(id=found.id if found else None))

    def post(self, name: str) -> None:
        submission = wire.decode(self.request.body, Submission)
        job = self.service.submit(name, self.account, submission)
        if self.service.take_fault("drop_accepted"):
            self.drop()
            return
        self.set_status(201)
        self.answer(JobId(id=job.id))


# Jobs


class _Status(_Handler):
    async def get(self, job_id: str) -> None:
        job = self.job(job_id)
        wait = _seconds(self.get_query_argument("wait", "0"))
        if wait and not job.ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.ended.wait(), wait)
        self.answer(job.status)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise RequestError(f"`wait` is a number of seconds, not {text!r}")
    return min(value, LONGEST_WAIT_SECONDS)


class _Result(_Handler):
    def get(self, job_id: str) -> None:
        data = self.job(job_id).packed_results()
        if self.service.take_fault("drop_results"):
            self.drop()
            return
        self.send_msgpack(data)


class _Usage(_Handler):
    def get(self, job_id: str) -> None:
        self.answer(self.job(job_id).usage)


class _Cancel(_Handler):
    def post(self, job_id: str) -> None:
        job = self.job(job_id)
        self.service.device(job.resource).cancel(job)
        self.answer(job.status)


# For tests and benchmarks


class _Log(_Handler):
    def get(self) -> None:
        self.answer(list(self.service.jobs.log()))


class _Faults(_Handler):
    is_slow = False  # or else slowness could not be switched off in time

    def get(self) -> None:
        self.answer(self.service.faults)

    def put(self) -> None:
        try:
            self.service.faults = msgspec.json.decode(self.request.body, type=Faults)
        except msgspec.DecodeError as error:
            raise RequestError(f"these are no faults: {error}") from error
        self.answer(self.service.faults)

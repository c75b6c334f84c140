"""HTTP in front of the service: paths to questions, and errors to answers. No state lives here.

``backends/emulator/messages.py`` lists the paths.
"""

import asyncio
import contextlib
import math
from http import HTTPStatus
from typing import Any, cast

import msgspec
from tornado import netutil, web
from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer

from hybridflow import wire
from hybridflow.backends.emulator.messages import (
    API_KEY,
    LONGEST_WAIT_SECONDS,
    Faults,
    JobId,
    Question,
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
_NO_ADMIN = "only admins may see and switch faults: name this key's user in `admins` of the service"


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
    """What all questions share: keys, errors, and answers that go wrong on demand.

    Attributes
    ----------
    is_public
        Whether no key is asked for.
    account
        Whose key was given.
    question
        What it is to the faults; None: they do not concern it.
    """

    is_public = False
    account = ""
    question: Question | None = None
    _is_abandoned = False

    @property
    def service(self) -> Service:
        return cast(Service, self.settings["service"])

    async def prepare(self) -> None:
        if self.question is not None:
            await asyncio.sleep(self.service.faults.pause(self.question))
            if self._is_abandoned:
                raise web.Finish
            refusal = self.service.faults.refusal(self.question)
            if refusal is not None:
                self.turn_away(refusal)
                return
        if self.is_public:
            return
        account = self.service.account(self.request.headers.get("Authorization", ""))
        if account is None:
            raise web.HTTPError(401, _UNKNOWN_KEY)
        self.account = account

    def on_connection_close(self) -> None:
        self._is_abandoned = True

    def answer(self, message: object) -> None:
        """Send a message as JSON."""
        self._send("application/json", msgspec.json.encode(message))

    def send_msgpack(self, data: bytes) -> None:
        """Send bytes that are msgpack."""
        self._send("application/msgpack", data)

    def _send(self, kind: str, data: bytes) -> None:
        self.set_header("Content-Type", kind)
        self.write(data)

    def flush(self, include_footers: bool = False) -> "asyncio.Future[None]":
        if self.question is None or not self.service.faults.doubles(self.question):
            return super().flush(include_footers)
        # In one piece, so that the second is there when the first has been read.
        lines = [f"HTTP/1.1 {self.get_status()} {HTTPStatus(self.get_status()).phrase}"]
        lines += [f"{name}: {value}" for name, value in self._headers.get_all()]
        answer = "\r\n".join([*lines, "", ""]).encode() + b"".join(self._write_buffer)
        return cast(HTTP1Connection, self.request.connection).stream.write(2 * answer)

    def turn_away(self, status: HTTPStatus) -> None:
        """Answer as a proxy would, in words that are not the service's."""
        self.set_status(status)
        self.set_header("Content-Type", "text/plain")
        self.finish(status.phrase)

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
    question = "describe"

    def get(self, name: str) -> None:
        self.answer(self.service.online(name).info)


class _Target(_Handler):
    is_public = True
    question = "target"

    def get(self, name: str) -> None:
        self.send_msgpack(wire.encode(self.service.device(name).target))


class _JobsOf(_Handler):
    async def prepare(self) -> None:
        self.question = "start" if self.request.method == "POST" else "find"
        await super().prepare()

    def get(self, name: str) -> None:
        found = None
        if self.service.device(name).options.tags:
            found = self.service.jobs.find(name, self.get_query_argument("tag"), self.account)
        self.answer(JobId(id=found.id if found else None))

    def post(self, name: str) -> None:
        submission = wire.decode(self.request.body, Submission)
        job = self.service.submit(name, self.account, submission)
        if self.service.faults.take("drop_accepted"):
            self.drop()
            return
        if self.service.faults.take("break_accepted"):
            self.turn_away(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self.set_status(201)
        self.answer(JobId(id=job.id))


# Jobs


class _Status(_Handler):
    question = "status"

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
    question = "result"

    def get(self, job_id: str) -> None:
        data = self.job(job_id).packed_results()
        if self.service.faults.take("drop_results"):
            self.drop()
            return
        self.send_msgpack(data)


class _Usage(_Handler):
    question = "usage"

    def get(self, job_id: str) -> None:
        self.answer(self.job(job_id).usage)


class _Cancel(_Handler):
    question = "cancel"

    def post(self, job_id: str) -> None:
        job = self.job(job_id)
        self.service.device(job.resource).cancel(job)
        self.answer(job.status)


# For tests and benchmarks


class _Log(_Handler):
    def get(self) -> None:
        everybody = self.service.is_admin(self.account)
        self.answer(list(self.service.jobs.log(None if everybody else self.account)))


class _Faults(_Handler):
    async def prepare(self) -> None:
        await super().prepare()
        if not self.service.is_admin(self.account):
            raise web.HTTPError(403, _NO_ADMIN)

    def get(self) -> None:
        self.answer(self.service.faults.now)

    def put(self) -> None:
        try:
            faults = msgspec.json.decode(self.request.body, type=Faults)
        except msgspec.DecodeError as error:
            raise RequestError(f"these are no faults: {error}") from error
        self.service.faults.switch(faults)
        self.answer(self.service.faults.now)

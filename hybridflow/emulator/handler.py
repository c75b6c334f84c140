"""What all questions to the service share, whichever client asks them."""

import asyncio
from http import HTTPStatus
from typing import Any, cast

import msgspec
from tornado import web
from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream

from hybridflow.backends.emulator.messages import API_KEY, Question
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

__all__ = ["Handler", "status_of"]

_UNKNOWN_KEY = f"the emulated QPU does not know this key: correct the credential {API_KEY}"


class Handler(web.RequestHandler):
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
        """The service."""
        return cast(Service, self.settings["service"])

    async def prepare(self) -> None:
        """Let the faults have their way, and ask for the key."""
        if self.question is not None:
            await asyncio.sleep(self.service.faults.pause(self.question))
            if self._is_abandoned:
                raise web.Finish
            refusal = self.service.faults.refusal(self.question)
            if refusal is not None:
                self.turn_away(refusal)
                return
            if self.service.faults.shows_page(self.question):
                self.finish("<html><body>Please log in to the network.</body></html>")
                return
        if self.is_public:
            return
        account = self.asking()
        if account is None:
            raise web.HTTPError(401, _UNKNOWN_KEY)
        self.account = account

    def asking(self) -> str | None:
        """Return whose key was given; None: nobody's."""
        return self.service.account(self.request.headers.get("Authorization", ""))

    def on_connection_close(self) -> None:
        """Note that nobody waits for the answer."""
        self._is_abandoned = True

    def answer(self, message: object) -> None:
        """Send a message as JSON."""
        self._send("application/json", msgspec.json.encode(message))

    def send_msgpack(self, data: bytes) -> None:
        """Send bytes that are msgpack."""
        self._send("application/msgpack", data)

    def send_text(self, text: str) -> None:
        """Send a text."""
        self._send("text/plain; charset=utf-8", text.encode())

    def _send(self, kind: str, data: bytes) -> None:
        self.set_header("Content-Type", kind)
        self.write(data)

    def flush(self, include_footers: bool = False) -> "asyncio.Future[None]":
        """Send what was written: once, twice or half of it, as the faults say."""
        faults = self.service.faults
        if self.question is not None and faults.halves(self.question):
            return self._write_half()
        if self.question is None or not faults.doubles(self.question):
            return super().flush(include_footers)
        # In one piece, so that the second is there when the first has been read.
        return self._stream.write(2 * b"".join(self._raw()))

    def _write_half(self) -> "asyncio.Future[None]":
        head, body = self._raw()
        written = self._stream.write(head + body[: len(body) // 2])
        written.add_done_callback(lambda _: self._stream.close())
        return written

    @property
    def _stream(self) -> IOStream:
        return cast(HTTP1Connection, self.request.connection).stream

    def _raw(self) -> tuple[bytes, bytes]:
        lines = [f"HTTP/1.1 {self.get_status()} {HTTPStatus(self.get_status()).phrase}"]
        lines += [f"{name}: {value}" for name, value in self._headers.get_all()]
        return "\r\n".join([*lines, "", ""]).encode(), b"".join(self._write_buffer)

    def turn_away(self, status: HTTPStatus) -> None:
        """Answer as a proxy would, in words that are not the service's."""
        self.set_status(status)
        self.set_header("Content-Type", "text/plain")
        self.finish(status.phrase)

    def drop(self) -> None:
        """Close the connection without an answer."""
        self.detach().close()

    def compute_etag(self) -> str | None:
        """Return none."""
        return None  # nobody asks a second time

    def job(self, job_id: str) -> Job:
        """Return a job of this user."""
        return self.service.jobs.get(job_id, self.account)

    # Errors

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Send an error as a record, with the status that fits it."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, HybridflowError):
            self.set_status(status_of(error))
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


def status_of(error: HybridflowError) -> int:
    """Return the HTTP status that says what an error is."""
    if isinstance(error, UserError):
        return 400
    return 503 if error.transient else 404

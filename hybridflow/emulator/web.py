"""HTTP in front of the service: paths to questions, and errors to answers. No state lives here.

``backends/emulator/messages.py`` lists the paths; those of IBM's service are in ``ibm/web.py``.
"""

import asyncio
import contextlib
import math
from http import HTTPStatus

import msgspec
from tornado import netutil, web
from tornado.httpserver import HTTPServer

from hybridflow import wire
from hybridflow.backends.emulator.messages import LONGEST_WAIT_SECONDS, Faults, JobId, Submission
from hybridflow.emulator import ibm
from hybridflow.emulator.handler import Handler
from hybridflow.emulator.service import Service
from hybridflow.errors import RequestError

__all__ = ["listen"]

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
            *ibm.routes(),
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


class _Nothing(Handler):
    is_public = True

    async def prepare(self) -> None:
        raise RequestError(f"there is nothing at {self.request.path}")


# Resources


class _Resources(Handler):
    is_public = True

    def get(self) -> None:
        self.answer(list(self.service.devices))


class _Resource(Handler):
    question = "describe"

    def get(self, name: str) -> None:
        self.answer(self.service.online(name).info)


class _Target(Handler):
    is_public = True
    question = "target"

    def get(self, name: str) -> None:
        self.send_msgpack(wire.encode(self.service.device(name).target))


class _JobsOf(Handler):
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


class _Status(Handler):
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


class _Result(Handler):
    question = "result"

    def get(self, job_id: str) -> None:
        data = self.job(job_id).packed_results()
        if self.service.faults.take("drop_results"):
            self.drop()
            return
        self.send_msgpack(data)


class _Usage(Handler):
    question = "usage"

    def get(self, job_id: str) -> None:
        self.answer(self.job(job_id).usage)


class _Cancel(Handler):
    question = "cancel"

    def post(self, job_id: str) -> None:
        job = self.job(job_id)
        self.service.device(job.resource).cancel(job)
        self.answer(job.status)


# For tests and benchmarks


class _Log(Handler):
    def get(self) -> None:
        everybody = self.service.is_admin(self.account)
        self.answer(list(self.service.jobs.log(None if everybody else self.account)))


class _Faults(Handler):
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

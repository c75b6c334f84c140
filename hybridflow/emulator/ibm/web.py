"""IBM's paths, and its way to say what went wrong; what is answered stands in ``face.py``."""

import asyncio
import json
from http import HTTPStatus
from typing import Any, cast

from tornado import web

from hybridflow.emulator.handler import Handler, status_of
from hybridflow.emulator.ibm.access import TOKEN_SECONDS, Session
from hybridflow.emulator.ibm.face import Face
from hybridflow.emulator.jobs import Job
from hybridflow.errors import HybridflowError, RequestError
from hybridflow.records import JobState

__all__ = ["IbmHandler", "routes"]

_PAGE = 200
"""Jobs that a list has at most."""


def routes() -> list[tuple[str, type[web.RequestHandler]]]:
    """Return the paths, and who answers at each."""
    return [
        (r"/ibm/identity/token", _Token),
        (r"/ibm/backends", _Backends),
        (r"/ibm/backends/([^/]+)/status", _BackendStatus),
        (r"/ibm/backends/([^/]+)/configuration", _Configuration),
        (r"/ibm/backends/([^/]+)/properties", _Properties),
        (r"/ibm/sessions", _Sessions),
        (r"/ibm/sessions/([^/]+)", _Session),
        (r"/ibm/sessions/([^/]+)/close", _ClosedSession),
        (r"/ibm/jobs", _Jobs),
        (r"/ibm/jobs/([^/]+)", _Job),
        (r"/ibm/jobs/([^/]+)/results", _Results),
        (r"/ibm/jobs/([^/]+)/logs", _Logs),
        (r"/ibm/jobs/([^/]+)/metrics", _Metrics),
        (r"/ibm/jobs/([^/]+)/cancel", _Cancel),
        (r"/ibm/instances/usage", _Usage),
    ]


class IbmHandler(Handler):
    """What all questions of IBM's clients share."""

    @property
    def face(self) -> Face:
        """What the service knows of itself in IBM's words."""
        known = self.settings.get("ibm")
        if known is None:
            known = self.settings["ibm"] = Face(self.service)
        return cast(Face, known)

    def asking(self) -> str | None:
        """Return whose token was given; None: nobody's."""
        token = self.request.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.face.tokens.account(token)

    def fields(self) -> dict[str, Any]:
        """Return the JSON that was sent."""
        try:
            content = json.loads(self.request.body or b"{}")
        except ValueError as error:
            raise RequestError(f"this is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise RequestError("this is no JSON object")
        return content

    def accepted(self) -> bool:
        """Whether the client is told that its job was accepted; else it hears nothing, or a 500."""
        if self.service.faults.take("drop_accepted"):
            self.drop()
            return False
        if self.service.faults.take("break_accepted"):
            self.turn_away(HTTPStatus.INTERNAL_SERVER_ERROR)
            return False
        return True

    def cancel(self, job: Job) -> None:
        """Have a job ended, if it has not."""
        if not job.status.state.final:
            self.service.device(job.resource).cancel(job)

    def found(self, job_id: str) -> Job:
        """Return a job of this user."""
        return self.face.job(job_id, self.account)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Send an error as IBM's service does."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, HybridflowError):
            status_code = status_of(error)
            self.set_status(status_code)
        text = error.log_message if isinstance(error, web.HTTPError) else None
        message = text or str(error) or HTTPStatus(status_code).phrase
        self.answer(
            {"errors": [{"code": status_code, "message": message, "solution": "", "more_info": ""}]}
        )
        self.finish()


class _Token(IbmHandler):
    is_public = True

    def post(self) -> None:
        account = self.service.account(self.get_body_argument("apikey"))
        if account is None:
            self.set_status(400)
            self.answer(
                {
                    "errorCode": "BXNIM0415E",
                    "errorMessage": "Provided API key could not be found.",
                    "context": {"requestId": "", "requestType": "incoming.Identity_Token"},
                }
            )
            return
        now = int(self.request._start_time)
        self.answer(
            {
                "access_token": self.face.tokens.give(account),
                "refresh_token": "not_supported",
                "token_type": "Bearer",
                "expires_in": TOKEN_SECONDS,
                "expiration": now + TOKEN_SECONDS,
                "scope": "ibm openid",
            }
        )


# Devices


class _Backends(IbmHandler):
    question = "describe"

    def get(self) -> None:
        self.answer({"devices": self.face.devices()})


class _BackendStatus(IbmHandler):
    question = "describe"

    def get(self, name: str) -> None:
        self.answer(self.face.state(name))


class _Configuration(IbmHandler):
    question = "target"

    def get(self, name: str) -> None:
        self.answer(self.face.configuration(name))


class _Properties(IbmHandler):
    question = "target"

    def get(self, name: str) -> None:
        self.answer(self.face.properties(name))


# Sessions


class _Sessions(IbmHandler):
    question = "describe"

    def post(self) -> None:
        fields = self.fields()
        device = self.face.device(str(fields.get("backend") or fields.get("backend_name")))
        self.service.online(device.name)
        mode = str(fields.get("mode") or "dedicated")
        if mode not in ("dedicated", "batch"):
            raise RequestError(f"`mode` is 'dedicated' or 'batch', not {mode!r}")
        self.set_status(201)
        self.answer(_described(self.face.sessions.open(device.name, self.account, mode)))


class _Session(IbmHandler):
    def get(self, session_id: str) -> None:
        self.answer(_described(self.face.sessions.get(session_id, self.account)))

    def patch(self, session_id: str) -> None:
        if self.fields().get("accepting_jobs") is not False:
            raise RequestError("of a session only `accepting_jobs` can be changed, to false")
        self.face.sessions.close(self.face.sessions.get(session_id, self.account))
        self.set_status(204)


class _ClosedSession(IbmHandler):
    def delete(self, session_id: str) -> None:
        session = self.face.sessions.get(session_id, self.account)
        self.face.sessions.close(session)
        for job in self.face.jobs(self.account):
            if self.face.meets(job, {"session_id": [session_id], "pending": ["true"]}):
                self.service.device(job.resource).cancel(job)
        self.set_status(204)


def _described(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "backend_name": session.backend,
        "mode": session.mode,
        "state": "open" if session.accepting else "closed",
        "accepting_jobs": session.accepting,
        "interactive_timeout": 60,
        "max_time": 28800,
        "active_timeout": 28800,
    }


# Jobs


class _Jobs(IbmHandler):
    async def prepare(self) -> None:
        self.question = "start" if self.request.method == "POST" else "find"
        await super().prepare()

    def get(self) -> None:
        asked = {key: [value.decode() for value in values] for key, values in self._query().items()}
        offset, limit = (int(asked.get(key, ["0"])[-1]) for key in ("offset", "limit"))
        limit = min(limit or _PAGE, _PAGE)
        found = [job for job in self.face.jobs(self.account) if self.face.meets(job, asked)]
        page = found[offset : offset + limit]
        self.answer(
            {
                "jobs": [self.face.described(job) for job in page],
                "count": len(found),
                "limit": limit,
                "offset": offset,
            }
        )

    def _query(self) -> dict[str, list[bytes]]:
        return self.request.query_arguments

    def post(self) -> None:
        fields = self.fields()
        job = self.face.submit(fields, json.dumps(fields.get("params")), self.account)
        if self.accepted():
            self.set_status(201)
            self.answer({"id": job.id, "backend": job.resource})


class _Job(IbmHandler):
    question = "status"

    def get(self, job_id: str) -> None:
        self.answer(self.face.described(self.found(job_id)))

    def delete(self, job_id: str) -> None:
        self.found(job_id)  # it stays in the log, and is forgotten with all the others
        self.set_status(204)


class _Results(IbmHandler):
    question = "result"

    async def get(self, job_id: str) -> None:
        job = self.found(job_id)
        if not job.status.state.final:
            self.set_status(204)
            return
        if job.status.state is JobState.FAILED:
            self.send_text(job.status.message)  # what its program has printed, in its place
            return
        text = await asyncio.to_thread(self.face.results, job)
        if self.service.faults.take("drop_results"):
            self.drop()
            return
        self.send_text(text)


class _Logs(IbmHandler):
    question = "result"

    def get(self, job_id: str) -> None:
        self.send_text(self.found(job_id).status.message)


class _Metrics(IbmHandler):
    question = "usage"

    def get(self, job_id: str) -> None:
        self.answer(self.face.metrics(self.found(job_id)))


class _Cancel(IbmHandler):
    question = "cancel"

    def post(self, job_id: str) -> None:
        job = self.found(job_id)
        if job.status.state.final:
            raise web.HTTPError(409, f"the job {job_id} has ended: it is {job.status.state.value}")
        self.service.device(job.resource).cancel(job)
        self.set_status(204)


class _Usage(IbmHandler):
    question = "usage"

    def get(self) -> None:
        self.answer({"usage_consumed_seconds": 0, "usage_limit_reached": False})

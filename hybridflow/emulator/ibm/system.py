"""IBM's other interface, that of a Quantum System of one's own: data goes through an object store.

::

    client ── input ──► objects ──► job ──► results, logs: objects ──► client
       └───── POST jobs: its id, and where these three are ─────┘

Paths begin with ``/ibm-system/v1``, those of the store with ``/ibm-system/s3``. Of a signed
question to the store only the access key is looked at, which is the user's key; nothing but objects
of this store is read for a job.
"""

import re
from typing import Any
from urllib.parse import unquote, urlsplit

from tornado import web

from hybridflow.emulator.ibm.web import IbmHandler
from hybridflow.emulator.service import KnownJobError
from hybridflow.errors import HybridflowError, RequestError
from hybridflow.records import JobState

__all__ = ["routes"]

_STORE = "/ibm-system/s3"
_ACCESS_KEY = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/,]+)/")


def routes() -> list[tuple[str, type[web.RequestHandler]]]:
    """Return the paths, and who answers at each."""
    return [
        (r"/ibm-system/v1/backends/([^/]+)", _Backend),
        (r"/ibm-system/v1/backends/([^/]+)/lanes", _Lanes),
        (r"/ibm-system/v1/backends/([^/]+)/configuration", _Configuration),
        (r"/ibm-system/v1/backends/([^/]+)/properties", _Properties),
        (r"/ibm-system/v1/jobs", _Jobs),
        (r"/ibm-system/v1/jobs/([^/]+)", _Job),
        (r"/ibm-system/v1/jobs/([^/]+)/cancel", _Cancel),
        (r"/ibm-system/s3/(.+)", _Object),
    ]


class _Backend(IbmHandler):
    question = "describe"

    def get(self, name: str) -> None:
        state = self.face.state(name)
        status = "online" if state["state"] else "offline"
        self.answer({"name": name, "status": status, "message": "", "version": "1.0.0"})


class _Lanes(IbmHandler):
    question = "describe"

    def get(self, name: str) -> None:
        lanes = {"lanes": self.face.device(name).options.lanes}
        self.answer({"hpc_workload_manager": lanes, "ibm_quantum_compute": {"lanes": 0}})


class _Configuration(IbmHandler):
    question = "target"

    def get(self, name: str) -> None:
        self.answer(self.face.configuration(name))


class _Properties(IbmHandler):
    question = "target"

    def get(self, name: str) -> None:
        self.answer(self.face.properties(name))


# Jobs


class _Jobs(IbmHandler):
    async def prepare(self) -> None:
        self.question = "start" if self.request.method == "POST" else "describe"
        await super().prepare()

    def get(self) -> None:
        self.answer({"jobs": [_described(self, job.id) for job in self.face.jobs(self.account)]})

    def post(self) -> None:
        fields = self.fields()
        places = {kind: _place(fields, kind) for kind in ("input", "results", "logs")}
        params = self.face.objects.get(self.account, places["input"])
        job_id = fields.get("id")
        if not isinstance(job_id, str) or not 0 < len(job_id) <= 64:
            raise RequestError("`id` is a text of 1 to 64 characters")
        try:
            job = self.face.submit(fields, params, self.account, job_id)
        except KnownJobError as error:
            raise web.HTTPError(409, str(error)) from error
        self.face.objects.put(
            self.account, places["results"], lambda: self.face.results(job).encode()
        )
        self.face.objects.put(self.account, places["logs"], lambda: job.status.message.encode())
        if self.accepted():
            self.set_status(204)


def _place(fields: dict[str, Any], kind: str) -> str:
    try:
        url = fields["storage"][kind]["presigned_url"]
        path = unquote(urlsplit(url).path)
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"`storage.{kind}.presigned_url` is missing, or no address") from error
    if not path.startswith(f"{_STORE}/"):
        raise RequestError(f"`storage.{kind}` is not in this service's own store: {path}")
    return path.removeprefix(f"{_STORE}/")


class _Job(IbmHandler):
    question = "status"

    def get(self, job_id: str) -> None:
        self.answer(_described(self, job_id))

    def delete(self, job_id: str) -> None:
        self.cancel(self.found(job_id))  # it stays in the log, and is forgotten with all the others
        self.set_status(204)


def _described(handler: IbmHandler, job_id: str) -> dict[str, Any]:
    job = handler.found(job_id)
    said = handler.face.described(job)
    failed = job.status.state is JobState.FAILED
    return {
        "id": job.id,
        # It knows no queue: a job that was accepted runs.
        "status": "Running" if said["status"] == "Queued" else said["status"],
        "program_id": said["program"]["id"],
        "backend": job.resource,
        "created_time": said["created"],
        "timeout_secs": 10_000,
        "log_level": "info",
        "storage": {},
        "usage": {"quantum_nanoseconds": round(1e9 * job.usage.qpu_seconds)},
        **({"reason_code": 1, "reason_message": job.status.message} if failed else {}),
    }


class _Cancel(IbmHandler):
    question = "cancel"

    def post(self, job_id: str) -> None:
        self.cancel(self.found(job_id))
        self.set_status(204)


# Objects


class _Object(IbmHandler):
    async def prepare(self) -> None:
        self.question = "start" if self.request.method == "PUT" else "result"
        await super().prepare()

    def asking(self) -> str | None:
        found = _ACCESS_KEY.match(self.request.headers.get("Authorization", ""))
        return self.service.account(found.group(1)) if found else None

    def put(self, path: str) -> None:
        self.face.objects.put(self.account, path, self.request.body)

    def get(self, path: str) -> None:
        data = self.face.objects.get(self.account, path)
        if self.service.faults.take("drop_results"):
            self.drop()
            return
        self.set_header("Content-Type", "application/octet-stream")
        self.write(data)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Send an error as S3 does."""
        error = kwargs.get("exc_info", (None, None))[1]
        code = 404 if isinstance(error, HybridflowError) else status_code
        self.set_status(code)
        self.set_header("Content-Type", "application/xml")
        name = "NoSuchKey" if code == 404 else "AccessDenied"
        self.finish(f"<Error><Code>{name}</Code><Message>{code}</Message></Error>")

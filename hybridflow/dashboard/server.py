"""The server of the page: who may look, and the run's state as JSON. It changes nothing.

The token stands behind the ``#`` of the address, which a browser keeps to itself; the page sends it
as a header. No cookie: on one host they are shared by all ports, other users' too.
"""

import asyncio
import contextlib
import hmac
import secrets
import socket
import time
from collections.abc import Callable
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import msgspec
from tornado import web
from tornado.httpserver import HTTPServer

from hybridflow.report.redact import redacted
from hybridflow.slurm.poll import SlurmPoll
from hybridflow.watch import RunWatch

__all__ = ["Dashboard", "serve"]

_HOST = "127.0.0.1"
_HOSTS = (_HOST, "localhost")
_FILES = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
_SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Dashboard:
    """What the page shows.

    Parameters
    ----------
    name
        Name of the run.
    watch
        Its events.
    slurm
        What Slurm says.
    """

    def __init__(self, name: str, watch: RunWatch, slurm: SlurmPoll) -> None:
        self.token = secrets.token_urlsafe(24)
        self._name, self._watch, self._slurm = name, watch, slurm

    def admits(self, authorization: str) -> bool:
        """Whether a header has the token."""
        return hmac.compare_digest(authorization.encode(), f"Bearer {self.token}".encode())

    def state(self) -> bytes:
        """Return how the run stands, as JSON."""
        run = self._watch.look()
        run = msgspec.structs.replace(run, error=redacted(run.error))
        slots = [
            {**msgspec.to_builtins(state), "used": state.used} for state in self._slurm.states()
        ]
        qpus = [{**msgspec.to_builtins(qpu), "busy": qpu.busy} for qpu in run.qpus]
        return msgspec.json.encode(
            {
                **msgspec.to_builtins(run),
                "name": self._name,
                "now": time.time(),
                "qpus": qpus,
                "slots": slots,
                "trouble": self._slurm.trouble,
            }
        )


def serve(dashboard: Dashboard, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Parameters
    ----------
    dashboard
        What it shows.
    port
        Port on the loopback; 0: a free one.
    ready
        Called with the page's address, its token in it.

    Raises
    ------
    OSError
        If the port is taken.
    """
    with contextlib.suppress(KeyboardInterrupt):  # how one ends a page that goes on
        asyncio.run(_serve(dashboard, port, ready))


async def _serve(dashboard: Dashboard, port: int, ready: Callable[[str], None]) -> None:
    application = web.Application(
        [(r"/state", _State), (r"/((?:page\.(?:js|css))?)", _File)],
        dashboard=dashboard,
        log_function=lambda handler: None,  # two lines a second tell nobody anything
    )
    server = HTTPServer(application, max_body_size=1024)
    listening = socket.create_server((_HOST, port))
    listening.setblocking(False)
    server.add_socket(listening)
    ready(f"http://{_HOST}:{listening.getsockname()[1]}/#{dashboard.token}")
    try:
        await asyncio.Event().wait()
    finally:
        server.stop()


class _Handler(web.RequestHandler):
    """What both kinds of question share: safe headers, and no other name for this address.

    Such a name would be of another site, made to read what is here.
    """

    def set_default_headers(self) -> None:
        for name, value in _SAFE.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        if urlsplit(f"//{self.request.host}").hostname not in _HOSTS:
            raise web.HTTPError(403)

    def write_error(self, status_code: int, **_: Any) -> None:
        self.set_header("Content-Type", "text/plain")
        self.finish(f"{status_code}\n")


class _State(_Handler):
    def get(self) -> None:
        dashboard: Dashboard = self.settings["dashboard"]
        if not dashboard.admits(self.request.headers.get("Authorization", "")):
            raise web.HTTPError(403)
        self.set_header("Content-Type", "application/json")
        self.finish(dashboard.state())


class _File(_Handler):
    def get(self, name: str) -> None:
        self.set_header("Content-Type", f"{_FILES[name]}; charset=utf-8")
        file = resources.files("hybridflow.dashboard") / (name or "page.html")
        self.finish(file.read_bytes())

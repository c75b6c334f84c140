"""``hybridflow dashboard``: the page and its data over HTTP, and nothing for others."""

import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from hybridflow.cli import main
from hybridflow.environment import Role
from hybridflow.events import EventLog, RunEnded, RunStarted, TaskStarted, VendorJobStarted

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


class Page:
    """A dashboard in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "hybridflow", "dashboard", str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        parts = urlsplit(self.address)
        self.port, self.token = parts.port or 0, parts.fragment

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            line.request("GET", path, headers=headers)
            answer = line.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            line.close()

    def state(self) -> dict[str, Any]:
        status, _, body = self.get("/state", Authorization=f"Bearer {self.token}")
        assert status == 200
        found: dict[str, Any] = json.loads(body)
        return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("runs") / "vqe-1"
    log = EventLog(folder)
    log.emit(RunStarted(workflow="vqe", engine="local", resource="aer"))
    log.emit(TaskStarted(task="a", kind=Role.QUANTUM, name="<b>minimize</b>", worker="w"))
    log.close()
    shown = Page(folder)
    try:
        yield shown
    finally:
        shown.process.send_signal(signal.SIGINT)
        status = shown.process.wait(30)
        assert shown.process.stdout is not None
        shown.process.stdout.close()
    assert status == 0


def test_the_state_follows_the_run(page: Page) -> None:
    before = page.state()
    assert (before["name"], before["workflow"], before["ended"]) == ("vqe-1", "vqe", False)
    assert before["running"] == {"quantum": 1}
    log = EventLog(page.folder)
    log.emit(VendorJobStarted(resource="aer", vendor_job_id="j", requests=3, pubs=1, tasks=("a",)))
    after = page.state()
    assert (after["on_qpu"], after["qpus"][0]["requests"], after["qpus"][0]["running"]) == (1, 3, 1)
    time.sleep(0.01)
    assert page.state()["qpus"][0]["busy"] == pytest.approx(1.0)
    log.emit(RunEnded(error="VendorJobError: token=s3cret was refused"))
    log.close()
    ended = page.state()
    assert ended["ended"] is True
    assert ended["error"] == "VendorJobError: token=[removed] was refused"


def test_who_has_no_token_sees_nothing_of_the_run(page: Page) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": page.token}):
        status, _, body = page.get("/state", **headers)
        assert (status, body) == (403, b"403\n")
    known = {"Authorization": f"Bearer {page.token}", "Host": "evil.example"}
    assert page.get("/state", **known)[0] == 403
    assert page.get(f"/state?token={page.token}")[0] == 403


def test_the_page_loads_nothing_from_elsewhere(page: Page) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
    ):
        status, headers, body = page.get(path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert b"http" not in body
        assert page.token.encode() not in body
        assert b"vqe" not in body
    assert page.get("/../server.py")[0] == 404
    assert page.get("/server.py")[0] == 404


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_shows_the_run(page: Page, tmp_path: Path) -> None:
    quietly = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}")
    done = subprocess.run(
        [str(CHROMIUM), *quietly, "--dump-dom", "--virtual-time-budget=3000", page.address],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "vqe-1: vqe on aer (local)</h1>" in done.stdout
    assert "<td>quantum</td>" in done.stdout
    assert page.token not in done.stdout


def test_a_port_that_is_taken(page: Page) -> None:
    done = CliRunner().invoke(main, ["dashboard", str(page.folder), f"--port={page.port}"])
    assert done.exit_code == 2
    assert f"port {page.port} cannot be served" in done.output

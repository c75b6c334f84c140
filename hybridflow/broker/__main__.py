"""``python -m hybridflow.broker``: the process that owns a slot's backend.

Its configuration, with the credentials, is the first message on its standard input, which stays
open: its end means that the door has died. Its standard output carries one line of JSON, when it
is ready or when it cannot be. SIGTERM drains; SIGINT, which a terminal sends to everyone, does not
reach it.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterable
from types import FrameType

import msgspec

from hybridflow.backends import open_backend
from hybridflow.backends.discreet import discreet
from hybridflow.broker import protocol
from hybridflow.broker.core import Broker
from hybridflow.broker.ledger.opening import open_journal
from hybridflow.broker.place import check_folder, check_path, lock, socket_path
from hybridflow.broker.protocol import Ready, Start
from hybridflow.broker.server import Server
from hybridflow.broker.work import Limits
from hybridflow.errors import BrokerLostError, ErrorRecord, HybridflowError, InternalError
from hybridflow.kernel import forbid_dumps, signal_when_parent_ends
from hybridflow.redaction import redact

_log = logging.getLogger("hybridflow.broker")


class _Redacted(logging.Formatter):
    """Writes a line without the values of credentials, whoever put them into it."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._secrets = list(secrets)

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record), self._secrets)


def main() -> int:
    """Run the broker; returns its exit status: 1 if it gave up, 2 if it could not start."""
    parent = os.getppid()
    control, report = _take_pipes()
    try:
        start = _read_start(control)
    except HybridflowError as error:
        _report(report, Ready(ErrorRecord.of(error)))
        return 2
    secrets = start.credentials.values()
    _log_to_stderr(_Redacted(secrets))
    if start.credentials:
        forbid_dumps()
    try:
        server, broker = _open(start, control, parent)
    except Exception as error:
        if not isinstance(error, HybridflowError):
            _log.exception("the broker could not start")
        record = ErrorRecord.of(error)
        message = redact(record.message, secrets)
        _report(report, Ready(msgspec.structs.replace(record, message=message)))
        return 2
    _report(report, Ready())
    return _serve(server, broker)


def _open(start: Start, control: int, parent: int) -> tuple[Server, Broker]:
    socket = socket_path(start.folder, start.resource.name)
    check_folder(socket.parent)
    check_path(socket)
    lock(socket)
    server = Server(socket, drain_seconds=start.drain_seconds, control=control)
    _heed_signals(server, parent)
    server.bind()
    try:
        backend = open_backend(start.resource, start.credentials)
        backend = discreet(backend, start.credentials)
        limits = Limits(deadline=start.deadline)
        journal = open_journal(start.resource, backend.capabilities, ended_jobs=start.ended_jobs)
        broker = Broker(
            start.resource, backend, limits=limits, journal=journal, on_end=server.broker_ended
        )
        ready = broker.begin()
        if not server.await_broker(ready):
            raise BrokerLostError("the broker was told to end before its resource was acquired")
        ready.result()
    except BaseException:
        server.close()
        raise
    return server, broker


def _serve(server: Server, broker: Broker) -> int:
    try:
        server.serve(broker)
    finally:
        server.close()
    broker.join()
    if broker.error is not None:
        _log.error("the broker gave up: %s", broker.error)
    return 1 if broker.error is not None else 0


def _take_pipes() -> tuple[int, int]:
    # What a vendor's package prints, or reads, must not get between the door and us.
    control, report = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return control, report


def _read_start(control: int) -> Start:
    buffer = bytearray()
    while data := os.read(control, 65536):
        buffer += data
        for message in protocol.frames(buffer):
            if isinstance(message, Start):
                return message
            raise InternalError(f"the door's first message is {type(message).__name__}, not Start")
    raise InternalError(
        "no configuration came in: the broker is started by `hybridflow slot run`, not by hand"
    )


def _report(report: int, ready: Ready) -> None:
    try:
        os.write(report, msgspec.json.encode(ready) + b"\n")
    except BrokenPipeError:
        # The other pipe's end will be seen, too.
        _log.warning("nobody is there to be told that the broker is ready")
    os.close(report)


def _log_to_stderr(formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _heed_signals(server: Server, parent: int) -> None:
    def terminate(number: int, frame: FrameType | None) -> None:
        server.drain()

    def look_for_parent(number: int, frame: FrameType | None) -> None:
        # It may only have been the thread that started us.
        if os.getppid() != parent:
            server.drain()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, look_for_parent)
    signal_when_parent_ends(signal.SIGHUP)


if __name__ == "__main__":
    sys.exit(main())

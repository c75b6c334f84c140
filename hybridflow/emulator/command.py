"""The service as a process: until a signal, or the end of standard input, ends it."""

import asyncio
import logging
import os
import signal
import threading

from hybridflow.emulator.config import Config
from hybridflow.emulator.service import serve
from hybridflow.errors import InputError

__all__ = ["serve_until_stopped"]


def serve_until_stopped(config: Config, host: str, port: int, *, until_eof: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, or until standard input ends; print the address first.

    Raises
    ------
    InputError
        If standard input is to be waited for and there is none.
    HybridflowError
        See :func:`hybridflow.emulator.service.serve`.
    """
    if until_eof:
        _check_input()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_serve(config, host, port, until_eof))


async def _serve(config: Config, host: str, port: int, until_eof: bool) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    if until_eof:
        threading.Thread(target=_wait_for_eof, args=(loop, stop), daemon=True).start()
    await serve(config, host, port, lambda address: _say(config, address), stop)


def _check_input() -> None:
    # Here, before the event loop gets its number.
    try:
        os.fstat(0)
    except OSError as error:
        raise InputError("standard input is closed: its end cannot be waited for") from error


def _say(config: Config, address: str) -> None:
    print(address, flush=True)
    print(f"serves {', '.join(config.qpu)}; end it with Ctrl-C", flush=True)


def _wait_for_eof(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # Not through sys.stdin, whose lock a daemon thread must not hold when the interpreter ends.
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stop.set)

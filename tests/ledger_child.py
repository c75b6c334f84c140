"""A broker in a process of its own, driven by hand and killed at a step of its journal.

    python ledger_child.py RUN STEP NUMBER before|after <<< [resource, [request, …]]

Each request waits for the one before; replies go to standard output. Without a STEP ("") it lives.
"""

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec

from hybridflow import environment
from hybridflow.backends import open_backend
from hybridflow.broker.core import Broker
from hybridflow.broker.ledger.journal import LedgerJournal
from hybridflow.broker.ledger.opening import open_journal
from hybridflow.broker.protocol import Failed, Finished
from hybridflow.errors import ErrorRecord, HybridflowError
from hybridflow.records import Reply, Request, Resource

Order = tuple[Resource, list[Request]]
Answers = list[Finished | Failed]


def killing(step: Callable[..., Any], number: int, moment: str) -> Callable[..., Any]:
    calls = iter(range(1, 1000))

    def called(*args: Any) -> Any:
        here = next(calls) == number
        if here and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = step(*args)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called


def ask(broker: Broker, request: Request) -> Finished | Failed:
    outcome: Future[Reply | HybridflowError] = Future()
    try:
        broker.submit(request, outcome.set_result)
    except HybridflowError as error:
        return Failed(request.id, ErrorRecord.of(error))
    found = outcome.result(60)
    if isinstance(found, Reply):
        return Finished(request.id, found)
    return Failed(request.id, ErrorRecord.of(found))


def main() -> None:
    run, step, number, moment = sys.argv[1:]
    os.environ[environment.RUN] = run
    if step:
        setattr(LedgerJournal, step, killing(getattr(LedgerJournal, step), int(number), moment))
    resource, requests = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Order)
    backend = open_backend(resource, {})
    broker = Broker(resource, backend, journal=open_journal(resource, backend.capabilities))
    broker.start()
    answers = [ask(broker, request) for request in requests]
    broker.drain(10)
    broker.join()
    sys.stdout.buffer.write(msgspec.msgpack.encode(answers))


if __name__ == "__main__":
    main()

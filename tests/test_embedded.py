"""The broker inside a script's own process: the same core, started when needed, gone at the end."""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hybridflow.broker.base import Connection, Ticket
from hybridflow.broker.embedded import EmbeddedBroker
from hybridflow.errors import (
    AcquireError,
    BrokerLostError,
    RequestCancelledError,
    RequestError,
    TooLargeError,
)
from hybridflow.records import JobState, PackedPub, Primitive, Request, Resource
from hybridflow.wire import array_from_bytes


def request(shots: int = 1) -> Request:
    pub = PackedPub(circuit=b"never opened", shots=shots)
    return Request(id=uuid.uuid4().hex, primitive=Primitive.SAMPLER, pubs=(pub,))


def shots_of(ticket: Ticket) -> int:
    return array_from_bytes(ticket.future.result(20).results[0].arrays["meas"]).shape[0]


@pytest.fixture
def embed() -> Iterator[Callable[..., EmbeddedBroker]]:
    made: list[EmbeddedBroker] = []

    def make(**options: Any) -> EmbeddedBroker:
        resource = Resource(name="fake", backend="fake", options={"mode": "null"} | options)
        made.append(EmbeddedBroker(resource, {}))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


def test_round_trip(embed: Any) -> None:
    broker: Connection = embed()
    assert broker.describe().resource == "fake"
    ticket = broker.submit(request(shots=3))
    assert shots_of(ticket) == 3
    assert ticket.state() is JobState.DONE
    assert not ticket.cancel()


def test_what_waits_is_merged(embed: Any) -> None:
    broker = embed(seconds_per_job=0.2)
    first = broker.submit(request())
    others = [broker.submit(request(shots=n)) for n in range(2, 12)]
    assert shots_of(first) == 1
    assert [shots_of(ticket) for ticket in others] == list(range(2, 12))
    assert len({ticket.future.result().provenance.vendor_job_id for ticket in others}) <= 2


def test_refusals_and_failures_are_typed(embed: Any) -> None:
    broker = embed(max_shots=10, fail_jobs=(1,))
    with pytest.raises(TooLargeError):
        broker.submit(request(shots=11))
    with pytest.raises(RequestError):
        broker.submit(request(shots=0))
    failed = broker.submit(request())
    assert "as its options say" in str(failed.future.exception(10))
    assert failed.state() is JobState.FAILED


def test_cancelling(embed: Any) -> None:
    broker = embed(seconds_per_shot=60)
    ticket = broker.submit(request())
    assert ticket.state() in (JobState.QUEUED, JobState.RUNNING)
    assert ticket.cancel()
    with pytest.raises(RequestCancelledError):
        ticket.future.result(10)
    assert ticket.state() is JobState.CANCELLED


def test_a_resource_that_cannot_be_had_is_asked_for_again_by_the_next_call(embed: Any) -> None:
    broker = embed(refuse_acquires=1)
    for call in (broker.describe, lambda: broker.submit(request())):
        with pytest.raises(AcquireError, match="refused"):
            call()


def test_closing_fails_what_is_pending(embed: Any) -> None:
    broker = embed(seconds_per_job=60)
    ticket = broker.submit(request())
    broker.close()
    with pytest.raises(BrokerLostError):
        ticket.future.result(10)
    for call in (broker.describe, lambda: broker.submit(request())):
        with pytest.raises(BrokerLostError, match="was closed"):
            call()


def test_it_acquires_nothing_before_it_is_needed() -> None:
    never = EmbeddedBroker(Resource(name="x", backend="no-such-backend"), {})
    never.close()


PRELUDE = """
import os, sys, uuid
from hybridflow.broker.embedded import EmbeddedBroker
from hybridflow.errors import BrokerLostError
from hybridflow.records import PackedPub, Primitive, Request, Resource

def request():
    pub = PackedPub(circuit=b"x", shots=1)
    return Request(id=uuid.uuid4().hex, primitive=Primitive.SAMPLER, pubs=(pub,))

options = {"mode": "null", "seconds_per_job": float(sys.argv[1])}
broker = EmbeddedBroker(Resource(name="fake", backend="fake", options=options), {})
"""

FORKING = (
    PRELUDE
    + """
ticket = broker.submit(request())
child = os.fork()
if not child:
    code = 1
    try:
        try:
            ticket.future.result()
        except BrokerLostError as error:
            assert str(os.getpid()) in str(error)
        else:
            raise AssertionError("the parent's request ended in the child")
        broker.submit(request()).future.result(20)
        broker.close()
        code = 0
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
ticket.future.result(20)
"""
)

ENDING = (
    PRELUDE
    + """
broker.submit(request())
"""
)


def test_a_forked_child_has_a_broker_of_its_own() -> None:
    subprocess.run([sys.executable, "-c", FORKING, "0.5"], timeout=60, check=True)


def test_the_end_of_a_script_does_not_wait_for_what_nobody_waits_for() -> None:
    subprocess.run([sys.executable, "-c", ENDING, "600"], timeout=30, check=True)


THREADS = (
    PRELUDE
    + """
import threading

def work():
    own = EmbeddedBroker(Resource(name="fake", backend="fake", options=options), {})
    own.submit(request()).future.result(20)
    own.close()

assert "qiskit" not in sys.modules
for _ in range(4):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
broker.submit(request()).future.result(20)
"""
)


def test_threads_that_come_and_go_may_use_it() -> None:
    """Qiskit must not be imported first by a thread that ends: the next would crash."""
    subprocess.run([sys.executable, "-c", THREADS, "0"], timeout=60, check=True)

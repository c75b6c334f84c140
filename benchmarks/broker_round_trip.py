"""What the broker costs: a request to a null backend, against a bare ZeroMQ echo process.

Both are processes of their own behind ``ipc://`` sockets, asked in turns in one run, with the same
3.5 kB. Bounds: median at most 2 ms, 99th percentile at most 5 ms; a later one (its own issue) is
5,000 requests a second.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path

import zmq

from hybridflow.broker.client import SocketConnection
from hybridflow.broker.process import BrokerProcess
from hybridflow.records import PackedPub, Primitive, Request, Resource

PAYLOAD = bytes(3500)
MEDIAN_MILLISECONDS, P99_MILLISECONDS = 2.0, 5.0

ECHO = """
import sys, zmq
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind(sys.argv[1])
print("ready", flush=True)
while True:
    socket.send_multipart(socket.recv_multipart())
"""


def request() -> Request:
    pub = PackedPub(circuit=PAYLOAD, shots=1)
    return Request(id=uuid.uuid4().hex, primitive=Primitive.SAMPLER, pubs=(pub,))


def milliseconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begun)


def latencies(calls: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Time the calls in turns, so that what else the machine does falls on all alike."""
    for call in calls:
        for _ in range(50):
            call()
    taken = [[milliseconds(call) for call in calls] for _ in range(rounds)]
    return [sorted(column) for column in zip(*taken, strict=True)]


def requests_a_second(connection: SocketConnection, count: int, in_flight: int) -> float:
    waiting: deque[Callable[[], object]] = deque()
    begun = time.perf_counter()
    for _ in range(count):
        waiting.append(connection.submit(request()).future.result)
        if len(waiting) == in_flight:
            waiting.popleft()()
    while waiting:
        waiting.popleft()()
    return count / (time.perf_counter() - begun)


def echoes_a_second(socket: "zmq.Socket[bytes]", count: int, in_flight: int) -> float:
    begun = time.perf_counter()
    for sent in range(count + in_flight):
        if sent >= in_flight:
            socket.recv()
        if sent < count:
            socket.send(PAYLOAD)
    return count / (time.perf_counter() - begun)


def report(rounds: int, count: int, in_flight: int, folder: Path) -> bool:
    null = Resource(name="null", backend="fake", options={"mode": "null"})
    broker = BrokerProcess(null, {}, folder)
    echo = subprocess.Popen(
        [sys.executable, "-c", ECHO, f"ipc://{folder}/echo.sock"], stdout=subprocess.PIPE
    )
    assert echo.stdout is not None
    echo.stdout.readline()
    broker.start()
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(f"ipc://{folder}/echo.sock")
    connection = SocketConnection(broker.socket)
    try:

        def bare() -> bytes:
            dealer.send(PAYLOAD)
            return dealer.recv()

        def ours() -> object:
            return connection.submit(request()).future.result(60)

        base, taken = latencies([bare, ours], rounds)
        medians = statistics.median(base), statistics.median(taken)
        p99s = base[int(0.99 * rounds)], taken[int(0.99 * rounds)]
        print(f"echo    median {medians[0]:6.3f} ms   99 % {p99s[0]:6.3f} ms")
        print(f"broker  median {medians[1]:6.3f} ms   99 % {p99s[1]:6.3f} ms")
        print(f"ratio   median {medians[1] / medians[0]:6.2f}      99 % {p99s[1] / p99s[0]:6.2f}")
        rates = (
            echoes_a_second(dealer, count, in_flight),
            requests_a_second(connection, count, in_flight),
        )
        print(f"{in_flight} in flight: echo {rates[0]:,.0f}/s, broker {rates[1]:,.0f}/s")
        print(f"ratio   throughput {rates[1] / rates[0]:.2f}")
        return medians[1] <= MEDIAN_MILLISECONDS and p99s[1] <= P99_MILLISECONDS
    finally:
        connection.close()
        dealer.close(0)
        context.term()
        echo.kill()
        echo.wait()
        echo.stdout.close()
        if not broker.drain(5):
            broker.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--count", type=int, default=10_000, help="requests for the throughput")
    parser.add_argument("--in-flight", type=int, default=32)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hybridflow-") as folder:
        kept = report(chosen.rounds, chosen.count, chosen.in_flight, Path(folder))
    print("bounds kept" if kept else "BOUNDS BROKEN")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

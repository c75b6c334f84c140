"""What a call costs through the backend `qrmi`, against the wheel's own ``SamplerV2``.

Both talk to the same service on this machine, which speaks as IBM's does and whose device takes no
time of its own: what is left is the way there and back. The peer makes one call after another on
one handle, since a handle belongs to one thread. Its ``result()`` asks at first at once and then
every second; what its calls take without that pause is asked for beside it, every 10 ms.

Ours makes the same calls one after another, and then from 20 threads, whose requests the broker
merges.

    python benchmarks/qrmi_overhead.py [--calls 200] [--peer-calls 20]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from qiskit import QuantumCircuit, transpile

from common import bell, broker, milliseconds, seconds, verdict
from hybridflow.broker.client import connect
from hybridflow.records import Resource
from hybridflow.testing import QpuEmulator, ibm_service

SHOTS, THREADS, WARM_UP = 100, 20, 3
MOST = 1.0
"""Ours, merged, against the peer without its pauses: at most this."""


def wheel(service: QpuEmulator) -> Any:
    import qrmi

    kind = qrmi.ResourceType.IBMQuantumComputeService
    return qrmi.QuantumResource.from_config("manila", kind, service.qrmi_keys())


def peer_call(handle: Any, circuit: QuantumCircuit, pause: float | None) -> Callable[[], object]:
    from qrmi.primitives.ibm import SamplerV2

    sampler = SamplerV2(handle)

    def call() -> object:
        job = sampler.run([circuit], shots=SHOTS)
        while pause is not None and not job.in_final_state():
            time.sleep(pause)
        return job.result()

    return call


def our_call(connection: Any, circuit: QuantumCircuit) -> Callable[[], object]:
    from qiskit.primitives.containers.sampler_pub import SamplerPub

    from hybridflow.primitives.request import make_request
    from hybridflow.records import Primitive

    def call() -> object:
        pub = SamplerPub.coerce(circuit, SHOTS)
        request = make_request(Primitive.SAMPLER, [pub], None, {})
        return connection.submit(request).future.result()

    return call


def median(call: Callable[[], object], calls: int) -> float:
    taken = [milliseconds(call) for _ in range(WARM_UP + calls)]
    return statistics.median(taken[WARM_UP:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--peer-calls", type=int, default=20)
    chosen = parser.parse_args()
    with ibm_service("manila", readout_flip=0.0) as service:
        handle = wheel(service)
        from qrmi.primitives.ibm import get_backend

        circuit = transpile(bell(), get_backend(handle), optimization_level=1)
        keys = service.qrmi_keys()
        resource = Resource(name="manila", backend="qrmi")
        with broker(resource, credentials=keys) as process:
            connection = connect(process.socket)
            ours = our_call(connection, circuit)
            lone = median(ours, chosen.peer_calls)
            before = len(service.log())
            with ThreadPoolExecutor(THREADS) as pool:
                merged = seconds(lambda: list(pool.map(lambda _: ours(), range(chosen.calls))))
            jobs = len(service.log()) - before
            connection.close()
        as_it_comes = median(peer_call(handle, circuit, None), max(3, chosen.peer_calls // 4))
        quick = median(peer_call(handle, circuit, 0.01), chosen.peer_calls)
    return report(chosen.calls, as_it_comes, quick, lone, merged, jobs)


def report(
    calls: int, as_it_comes: float, quick: float, lone: float, merged: float, jobs: int
) -> int:
    each = 1e3 * merged / calls
    print(f"the wheel's SamplerV2, a call          {as_it_comes:9.1f} ms")
    print(f"  asked every 10 ms                    {quick:9.1f} ms")
    print(f"ours, one call after another           {lone:9.1f} ms")
    print(f"ours, {calls} calls of {THREADS} threads, a call   {each:9.1f} ms, {jobs} vendor jobs")
    print(f"ours / the wheel's                     {lone / as_it_comes:9.2f}")
    print(f"ours / the wheel's, asked every 10 ms  {lone / quick:9.2f}")
    print(f"merged / the wheel's, every 10 ms      {each / quick:9.2f}   (at most {MOST})")
    return verdict(each / quick <= MOST)


if __name__ == "__main__":
    sys.exit(main())

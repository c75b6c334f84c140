"""The emulated devices as IBM shows its own: in the words of its two REST interfaces.

Whoever speaks to IBM, the ``qrmi`` wheel and qiskit-ibm-runtime, can speak to the emulator instead:
same devices, queue, faults and log, other words. At the path ``/ibm`` it is the Quantum Compute
Service (``web.py``), at ``/ibm-system`` a Quantum System of one's own (``system.py``). Only
resources that imitate a device (``device = "FakeTorino"``) are shown.
"""

from tornado.web import RequestHandler

from hybridflow.emulator.ibm import system, web

__all__ = ["routes"]


def routes() -> list[tuple[str, type[RequestHandler]]]:
    """Return the paths, and who answers at each."""
    return [*web.routes(), *system.routes()]

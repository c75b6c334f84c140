"""The emulated devices as IBM shows its own: the REST interface of its Quantum Compute Service.

Whoever speaks to IBM's service, the ``qrmi`` wheel and qiskit-ibm-runtime, can speak to the
emulator instead, at the path ``/ibm``: same devices, queue, faults and log, other words. Only
resources that imitate a device (``device = "FakeTorino"``) are shown.
"""

from hybridflow.emulator.ibm.web import routes

__all__ = ["routes"]

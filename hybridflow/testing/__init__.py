"""Public helpers for tests, ours and other people's: a fake QPU, a conformance suite.

``FakeQPU`` is a backend (type ``fake``) with injectable faults and timing; ``check_backend`` runs
the conformance suite of :mod:`hybridflow.backends.base` over any backend; ``qpu_emulator`` starts
an emulated QPU as a service, which counts at the vendor's side, and ``ibm_service`` one that IBM's
clients take for IBM's; ``slurm_cluster`` makes a pytest fixture of a real Slurm cluster on this
machine.
"""

from typing import Any

from hybridflow.testing.emulator import QpuEmulator, ibm_service, qpu_emulator
from hybridflow.testing.fake_qpu import FakeOptions, FakeQPU

__all__ = [
    "FakeOptions",
    "FakeQPU",
    "QpuEmulator",
    "check_backend",
    "ibm_service",
    "qpu_emulator",
    "slurm_cluster",
]


def __getattr__(name: str) -> Any:
    # The suite needs Qiskit and NumPy; the fake, in its mode `null`, must start without them.
    if name == "check_backend":
        from hybridflow.testing.check import check_backend

        return check_backend
    if name == "slurm_cluster":
        from hybridflow.testing.slurm import slurm_cluster

        return slurm_cluster
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Public helpers for tests, ours and other people's: a fake QPU.

``FakeQPU`` is a backend (type ``fake``) with injectable faults and timing.
"""

from hybridflow.testing.fake_qpu import FakeOptions, FakeQPU

__all__ = ["FakeOptions", "FakeQPU"]

"""An emulated QPU as a service: the results of Aer with the behaviour of a real device.

::

    clients (backends/emulator) ──HTTP──► web.py ──► service.py ──► device.py, one a resource
                                                         │              │ one job at a time
                                                      jobs.py ◄─────────┤
                                                   jobs, results, log   ▼
                                                                 simulator.py (Aer, in a process
                                                                 of its own)

It outlives brokers and Slurm jobs, as a vendor's service does, so that tests and benchmarks can
count at the vendor's side. What it knows ends with it: it is kept in memory, within bounds.
``hybridflow qpu-emulator`` starts it, ``hybridflow.testing.qpu_emulator`` does so for tests.
"""

from hybridflow.emulator.config import Config, DeviceOptions, load_config

__all__ = ["Config", "DeviceOptions", "load_config"]

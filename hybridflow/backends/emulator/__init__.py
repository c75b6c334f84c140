"""The backend ``emulator``: a client of ``hybridflow qpu-emulator``, the emulated QPU as a service.

From the roof to the cellar::

    backend.py      the Backend protocol
    client.py       HTTP, and what can happen to it as typed errors
    options.py      the keys of a site file
    messages.py     what crosses the wire; shared with the service (``hybridflow/emulator``)
"""

from hybridflow.backends.emulator.backend import EmulatorBackend
from hybridflow.backends.emulator.options import EmulatorOptions

__all__ = ["EmulatorBackend", "EmulatorOptions"]

"""The backend ``ibm_runtime``: IBM's devices through ``qiskit-ibm-runtime``, and its local mode.

From the roof to the cellar::

    backend.py      the Backend protocol
    device.py       the service's side: a device, its jobs and their results
    link.py         the way there: one connection, made anew when it is no good
    local.py        the package's local mode: fake devices, in this process
    workload.py     which session or batch a job goes into, and when it is closed
    primitives.py   batches and options as the package's primitives take them, and results back
    service.py      the connection: how QiskitRuntimeService is made, and what it must not do
    caller.py       the one thread that touches the package, deadlines, warnings
    faults.py       the package's exceptions as ours
    account.py      who asks, and where: credentials, the site file, a saved account
    package.py      imports the package
    options.py      the keys of a site file
"""

from hybridflow.backends.ibm_runtime.backend import IbmRuntimeBackend
from hybridflow.backends.ibm_runtime.options import IbmRuntimeOptions

__all__ = ["IbmRuntimeBackend", "IbmRuntimeOptions"]

"""The backend ``qiskit``: whatever speaks Qiskit's own interfaces, named by its import path.

::

    options.py    the keys of its table
    loading.py    import path → a BackendV2, or a pair of V2 primitives → machine.py
    device.py     what a BackendV2 says of itself → target, limits
    sampler.py, estimator.py      PUBs → circuits to run
    submission.py                 circuits → calls of run(), their jobs (states.py)
    counts.py                     their counts → results
    keeping.py    batches on disk, for whoever reads a job's results after this process
    pair.py       PUBs → jobs of V2 primitives → results
    self_test.py  refuses what gives nonsense, before anybody's circuit runs on it
    faults.py     a vendor's exceptions → ours
"""

from hybridflow.backends.qiskit_api.backend import QiskitBackend
from hybridflow.backends.qiskit_api.options import QiskitOptions

__all__ = ["QiskitBackend", "QiskitOptions"]

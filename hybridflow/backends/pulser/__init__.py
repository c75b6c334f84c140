"""The backend ``pulser``: analogue sequences on pulser-simulation, inside the broker's reach.

::

    Batch ─► backend.py ─► sequences.py  reads each sequence, and checks it against the device
                 │
                 └───────► simulator.py  QuTiP's final state, sampled ─► one PackedResult a PUB
"""

from hybridflow.backends.pulser.backend import PulserBackend
from hybridflow.backends.pulser.options import PulserOptions

__all__ = ["PulserBackend", "PulserOptions"]

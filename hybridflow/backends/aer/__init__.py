"""The backend ``aer``: qiskit-aer, ideal, with a fake device's noise, or with cheap noise.

From the roof to the cellar::

    backend.py      the Backend protocol: jobs in a thread, limits, target, usage
    sampler.py      PUBs ⇄ samplings, packed bits ⇄ registers
    estimator.py    PUBs ⇄ expectations (precision 0), or samplings in commuting groups
    engine.py       what is sampled or evaluated, in as few Aer runs as possible
    plan.py         what a circuit is: static or dynamic, its qubits, its structure
    noise.py        depolarizing and readout flips on packed bits
    memory.py       refuses a state that cannot fit
    devices.py      the fake devices of qiskit-ibm-runtime, by name
    options.py      the keys of a site file
"""

from hybridflow.backends.aer.backend import AerBackend
from hybridflow.backends.aer.options import AerOptions

__all__ = ["AerBackend", "AerOptions"]

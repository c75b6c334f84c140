"""Qiskit's V2 primitives in front of a broker, and transpiling for its target.

::

    Sampler.run, Estimator.run
      coerce.py      what the user wrote          → Qiskit's PUBs
      transpile.py   circuits for the target, from a cache on disk (if asked for)
      admission.py   refuses what cannot be run, before anything is sent
      request.py     PUBs, seeds, who asks        → one request to the broker (`slot.connect`)
      job.py         the broker's reply           → Qiskit's result, with where it came from
"""

from hybridflow.primitives.estimator import Estimator
from hybridflow.primitives.job import Job
from hybridflow.primitives.sampler import Sampler
from hybridflow.primitives.transpile import target, transpile

__all__ = ["Estimator", "Job", "Sampler", "target", "transpile"]

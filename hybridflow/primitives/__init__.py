"""Qiskit's V2 primitives in front of a broker, and transpiling for its target.

::

    Sampler.run, Estimator.run
      coerce.py      what the user wrote          → Qiskit's PUBs
      transpiling.py circuits for the target, from a cache on disk (if asked for)
      routing.py     of a route's resources the best one (candidates.py, merit.py)
      admission.py   refuses what cannot be run, before anything is sent
      request.py     PUBs, seeds, who asks        → one request to the broker (`slot.connect`)
      job.py         the broker's reply           → Qiskit's result, with where it came from
"""

from hybridflow.qiskit_thread import import_qiskit

import_qiskit()

from hybridflow.primitives.estimator import Estimator  # noqa: E402
from hybridflow.primitives.job import Job  # noqa: E402
from hybridflow.primitives.sampler import Sampler  # noqa: E402
from hybridflow.primitives.transpiling import target, transpile  # noqa: E402

__all__ = ["Estimator", "Job", "Sampler", "target", "transpile"]

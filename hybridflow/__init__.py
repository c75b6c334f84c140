"""hybridflow: the quantum steps of a Parsl or Dask workflow, on QPU slots that Slurm grants.

Names are imported when they are first used: ``import hybridflow`` itself loads neither Qiskit nor
an engine. How the rooms of this package hang together is drawn in ``docs/architecture.md``.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hybridflow.errors import HybridflowError
    from hybridflow.pools import Pools, open_pools
    from hybridflow.primitives import AnalogSampler, Estimator, Sampler, target, transpile
    from hybridflow.site import Site, load_site
    from hybridflow.slot import Slot, current_slot
    from hybridflow.tasks import quantum_task

_HOME = {
    "AnalogSampler": "hybridflow.primitives",
    "Estimator": "hybridflow.primitives",
    "HybridflowError": "hybridflow.errors",
    "Pools": "hybridflow.pools",
    "Sampler": "hybridflow.primitives",
    "Site": "hybridflow.site",
    "Slot": "hybridflow.slot",
    "current_slot": "hybridflow.slot",
    "load_site": "hybridflow.site",
    "open_pools": "hybridflow.pools",
    "quantum_task": "hybridflow.tasks",
    "target": "hybridflow.primitives",
    "transpile": "hybridflow.primitives",
}

__all__ = [
    "AnalogSampler",
    "Estimator",
    "HybridflowError",
    "Pools",
    "Sampler",
    "Site",
    "Slot",
    "__version__",
    "current_slot",
    "load_site",
    "open_pools",
    "quantum_task",
    "target",
    "transpile",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

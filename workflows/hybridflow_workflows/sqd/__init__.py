"""Sample-based quantum diagonalization (SQD) of a molecule, as a hybrid workflow.

``geometry.py`` and ``molecule.py`` (where the atoms are → integrals) → ``ansatz.py`` (→ a circuit)
→ ``sampling.py`` (→ samples, on the QPU slot) → ``loop.py`` with ``policy.py`` (→ subspaces) and
``solver.py`` (→ energies, on the classical workers). ``reference.py`` and ``control.py`` say what
they are worth, ``result.py`` keeps them, and ``workflow.py`` leads through all of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridflow_workflows.sqd.parameters import SQDParameters
    from hybridflow_workflows.sqd.result import SQDResult
    from hybridflow_workflows.sqd.solver import make_sci_solver
    from hybridflow_workflows.sqd.workflow import resume_sqd, run_sqd

__all__ = ["SQDParameters", "SQDResult", "make_sci_solver", "resume_sqd", "run_sqd"]

_HOME = {
    "SQDParameters": "parameters",
    "SQDResult": "result",
    "make_sci_solver": "solver",
    "resume_sqd": "workflow",
    "run_sqd": "workflow",
}


def __getattr__(name: str) -> Any:
    # `hybridflow run --help` imports the command beside this file, and nothing heavy with it.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

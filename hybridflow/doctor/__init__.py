"""What is wrong with a site, a job or an environment, and what to do about it.

::

    environment, site file ──┐
                             ├──► Surroundings ──► CHECKS, one function each ──► findings
    Slurm's commands ────────┘    (asked lazily)   (places, job, secrets, …)

Much of what goes wrong with QPUs behind Slurm goes wrong in silence: each such case has a check
here. A check looks and asks, and changes nothing. The table of all findings: docs/doctor.md.
"""

from hybridflow.doctor.examination import CHECKS, examine
from hybridflow.doctor.finding import Finding, Level
from hybridflow.doctor.surroundings import Surroundings

__all__ = ["CHECKS", "Finding", "Level", "Surroundings", "examine"]

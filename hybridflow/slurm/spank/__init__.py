"""The SPANK plugin: what makes ``sbatch --qpu=NAME`` queue for a slot, and a job have it.

::

    sbatch --qpu=NAME ──► cli_filter.lua: adds gres=qpu:NAME:1 or licenses=NAME:1
                                   │ Slurm allocates
    slurmstepd ──► spank_hybridflow.so: what does the allocation hold here? ──► slots.py (root)
                                   │ variables; slots.py acquires and releases
                                   ▼
                               the job's tasks ──► the door ──► one-time file of credentials
    slurmctld ──► epilog_slurmctld.sh: has the job's node died? ──► slots.py releases

Nothing here runs inside this package's process: :func:`build` compiles the plugin, and
:func:`configure` writes what Slurm needs to load it. An administrator's steps:
docs/administrators.md.
"""

from hybridflow.slurm.spank.install import build, configure

__all__ = ["build", "configure"]

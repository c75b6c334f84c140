"""A local cluster: real munge, slurmctld and slurmd daemons, several nodes on one machine.

::

    SlurmCluster (cluster.py) ── shape.py ──► files.py ──► FOLDER/etc/slurm.conf, …  (layout.py)
         │ one control socket a daemon
         └──► reaper ──► munged │ slurmctld │ slurmd -N q1 │ slurmd -N c1 │ …        (daemon.py)
         one pipe that all of them hold ──► sweeper.py, which removes FOLDER at its end
"""

from hybridflow.slurm.cluster.cluster import SlurmCluster

__all__ = ["SlurmCluster"]

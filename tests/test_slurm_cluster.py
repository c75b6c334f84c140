"""The local cluster: up, used, broken, ended."""

from hybridflow.slurm.cluster import SlurmCluster


def test_jobs_run_on_every_node(slurm: SlurmCluster) -> None:
    """Three nodes are there, and a job runs on each."""
    done = slurm.run(["srun", "--nodes=3", "printenv", "SLURMD_NODENAME"])
    assert sorted(done.stdout.split()) == ["c1", "c2", "q1"]

"""Slurm: jobs and their states, the plugin that grants slots, and a local cluster to try it on."""

from hybridflow.component import Component
from hybridflow.slurm.allocation import Allocation, current_allocation
from hybridflow.slurm.coscheduled import coscheduled_job
from hybridflow.slurm.jobs import Job
from hybridflow.slurm.qpus import Claim, QpuState, qpu_states
from hybridflow.slurm.queries import JobInfo, SlurmState, Watch, all_jobs
from hybridflow.slurm.script import script
from hybridflow.slurm.submission import cancel, check_completed, submit, wait, wait_for_end

__all__ = [
    "Allocation",
    "Claim",
    "Component",
    "Job",
    "JobInfo",
    "QpuState",
    "SlurmState",
    "Watch",
    "all_jobs",
    "cancel",
    "check_completed",
    "coscheduled_job",
    "current_allocation",
    "qpu_states",
    "script",
    "submit",
    "wait",
    "wait_for_end",
]

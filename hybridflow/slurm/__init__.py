"""Slurm: jobs and their states, the plugin that grants slots, and a local cluster to try it on."""

from hybridflow.component import Component
from hybridflow.slurm.allocation import Allocation, current_allocation
from hybridflow.slurm.block_jobs import BlockJobs
from hybridflow.slurm.blocks import (
    blocks_here,
    classical_block,
    classical_cpus,
    coscheduled_block,
    driver_address,
    quantum_block,
)
from hybridflow.slurm.coscheduled import coscheduled_job
from hybridflow.slurm.jobs import Job
from hybridflow.slurm.qpus import Claim, QpuState, qpu_states
from hybridflow.slurm.queries import JobInfo, SlurmState, Watch, all_jobs
from hybridflow.slurm.script import script
from hybridflow.slurm.submission import cancel, check_completed, submit, wait, wait_for_end
from hybridflow.slurm.usage import (
    BookedTime,
    SlotUsage,
    VendorTime,
    booked_times,
    slot_usage,
    vendor_times,
)

__all__ = [
    "Allocation",
    "BlockJobs",
    "BookedTime",
    "Claim",
    "Component",
    "Job",
    "JobInfo",
    "QpuState",
    "SlotUsage",
    "SlurmState",
    "VendorTime",
    "Watch",
    "all_jobs",
    "blocks_here",
    "booked_times",
    "cancel",
    "check_completed",
    "classical_block",
    "classical_cpus",
    "coscheduled_block",
    "coscheduled_job",
    "current_allocation",
    "driver_address",
    "qpu_states",
    "quantum_block",
    "script",
    "slot_usage",
    "submit",
    "vendor_times",
    "wait",
    "wait_for_end",
]

"""Checks of the Slurm job that this process is in: what it asked for, what it holds, how long."""

import re
import time
from collections.abc import Iterator

from hybridflow import environment
from hybridflow.doctor.finding import Finding, hint, ok, problem
from hybridflow.doctor.surroundings import Surroundings
from hybridflow.errors import SlurmError
from hybridflow.grants import conflicts, loses_variables, requested
from hybridflow.walltime import job_deadline

__all__ = [
    "acquired_resources",
    "job_allocation",
    "job_end",
    "lost_variables",
    "requested_resources",
    "types",
]

_RESOURCES = environment.RESOURCES[0]


def requested_resources(s: Surroundings) -> Iterator[Finding]:
    """Whether the job holds what ``--qpu`` asked for."""
    if s.job is None or s.grants_error is not None:
        return
    asked, acquired = requested(s.environ), [grant.name for grant in s.grants]
    missing = [name for name in asked if name not in acquired]
    if missing and not acquired:
        yield problem(
            f"--qpu={','.join(asked)} was asked for and nothing was acquired: with the reference "
            "plugin `srun --qpu` and `salloc --qpu` acquire nothing and say nothing, and so does "
            "--qpu on another component of a heterogeneous job than the first" + _component(s),
            _RESOURCES,
            f"submit a batch job: sbatch --gres=qpu:1 --qpu={','.join(asked)} SCRIPT",
        )
    elif missing:
        yield problem(
            f"of --qpu={','.join(asked)} only {', '.join(acquired)} was acquired: the job runs "
            f"without {', '.join(missing)}, whose variables may be set all the same",
            _RESOURCES,
            "read the beginning of the job's output for the reason, and submit it again when "
            "the resource is there",
        )


def _component(s: Surroundings) -> str:
    size = s.environ.get(environment.HET_SIZE)
    return f" (this job is heterogeneous, with {size} components)" if size else ""


def acquired_resources(s: Surroundings) -> Iterator[Finding]:
    """Whether what was acquired is said without contradiction, and the site knows it."""
    if s.job is None:
        return
    if s.grants_error is not None:
        yield problem(str(s.grants_error), _RESOURCES, "submit the job again, without that change")
    elif not s.grants and not requested(s.environ):
        yield hint(
            f"Slurm job {s.job} holds no QPU: quantum tasks cannot run here",
            _RESOURCES,
            "submit it with --qpu=NAME, if it should; in the shell of `salloc --qpu`, start with "
            "srun what needs the QPU",
        )
    for grant in s.grants:
        slots = f"{grant.slots} slot{'s' * (grant.slots > 1)}"
        if s.site is not None and grant.name not in s.site.resources:
            yield problem(
                f"Slurm has acquired {grant.name}, which the site does not define",
                s.site.path or "the built-in site",
                f"add a table [qpu.{grant.name}], or name the right site file with "
                f"{environment.SITE}",
            )
        else:
            yield ok(f"Slurm job {s.job} holds {slots} of {grant.name}", _RESOURCES)


def types(s: Surroundings) -> Iterator[Finding]:
    """Whether the site file and Slurm's plugin mean the same kind of resource by a name."""
    for grant in s.grants:
        resource = s.site.resources.get(grant.name) if s.site else None
        if resource is None or not grant.type:
            continue
        where = f"[qpu.{grant.name}]"
        said = (
            f"{grant.name} is of type {grant.type!r} for Slurm's plugin, and the site file drives "
            f"it with the backend {resource.backend!r}"
        )
        if conflicts(resource.backend, grant.type):
            yield problem(said, where, "correct `backend`, or rename the one or the other")
        elif grant.type in environment.LOCAL_TYPES and grant.type != resource.backend:
            yield hint(said, where, "correct `backend`, unless that is meant")


def lost_variables(s: Surroundings) -> Iterator[Finding]:
    """Whether a shell has dropped the variables of an acquired resource."""
    for grant in s.grants:
        seen = any(name.startswith(f"{grant.name}_QRMI_") for name in s.environ)
        if loses_variables(grant.name) and not seen:
            yield problem(
                f"nothing is here of the variables {grant.name}_QRMI_…: /bin/sh (dash) drops "
                "names with - and . in silence",
                f"{grant.name}_{environment.TOKEN}",
                "begin the job's script with #!/bin/bash, or have the resource renamed",
            )


def job_allocation(s: Surroundings) -> Iterator[Finding]:
    """Whether the scheduler knows of the slots: ``--qpu`` alone keeps nobody else out."""
    if s.job is None or not s.grants or not s.slurm_answers:
        return
    said = s.ask("scontrol", "--details", "--oneliner", "show", "job", s.job)
    unknown = [grant.name for grant in s.grants if not _allocates(said, grant.name)]
    for name in unknown:
        yield problem(
            f"the job's allocation holds no slot of {name}: the plugin has acquired it, but for "
            "the scheduler it is free, and another job may hold it at this moment",
            f"Slurm job {s.job}",
            f"submit with --gres=qpu:{name}:1, or --licenses={name}:1 for a QPU behind a licence; "
            "the site's cli_filter can add that",
        )
    if not unknown:
        yield ok("the scheduler knows of the slots that this job holds", f"Slurm job {s.job}")


def _allocates(said: str, name: str) -> bool:
    quoted = re.escape(name)
    gres = rf"\bqpu[:/]{quoted}(?![\w.-])"
    license_ = rf"\bLicenses=(\S*,)?{quoted}(?![\w.-])"
    return re.search(rf"{gres}|{license_}", said) is not None


def job_end(s: Surroundings) -> Iterator[Finding]:
    """Whether it is known when the job ends."""
    if s.job is None:
        return
    try:
        end = job_deadline(s.environ)
    except SlurmError as error:
        yield hint(
            f"when this job ends is not known ({error}): a vendor job may be cut by its end",
            environment.JOB_END,
            f"set {environment.JOB_END} (Unix time) in the job's script",
        )
        return
    if end is None:
        yield ok("this job has no time limit", f"Slurm job {s.job}")
    else:
        left = round(max(0.0, end - time.time()))
        yield ok(f"this job ends in {left} s at the latest", f"Slurm job {s.job}")

"""A job's description as an ``sbatch`` script.

Every value was checked when the description was made (``jobs.py``, ``component.py``): none can end
its line, so none can add a directive or a command.
"""

import shlex
from collections.abc import Iterator

from hybridflow.component import Component
from hybridflow.slurm.jobs import Job

__all__ = ["script"]


def script(job: Job) -> str:
    """Return the script that ``sbatch`` is given for a job."""
    return "\n".join([*_directives(job), "set -e", *_preparation(job), _command(job), ""])


def _directives(job: Job) -> Iterator[str]:
    yield "#!/bin/bash"
    for name, value in (("job-name", job.name), ("output", job.output), ("array", job.array)):
        if value is not None:
            yield f"#SBATCH --{name}={value}"
    for index, component in enumerate(job.components):
        if index:
            yield "#SBATCH hetjob"
        yield from (f"#SBATCH {option}" for option in _options(component))


def _options(component: Component) -> Iterator[str]:
    values = {
        "partition": component.partition,
        "account": component.account,
        "qos": component.qos,
        "time": component.walltime,
        "nodes": component.nodes,
        "ntasks": component.tasks,
        "cpus-per-task": component.cpus,
        "mem": component.memory,
        "qpu": ",".join(component.qpu) or None,
        "gres": ",".join(component.gres) or None,
        "licenses": ",".join(component.licenses) or None,
    }
    yield from (f"--{name}={value}" for name, value in values.items() if value is not None)
    yield from component.extra


def _preparation(job: Job) -> Iterator[str]:
    yield from (f"module load {shlex.quote(module)}" for module in job.modules)
    yield from job.setup
    yield from (f"export {name}={shlex.quote(value)}" for name, value in job.variables.items())


def _command(job: Job) -> str:
    # In the shell's place, so that Slurm's signals reach it and the job ends when it has ended.
    return f"exec {shlex.join(job.command)}"

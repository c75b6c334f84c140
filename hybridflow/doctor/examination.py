"""All checks, in one list, and what runs them."""

from collections.abc import Callable, Iterator

import msgspec

from hybridflow.doctor import definitions, job, places, secrets, site, slurm
from hybridflow.doctor.finding import Finding, problem
from hybridflow.doctor.surroundings import Surroundings
from hybridflow.errors import SlurmError

__all__ = ["CHECKS", "examine"]

Check = Callable[[Surroundings], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    site.site_file,
    site.resource_names,
    site.backends,
    places.temporary_folder,
    places.socket_paths,
    places.variables,
    secrets.credentials,
    secrets.credentials_file,
    slurm.controller,
    slurm.plugin,
    slurm.cli_filter,
    slurm.slots,
    definitions.definitions,
    definitions.names,
    job.requested_resources,
    job.acquired_resources,
    job.types,
    job.lost_variables,
    job.job_allocation,
    job.job_end,
)
"""Every check, in the order of the report."""


def examine(surroundings: Surroundings) -> list[Finding]:
    """Return what all checks have found."""
    return [
        msgspec.structs.replace(finding, check=check.__name__)
        for check in CHECKS
        for finding in _run(check, surroundings)
    ]


def _run(check: Check, surroundings: Surroundings) -> Iterator[Finding]:
    try:
        yield from check(surroundings)
    except SlurmError as error:
        yield problem(f"Slurm did not answer: {error}", "Slurm", "try again when Slurm is there")

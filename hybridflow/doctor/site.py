"""Checks of the site file and of what it needs: packages, names, services."""

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version

from hybridflow import environment
from hybridflow.backends.discreet import discreet
from hybridflow.backends.factory import make_backend, open_backend
from hybridflow.doctor.finding import Finding, hint, ok, problem
from hybridflow.doctor.surroundings import Surroundings
from hybridflow.errors import HybridflowError, MissingExtraError, NoSlotError
from hybridflow.grants import loses_variables
from hybridflow.records import Capabilities, Resource

__all__ = ["backends", "resource_names", "site_file"]


def site_file(s: Surroundings) -> Iterator[Finding]:
    """Whether there is a site file, and it says nothing wrong."""
    if s.site is None:
        yield problem(str(s.site_error), str(s.site_file), "correct the site file")
    elif s.site.path is not None:
        yield ok(f"{len(s.site.resources)} resources: {', '.join(s.site.resources)}", s.site.path)
    elif s.wants_slurm:
        yield hint(
            "no site file is named, so that resources are those of a laptop: a local Aer simulator",
            "HYBRIDFLOW_SITE",
            "name the site's file: export HYBRIDFLOW_SITE=FILE, or --site FILE",
        )
    else:
        yield ok("no site file is named: the built-in laptop, with a local Aer simulator")


def resource_names(s: Surroundings) -> Iterator[Finding]:
    """Whether a shell may drop the variables of a resource."""
    lost = [name for name in s.site.resources if loses_variables(name)] if s.site else []
    if lost and s.wants_slurm:
        yield hint(
            f"the names {', '.join(lost)} are not allowed in a shell's variables: a job script "
            "that is run by /bin/sh (dash) loses what Slurm's plugin says of them, in silence",
            str(s.site_file),
            "begin job scripts with #!/bin/bash, or rename with letters, digits and _ only",
        )


def backends(s: Surroundings) -> Iterator[Finding]:
    """Whether each resource's backend has its packages, and its service answers."""
    for resource in s.site.resources.values() if s.site else ():
        credentials = environment.credentials(s.environ, resource.name)
        yield _backend(resource, credentials, f"[qpu.{resource.name}]")


def _backend(resource: Resource, credentials: Mapping[str, str], where: str) -> Finding:
    missing = _missing_packages(resource.backend) if resource.interpreter is None else []
    if missing:
        return problem(
            f"the backend {resource.backend!r} needs packages that are not installed: "
            f"{', '.join(missing)}",
            where,
            f"pip install 'hybridflow[{resource.backend}]'",
        )
    try:
        found = _capabilities(resource, credentials)
    except MissingExtraError as error:
        return problem(str(error), where, "install what the message names")
    except NoSlotError as error:
        return hint(
            f"{resource.name} cannot be asked from here what it can do: {error}",
            where,
            "nothing, where only slots have credentials; else what the message names",
        )
    except HybridflowError as error:
        return problem(
            f"the backend {resource.backend!r} cannot be asked what it can do: {error}",
            where,
            "correct the table, or start the service that it names",
        )
    kind = "a simulator" if found.simulator else "a device"
    return ok(f"{resource.name}: {kind} behind the backend {resource.backend!r}", where)


def _capabilities(resource: Resource, credentials: Mapping[str, str]) -> Capabilities:
    make = make_backend if resource.interpreter is None else open_backend
    backend = discreet(make(resource, credentials), credentials)
    try:
        return backend.capabilities
    finally:
        backend.release()


def _missing_packages(extra: str) -> list[str]:
    wanted = [
        line for line in requires("hybridflow") or () if re.search(rf"extra == .{extra}.", line)
    ]
    names = [re.split(r"[^\w.-]", line)[0] for line in wanted]
    return [name for name in names if not _is_installed(name)]


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True

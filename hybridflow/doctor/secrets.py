"""Checks of credentials: who can see them. No value of one is read, or shown."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hybridflow import environment
from hybridflow.doctor.finding import Finding, hint, ok, problem
from hybridflow.doctor.surroundings import Surroundings

__all__ = ["credentials", "credentials_file"]


def credentials(s: Surroundings) -> Iterator[Finding]:
    """Whether credentials stand in this process's environment."""
    names = environment.names_credentials(s.environ)
    # A token of ours opens nothing by itself, and is told to each task by the plugin.
    names = [name for name in names if not name.endswith(f"_{environment.TOKEN}")]
    if not names:
        yield ok("no credentials stand in the environment")
        return
    shown = f"{', '.join(sorted(names)[:3])}{', …' if len(names) > 3 else ''}"
    inside = environment.ROLE in s.environ or environment.BROKER in s.environ
    yield (problem if inside else hint)(
        "credentials stand in the environment of this process, and of all that it starts, on each "
        "node of the job",
        shown,
        "start programs with `hybridflow slot run -- COMMAND`, which takes them out; hybridflow's "
        "Slurm plugin never puts them there",
    )
    held = {grant.name for grant in s.grants}
    for name in sorted({name.partition("_QRMI_")[0] for name in names}):
        if s.job is not None and name not in held:
            yield problem(
                f"credentials of {name} are here, but it was not acquired for this job: they give "
                "no right to use it",
                f"{name}_QRMI_…",
                f"unset them, or submit the job with --qpu={name}",
            )


def credentials_file(s: Surroundings) -> Iterator[Finding]:
    """Whether the one-time file of our plugin is there, and nobody else's."""
    named = s.environ.get(environment.CREDENTIALS)
    if named is None:
        return
    try:
        seen = os.lstat(named)
    except FileNotFoundError:
        yield hint(
            f"{named} is not here: it was taken by `hybridflow slot run`, or is on another node",
            environment.CREDENTIALS,
            "start all that needs the QPU inside one slot: hybridflow slot run -- SCRIPT",
        )
        return
    except OSError as error:
        yield problem(
            f"{named} cannot be looked at: {error.strerror}",
            environment.CREDENTIALS,
            "submit the job again; only the Slurm plugin makes this file",
        )
        return
    yield _judge(Path(named), seen)


def _judge(file: Path, seen: os.stat_result) -> Finding:
    wrong = [
        *(["is no regular file"] if not stat.S_ISREG(seen.st_mode) else []),
        *([f"belongs to user {seen.st_uid}"] if seen.st_uid != os.geteuid() else []),
        *([f"has mode {stat.S_IMODE(seen.st_mode):04o}"] if seen.st_mode & 0o077 else []),
    ]
    if wrong:
        return problem(
            f"{file} {' and '.join(wrong)}: the door refuses it",
            environment.CREDENTIALS,
            "submit the job again, and tell the administrator: others may have read the key",
        )
    return ok("the job's credentials wait in their one-time file", environment.CREDENTIALS)

"""What Slurm says of the job that this process runs in: its end, and what it holds here.

A heterogeneous job has several components, each with its own time limit, GRES and licences, under
one ``SLURM_JOB_ID``. They share no node, so the node of this process tells which one it is in.
"""

import re
import subprocess
from collections.abc import Mapping

from hybridflow import environment
from hybridflow.errors import SlurmError
from hybridflow.records import Record

__all__ = ["RunningJob", "ask"]

_ANSWER_SECONDS = 10.0
_NEVER = ("N/A", "NONE", "None", "Unknown")
_FIELDS = (
    *("jobid", "endtime", "tres-per-node", "licenses", "nodelist"),
    *("state", "reason", "preempttime"),
)
_WIDTH = 1024  # what is longer would be cut
_ENDING = ("COMPLETING", "CANCELLED", "PREEMPTED")


class RunningJob(Record, frozen=True, kw_only=True):
    """The job of this process; of a heterogeneous job the component.

    Attributes
    ----------
    number
        Its number.
    end
        Unix time at which it ends at the latest, as things are now; None without a time limit.
    gres
        What it holds on each of its nodes, in Slurm's words.
    licenses
        What it holds once, in Slurm's words.
    first_node
        The first of its nodes.
    ends_early
        Whether it is just being cancelled, or has done; not: its time limit was reached, or a job
        of higher priority gets its place.
    """

    number: str
    end: float | None
    gres: str = ""
    licenses: str = ""
    first_node: str = ""
    ends_early: bool = False

    def holds_gres(self, request: str) -> int:
        """Return how many it holds on each node of what a request such as ``qpu:NAME:1`` names."""
        return _count(self.gres, request)

    def holds_licenses(self, request: str) -> int:
        """Return how many it holds of the licence that a request such as ``NAME:1`` names."""
        return _count(self.licenses, request)


def _count(held: str, request: str) -> int:
    # Slurm writes `gres:qpu:NAME:2`, newer releases `gres/qpu:NAME=2`; without a number it is one.
    name = re.escape(re.sub(r"[:=]\d+$", "", request))
    found = re.search(rf"(?:^|,)(?:gres[:/])?{name}(?:[:=](\d+))?(?=,|$)", held)
    return int(found[1] or 1) if found else 0


def ask(environ: Mapping[str, str]) -> RunningJob:
    """Ask Slurm for the job of this process.

    Parameters
    ----------
    environ
        The variables of a process in a job.

    Raises
    ------
    SlurmError
        If Slurm did not say; ``transient`` if it did not answer.
    """
    number = environ[environment.SLURM_JOB]
    answer = _squeue(["--jobs", number, *_here(environ)], environ)
    # An array answers with a line for each of its jobs, each with a number of its own.
    lines = [[part.strip() for part in line.split("|")] for line in answer.splitlines()]
    jobs = [line[:-1] for line in lines if len(line) == len(_FIELDS) + 1]
    own = [job for job in jobs if job[0] == number] or jobs[:1]
    if not own:
        raise SlurmError(f"squeue does not say anything of job {number}: {answer.strip()!r}")
    name, end, gres, licenses, nodes, state, reason, preempted = own[0]
    return RunningJob(
        number=name,
        end=_end(end, name),
        gres=gres,
        licenses=licenses,
        first_node=_first(nodes),
        ends_early=state in _ENDING and reason != "TimeLimit" and preempted in _NEVER,
    )


def _here(environ: Mapping[str, str]) -> list[str]:
    node = environ.get(environment.NODE)
    return ["--nodelist", node] if node and environment.HET_SIZE in environ else []


def _first(nodes: str) -> str:
    # As in "c[1-3,7],d4".
    found = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", found[0] if found else "")


def _end(text: str, job: str) -> float | None:
    if text.isdecimal():
        return float(text)
    if text in _NEVER:
        return None
    raise SlurmError(f"squeue does not say when job {job} ends: {text!r}")


def _squeue(options: list[str], environ: Mapping[str, str]) -> str:
    # Not through slurm/commands.py: the door stands below that room, and waits for less long.
    columns = ",".join(f"{name}:{_WIDTH}|" for name in _FIELDS)
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--Format", columns, *options],
            env={**environ, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise SlurmError(
            f"squeue did not answer in {_ANSWER_SECONDS:g} s", transient=True
        ) from error
    except subprocess.CalledProcessError as error:
        raise SlurmError(f"squeue says: {error.stderr.strip()}", transient=True) from error
    except OSError as error:
        raise SlurmError(f"squeue cannot be started: {error.strerror}") from error
    return done.stdout

"""What Slurm says of jobs: one question for all of them, and the answer as typed records.

::

    squeue --json  (22.05 and newer)  ──┐
    scontrol show job  (older)        ──┼──►  JobInfo  ──►  Watch: one a job that is waited for
    sacct  (what slurmctld forgot)    ──┘

Slurm's own JSON changes from release to release; both forms in use are read here.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import field

from hybridflow.errors import SlurmError
from hybridflow.records import Record
from hybridflow.slurm.commands import run_slurm
from hybridflow.slurm.text import amounts, fields

__all__ = ["JobInfo", "SlurmState", "Watch", "all_jobs"]

FIRST_SECONDS = 1.0
LAST_SECONDS = 30.0
_GROWTH = 1.25

# Reasons to wait that time alone does not remove.
_HOPELESS = re.compile(
    r"PartitionConfig|PartitionNodeLimit|PartitionTimeLimit|BadConstraints|InvalidAccount|InvalidQOS"
    r"|DependencyNeverSatisfied|JobHeldAdmin|JobHoldMaxRequeue|AccountNotAllowed|QOSNotAllowed"
    r"|ReservationDeleted|(Assoc|QOS)Max\w+PerJob\w*|(Assoc|QOS)Max\w+PerNode\w*|QOSMin\w+"
)


class SlurmState(StrEnum):
    """State of a Slurm job, by Slurm's names."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETING = "COMPLETING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    DEADLINE = "DEADLINE"
    PREEMPTED = "PREEMPTED"
    NODE_FAIL = "NODE_FAIL"
    BOOT_FAIL = "BOOT_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    REVOKED = "REVOKED"
    OTHER = "OTHER"
    """A state on the way that this version does not know."""
    VANISHED = "VANISHED"
    """Ours: Slurm knew the job and knows nothing of it any more."""

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self not in _ON_THE_WAY


_ON_THE_WAY = frozenset(
    {
        SlurmState.PENDING,
        SlurmState.CONFIGURING,
        SlurmState.RUNNING,
        SlurmState.SUSPENDED,
        SlurmState.COMPLETING,
        SlurmState.OTHER,
    }
)


class JobInfo(Record, frozen=True, kw_only=True):
    """What Slurm says of a job, of a component of one, or of a task of an array.

    Attributes
    ----------
    id
        Number of the job; of a component or of an array's task: its own.
    group
        Number of the heterogeneous job or the array that it belongs to; its own if to none.
    name, user, partition
        As in ``squeue``.
    state
        Its state.
    reason
        Why it waits or has failed, in Slurm's word; may be empty.
    exit_status
        As a shell has it: 128 + n if signal n ended it. None as long as it is not known.
    nodes
        Its nodes, in Slurm's short form; may be empty.
    gres, licenses
        What it holds or waits for, by name: ``{"qpu:aer_a": 1}``, ``{"cloud": 1}``.
    """

    id: str
    group: str
    name: str = ""
    user: str = ""
    partition: str = ""
    state: SlurmState = SlurmState.PENDING
    reason: str = ""
    exit_status: int | None = None
    nodes: str = ""
    gres: dict[str, int] = field(default_factory=dict)
    licenses: dict[str, int] = field(default_factory=dict)

    @property
    def hopeless(self) -> bool:
        """Whether it waits for what cannot come."""
        return self.state is SlurmState.PENDING and bool(_HOPELESS.fullmatch(self.reason))


def all_jobs() -> list[JobInfo]:
    """Return all jobs that Slurm's controller knows, ended ones of the last minutes included.

    Raises
    ------
    SlurmError
        If Slurm does not answer.
    """
    jobs = _from_json()
    if jobs is None:
        return _of_scontrol(run_slurm("scontrol", "--oneliner", "--all", "show", "job"))
    return [_of_json(job) for job in jobs]


def _from_json() -> list[Any] | None:
    # None if there is none to be had: an older Slurm, or one that did not answer (which exits with
    # status 0 and says "Unspecified error"); asked for text, it says what is the matter.
    try:
        answer = json.loads(run_slurm("squeue", "--json"))
    except SlurmError as error:
        if error.transient:
            raise
        return None
    except ValueError as error:
        raise SlurmError(f"the JSON of `squeue` cannot be read: {error}") from error
    jobs: list[Any] = answer["jobs"]
    return None if answer.get("errors") else jobs


def _of_json(job: Mapping[str, Any]) -> JobInfo:
    number = str(job["job_id"])
    group = _number(job["het_job_id"]) or _number(job["array_job_id"])
    gres = job["gres_detail"] or [_wanted_gres(job)]
    states = job["job_state"]
    state = _state(states if isinstance(states, str) else states[0])
    return JobInfo(
        id=number,
        group=str(group or number),
        name=job["name"] or "",
        user=job["user_name"] or "",
        partition=job["partition"] or "",
        state=state,
        reason=_reason(job["state_reason"]),
        exit_status=_status_of_json(job["exit_code"]) if state.final else None,
        nodes=job["nodes"] or "",
        gres=amounts(",".join(gres)),
        licenses=amounts(job["licenses"] or ""),
    )


def _wanted_gres(job: Mapping[str, Any]) -> str:
    kinds = ("job", "node", "socket", "task")
    return ",".join(filter(None, (job[f"tres_per_{kind}"] for kind in kinds)))


def _number(value: Any) -> int:
    # Newer releases say `{"set": true, "number": 3}` where older ones said 3, or null.
    if isinstance(value, Mapping):
        value = value["number"] if value.get("set") else 0
    return int(value or 0)


def _status_of_json(value: Any) -> int:
    # Older releases: as from wait(2).
    if not isinstance(value, Mapping):
        code = os.waitstatus_to_exitcode(int(value or 0))
        return code if code >= 0 else 128 - code
    signal = _number(value.get("signal", {}).get("id"))
    return 128 + signal if signal else _number(value.get("return_code"))


def _of_scontrol(text: str) -> list[JobInfo]:
    return [_of_line(line) for line in text.splitlines() if line.startswith("JobId=")]


def _of_line(line: str) -> JobInfo:
    found = fields(line)
    number, state = found["JobId"], _state(found["JobState"])
    return JobInfo(
        id=number,
        group=found.get("HetJobId") or found.get("ArrayJobId") or number,
        name=found.get("JobName", ""),
        user=found.get("UserId", "").partition("(")[0],
        partition=found.get("Partition", ""),
        state=state,
        reason=_reason(found.get("Reason", "")),
        exit_status=_status_of_text(found.get("ExitCode", "")) if state.final else None,
        nodes=found.get("NodeList", ""),
        gres=amounts(found.get("TresPerNode", "") or found.get("TresPerJob", "")),
        licenses=amounts(found.get("Licenses", "")),
    )


def _of_sacct(line: str) -> JobInfo:
    full, number, state, code, user, partition, nodes, name = line.split("|", 7)
    return JobInfo(
        id=number,
        group=re.split(r"[_+]", full)[0],
        name=name,
        user=user,
        partition=partition,
        state=_state(state),
        exit_status=_status_of_text(code),
        nodes="" if nodes == "None assigned" else nodes,
    )


def _status_of_text(text: str) -> int | None:
    code, colon, signal = text.partition(":")
    if not colon:
        return None
    return 128 + int(signal) if int(signal) else int(code)


def _state(text: str) -> SlurmState:
    # As in "CANCELLED by 1000".
    word = text.split()[0] if text else ""
    return SlurmState(word) if word in SlurmState.__members__ else SlurmState.OTHER


def _reason(text: str) -> str:
    return "" if text == "None" else text


class Watch:
    """The states of some jobs, asked for all of them at once, and seldom while nothing changes.

    Parameters
    ----------
    jobs
        Their numbers; of a heterogeneous job the first component's, of an array the array's.

    Attributes
    ----------
    interval_seconds
        How long to wait before the next look, in seconds: from 1 to 30.
    """

    def __init__(self, jobs: Iterable[str]) -> None:
        self.interval_seconds = FIRST_SECONDS
        self._jobs = list(jobs)
        self._seen: dict[str, JobInfo] = {}

    def add(self, job: str) -> None:
        """Watch another job, too, and look soon."""
        self._jobs.append(job)
        self.interval_seconds = FIRST_SECONDS

    def look(self) -> dict[str, JobInfo]:
        """Ask Slurm, and return the state of each job.

        Of a heterogeneous job or an array it is the state of what is not yet done; when all is
        done, of what has failed; else of its first part.

        Raises
        ------
        SlurmError
            If Slurm does not answer.
        """
        parts = _grouped(all_jobs())
        asked = {job: parts[job] for job in self._jobs if job in parts}
        missing = [job for job in self._jobs if job not in asked and not self._has_ended(job)]
        if missing:
            asked |= _grouped(_ended_jobs(missing))
        seen = {job: self._summary(job, asked.get(job, [])) for job in self._jobs}
        grown = min(self.interval_seconds * _GROWTH, LAST_SECONDS)
        self.interval_seconds = grown if seen == self._seen else FIRST_SECONDS
        self._seen = seen
        return seen

    def _has_ended(self, job: str) -> bool:
        return job in self._seen and self._seen[job].state.final

    def _summary(self, job: str, parts: Sequence[JobInfo]) -> JobInfo:
        for part in parts:
            if part.hopeless:
                return part
        open_parts = [part for part in parts if not part.state.final]
        failed = [part for part in parts if part.state is not SlurmState.COMPLETED]
        for part in (*open_parts, *failed, *parts):
            return part
        if self._has_ended(job):
            return self._seen[job]
        known = self._seen.get(job, JobInfo(id=job, group=job))
        return msgspec.structs.replace(known, state=SlurmState.VANISHED, reason="")


def _grouped(jobs: Iterable[JobInfo]) -> dict[str, list[JobInfo]]:
    groups: dict[str, list[JobInfo]] = {}
    for job in jobs:
        groups.setdefault(job.group, []).append(job)
    return groups


def _ended_jobs(jobs: Sequence[str]) -> list[JobInfo]:
    # What the controller has forgotten; nothing where the site keeps no accounts.
    columns = "JobID,JobIDRaw,State,ExitCode,User,Partition,NodeList,JobName"
    options = ("--noheader", "--parsable2", "--allocations", f"--format={columns}")
    try:
        text = run_slurm("sacct", *options, "--jobs", ",".join(jobs))
    except SlurmError as error:
        if "accounting storage is disabled" in str(error).lower():
            return []
        raise
    found = [_of_sacct(line) for line in text.splitlines() if line]
    return [job for job in found if job.state.final]  # else the controller would know it

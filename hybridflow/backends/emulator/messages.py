"""What the emulated QPU and its clients say to each other over HTTP.

Whatever carries circuits or samples is msgpack (``wire.py``); all else is JSON, for ``curl``::

    GET  /resources                                    names
    GET  /resources/NAME                               DeviceInfo
    GET  /resources/NAME/target                        TargetSnapshot (msgpack)
    GET  /resources/NAME/jobs?tag=TAG                  JobId
    POST /resources/NAME/jobs    Submission (msgpack)  JobId
    GET  /jobs/ID?wait=SECONDS                         JobStatus
    GET  /jobs/ID/result                               PackedResult, one a PUB (msgpack)
    GET  /jobs/ID/usage                                Usage
    POST /jobs/ID/cancel                               JobStatus
    GET  /log                                          Execution, one a job of this user
    GET  /faults                                       Faults
    PUT  /faults                 Faults                Faults

An error is an HTTP status of 400 or more with an :class:`~hybridflow.errors.ErrorRecord` in JSON.
Where the service has keys, ``Authorization: Bearer KEY`` says who asks; only names and targets are
for everybody, the faults and the whole log for its admins.
"""

from typing import Annotated, Literal

import msgspec

from hybridflow.records import Batch, Capabilities, JobState, Record

__all__ = [
    "API_KEY",
    "LONGEST_WAIT_SECONDS",
    "Caller",
    "DeviceInfo",
    "Execution",
    "Faults",
    "JobId",
    "Question",
    "Submission",
]

API_KEY = "QRMI_EMULATOR_API_KEY"
"""Credential of a resource of this type: the key that the service knows its user by."""

LONGEST_WAIT_SECONDS = 30.0
"""Time that the service keeps a question for a job's end open, in seconds."""

Question = Literal["describe", "target", "find", "start", "status", "result", "usage", "cancel"]
"""A kind of question, as faults tell them apart."""

_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=600)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class Caller(Record, frozen=True, kw_only=True):
    """Who says that it started a job: for the log. Only a key proves anything.

    Attributes
    ----------
    user, host
        The user's name, and the machine.
    pid
        Process id of the broker.
    slurm_job
        Id of its Slurm job; empty outside Slurm.
    """

    user: _Text = ""
    host: _Text = ""
    pid: int = 0
    slurm_job: _Text = ""


class Submission(Record, frozen=True, kw_only=True):
    """A vendor job to start."""

    batch: Batch
    tag: _Text
    caller: Caller


class JobId(Record, frozen=True, kw_only=True):
    """A job that was accepted or found; None: there is none."""

    id: str | None


class DeviceInfo(Record, frozen=True, kw_only=True):
    """What the service says of a resource.

    Attributes
    ----------
    capabilities
        What it can do.
    metadata
        What identifies it.
    max_bytes
        Largest body of a request.
    """

    capabilities: Capabilities
    metadata: dict[str, str]
    max_bytes: int


class Execution(Record, frozen=True, kw_only=True):
    """A line of the service's log: one vendor job. Times are in seconds since 1970.

    Attributes
    ----------
    job, resource, tag
        The job's id, its resource, and the tag it was given.
    account
        Name of the key that it was started with; empty where the service has no keys.
    caller
        Who the client said that it is.
    state, message
        Its state, and why it failed.
    submitted, started, ended
        When it arrived, when the device began with it and when it was done; None: not yet.
    pubs, circuits, shots
        Its size.
    qpu_seconds
        What it cost, in seconds of the device.
    """

    job: str
    resource: str
    tag: str
    account: str
    caller: Caller
    state: JobState
    message: str
    submitted: float
    started: float | None
    ended: float | None
    pubs: int
    circuits: int
    shots: int
    qpu_seconds: float


class Faults(Record, frozen=True, kw_only=True):
    """Faults of the service, for tests; none of them by itself. Counted ones end by themselves.

    Attributes
    ----------
    offline
        Resources cannot be acquired; jobs that are there are executed.
    away_seconds
        For so long from now, questions are answered 503; jobs that are there are executed.
    slow_seconds
        Pause before a question is dealt with; it is not if who has asked gives up meanwhile.
    busy
        How many of the next questions are answered 429, and not dealt with.
    broken
        How many of the next questions are answered 500, and not dealt with.
    expired
        How many of the next questions are answered 401, as if a key or a token were too old.
    pages
        How many of the next questions are answered with a page of HTML, as by a proxy.
    doubled
        How many of the next answers are sent twice.
    halved
        How many of the next answers break off in the middle.
    only
        Kinds of questions that `away_seconds` to `halved` are for; without any, all.
    drop_accepted
        How many of the next jobs are accepted without an answer: the connection is closed.
    break_accepted
        How many of the next jobs are accepted, and answered 500.
    drop_results
        How many of the next results are not sent: the connection is closed.
    fail_jobs
        How many of the next jobs fail, when they are executed.
    fail_transient
        Whether these failures say that trying again can help.
    stuck_jobs
        How many of the next jobs run until they are cancelled, and keep the device from others.
    lose_results
        How many of the next jobs are done and billed, without results.
    forget_jobs
        How many of the next jobs are forgotten when they have ended: they stand in the log, and
        nobody is told of them any more.
    """

    offline: bool = False
    away_seconds: _Seconds = 0.0
    slow_seconds: _Seconds = 0.0
    busy: _Count = 0
    broken: _Count = 0
    expired: _Count = 0
    pages: _Count = 0
    doubled: _Count = 0
    halved: _Count = 0
    only: tuple[Question, ...] = ()
    drop_accepted: _Count = 0
    break_accepted: _Count = 0
    drop_results: _Count = 0
    fail_jobs: _Count = 0
    fail_transient: bool = False
    stuck_jobs: _Count = 0
    lose_results: _Count = 0
    forget_jobs: _Count = 0

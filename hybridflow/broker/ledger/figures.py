"""What a run has used of QPUs, summed by task, workflow, resource or user."""

from collections.abc import Collection, Mapping
from typing import Literal, get_args

from hybridflow.broker.ledger.book import Book
from hybridflow.broker.ledger.known import Job, JobPhase, RequestRecord
from hybridflow.events import TaskStarted, read_events
from hybridflow.records import Record

__all__ = ["QpuUsage", "RunKey", "qpu_usage"]

RunKey = Literal["task", "workflow", "resource", "user"]


class QpuUsage(Record, frozen=True, kw_only=True):
    """What some of a run's requests have used.

    Attributes
    ----------
    task, workflow, resource, user
        Whose requests: the name of the task, of the run's folder, of the QPU and of the user; None
        where these are not told apart, empty where it is not known.
    requests
        How many came in.
    reused
        How many of them got results that had been paid for already.
    uncertain
        How many may have been paid for without a result, which nobody can look up.
    vendor_jobs
        Vendor jobs that ran some of them.
    requests_per_job
        How many requests these had, on average: the size of the batches.
    shots
        Shots that they have results of, each counted where it was paid for.
    qpu_seconds
        Their share of what the vendor has billed, failed vendor jobs included.
    """

    task: str | None = None
    workflow: str | None = None
    resource: str | None = None
    user: str | None = None
    requests: int = 0
    reused: int = 0
    uncertain: int = 0
    vendor_jobs: int = 0
    requests_per_job: float = 0.0
    shots: int = 0
    qpu_seconds: float = 0.0


_Group = tuple[str | None, ...]


class _Sum:
    def __init__(self) -> None:
        self.requests = self.reused = self.uncertain = self.shots = 0
        self.qpu_seconds = 0.0
        self.jobs: dict[str, int] = {}


def qpu_usage(books: Collection[Book], by: Collection[RunKey]) -> list[QpuUsage]:
    """Return the sums of runs' ledgers, one for each combination of what is told apart."""
    sums: dict[_Group, _Sum] = {}
    for book in books:
        _Adder(book, by, sums).add()
    ordered = sorted(sums.items(), key=lambda item: [name or "" for name in item[0]])
    return [_usage(group, found) for group, found in ordered]


class _Adder:
    def __init__(self, book: Book, by: Collection[RunKey], sums: dict[_Group, _Sum]) -> None:
        self._book = book
        self._by = by
        self._sums = sums
        self._names = _task_names(book) if "task" in by else {}
        self._resources = {
            request: job.opened.resource
            for job in book.state.jobs.values()
            for request in job.intended.requests
        }

    def add(self) -> None:
        for request in self._book.state.requests.values():
            found = self._sum(request)
            found.requests += 1
            found.reused += request.reused
        for job in self._book.state.jobs.values():
            self._add_job(job)

    def _add_job(self, job: Job) -> None:
        for request_id, cut in zip(job.intended.requests, job.intended.cuts, strict=True):
            request = self._book.state.requests.get(request_id)
            if request is None:
                continue
            found = self._sum(request)
            found.qpu_seconds += cut.share * job.usage.qpu_seconds
            found.uncertain += job.phase in (JobPhase.UNCERTAIN, JobPhase.RESOLVED)
            found.jobs[job.tag] = len(job.intended.requests)
            if job.phase is JobPhase.STORED:
                found.shots += request.admitted.shots

    def _sum(self, request: RequestRecord) -> _Sum:
        client = request.admitted.client
        values: Mapping[RunKey, str] = {
            "task": self._names.get(client.task, ""),
            "workflow": self._book.run.name,
            "resource": self._resource(request),
            "user": client.user,
        }
        group = tuple(values[key] if key in self._by else None for key in get_args(RunKey))
        return self._sums.setdefault(group, _Sum())

    def _resource(self, request: RequestRecord) -> str:
        if request.place is not None:
            return request.place.job.opened.resource
        return self._resources.get(request.admitted.request, "")


def _task_names(book: Book) -> dict[str, str]:
    events = read_events(book.run, on_damage=lambda file, line: None)
    return {event.task: event.name for event in events if isinstance(event, TaskStarted)}


def _usage(group: _Group, found: _Sum) -> QpuUsage:
    task, workflow, resource, user = group
    jobs = len(found.jobs)
    return QpuUsage(
        task=task,
        workflow=workflow,
        resource=resource,
        user=user,
        requests=found.requests,
        reused=found.reused,
        uncertain=found.uncertain,
        vendor_jobs=jobs,
        requests_per_job=sum(found.jobs.values()) / jobs if jobs else 0.0,
        shots=found.shots,
        qpu_seconds=found.qpu_seconds,
    )

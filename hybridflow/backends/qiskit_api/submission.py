"""A batch as vendor jobs of a ``BackendV2``, and what becomes of them.

Circuits with equal shots go into one call of ``run()``, as many as the backend takes; a PUB with
a seed goes alone. A batch may so be several vendor jobs: their ids, joined by ``+``, are its id.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hybridflow.backends.qiskit_api.counts import Counts, counts_of
from hybridflow.backends.qiskit_api.faults import asking, ended, starting
from hybridflow.backends.qiskit_api.sampler import Wanted
from hybridflow.backends.qiskit_api.states import cancel, id_of, joined, seconds_of, status_of
from hybridflow.errors import HybridflowError, ResourceError, VendorJobError
from hybridflow.records import JobStatus, PackedResult

__all__ = ["Plan", "Submission", "submit", "submitted"]

_log = logging.getLogger(__name__)


class Plan(Protocol):
    """A PUB: circuits to run, and what their counts mean."""

    def wanted(self) -> list[Wanted]:
        """Return the circuits to run."""

    def result(self, counts: Sequence[Counts]) -> PackedResult:
        """Return the PUB's result from their counts."""


@dataclass(frozen=True)
class _Part:
    """One vendor job: which of the batch's circuits it runs."""

    job: Any
    places: list[int]


def submit(
    resource: str,
    device: Any,
    plans: Sequence[Plan],
    options: Mapping[str, Any],
    *,
    most: int | None,
    seed_option: str,
    refusals: Collection[str] = (),
) -> "Submission":
    """Start the vendor jobs of a batch.

    Parameters
    ----------
    resource
        Name of the resource, for messages.
    device
        A ``BackendV2``.
    plans
        The PUBs.
    options
        What ``run()`` is given beside circuits and shots.
    most
        Circuits that one call of ``run()`` takes; None: any number.
    seed_option
        Name of the option of ``run()`` that takes a seed.
    refusals
        Names of the vendor's exceptions that mean that circuits were refused.

    Raises
    ------
    HybridflowError
        As :func:`~hybridflow.backends.qiskit_api.faults.starting` says. Vendor jobs of this batch
        that had been started are cancelled.
    """
    wanted = [plan.wanted() for plan in plans]
    flat = [circuit for circuits in wanted for circuit in circuits]
    parts: list[_Part] = []
    try:
        for places, seed in _calls(wanted, most):
            seeded = {} if seed is None else {seed_option: seed}
            circuits = [flat[place].circuit for place in places]
            with starting(resource, refusals):
                job = device.run(circuits, shots=flat[places[0]].shots, **{**options, **seeded})
            parts.append(_Part(job, places))
    except HybridflowError:
        for part in parts:
            _cancel_quietly(resource, part.job)
        raise
    return Submission(resource, plans, wanted, parts)


def submitted(
    resource: str,
    retrieve: Callable[[str], Any],
    job_id: str,
    plans: Sequence[Plan],
    *,
    most: int | None,
) -> "Submission":
    """Return a batch that another process has started.

    Raises
    ------
    ResourceError
        If the vendor does not have its jobs.
    """
    wanted = [plan.wanted() for plan in plans]
    calls = _calls(wanted, most)
    ids = [job_id] if len(calls) == 1 else job_id.split("+")
    if len(ids) != len(calls):
        raise ResourceError(
            f"job {job_id} of {resource} was started as {len(ids)} vendor jobs and would be "
            f"{len(calls)} now: its results cannot be told apart",
            resource=resource,
            vendor_job_id=job_id,
        )
    with asking(resource, job_id):
        jobs = [retrieve(each) for each in ids]
    parts = [_Part(job, places) for job, (places, _) in zip(jobs, calls, strict=True)]
    return Submission(resource, plans, wanted, parts)


def _calls(
    wanted: Sequence[Sequence[Wanted]], most: int | None
) -> list[tuple[list[int], int | None]]:
    groups: dict[tuple[int, int | None, int], list[int]] = {}
    place = 0
    for number, circuits in enumerate(wanted):
        for circuit in circuits:
            alone = -1 if circuit.seed is None else number
            groups.setdefault((circuit.shots, circuit.seed, alone), []).append(place)
            place += 1
    calls = []
    for (_, seed, _), places in groups.items():
        size = most or len(places)
        for turn, begin in enumerate(range(0, len(places), size)):
            # 31 bits: what every simulator takes.
            own = None if seed is None else (seed + turn) % 2**31
            calls.append((places[begin : begin + size], own))
    return calls


def _cancel_quietly(resource: str, job: Any) -> None:
    try:
        cancel(resource, job)
    except HybridflowError as error:
        # What failed first is what the caller has to hear.
        _log.warning("a vendor job that is not wanted any more goes on: %s", error)


class Submission:
    """The vendor jobs of one batch."""

    def __init__(
        self,
        resource: str,
        plans: Sequence[Plan],
        wanted: Sequence[Sequence[Wanted]],
        parts: Sequence[_Part],
    ) -> None:
        self._resource = resource
        self._plans = plans
        self._wanted = wanted
        self._parts = parts
        self._seconds: list[float | None] = []
        self.id = "+".join(id_of(part.job) for part in parts)

    def status(self) -> JobStatus:
        """Return the state of the vendor jobs together."""
        with asking(self._resource, self.id):
            return joined([status_of(part.job) for part in self._parts])

    def stop(self) -> None:
        """Cancel the vendor jobs."""
        for part in self._parts:
            cancel(self._resource, part.job)

    def results(self) -> tuple[PackedResult, ...]:
        """Return one result a PUB, of jobs that are done.

        Raises
        ------
        VendorJobError
            If a job has failed, or its counts do not fit.
        ResourceError
            If the vendor could not be asked.
        """
        counts: dict[int, Counts] = {}
        self._seconds = []
        for part in self._parts:
            counts.update(zip(part.places, self._counts(part), strict=True))
        results, place = [], 0
        for plan, circuits in zip(self._plans, self._wanted, strict=True):
            own = [counts[place + number] for number in range(len(circuits))]
            results.append(plan.result(own))
            place += len(circuits)
        return tuple(results)

    def _counts(self, part: _Part) -> list[Counts]:
        flat = [circuit for circuits in self._wanted for circuit in circuits]
        with ended(self._resource, self.id):
            result = part.job.result()
            if getattr(result, "success", True) is False:
                raise VendorJobError(
                    f"job {self.id} of {self._resource} failed: "
                    f"{getattr(result, 'status', None) or 'the vendor gives no reason'}",
                    resource=self._resource,
                    vendor_job_id=self.id,
                )
            raw = result.get_counts()
            found = raw if isinstance(raw, list) else [raw]
            self._seconds.append(seconds_of(part.job, result))
        if len(found) != len(part.places):
            raise VendorJobError(
                f"job {self.id} of {self._resource} has counts of {len(found)} circuits, not of "
                f"{len(part.places)}",
                resource=self._resource,
                vendor_job_id=self.id,
            )
        return [
            counts_of(each, flat[place].circuit.num_clbits)
            for each, place in zip(found, part.places, strict=True)
        ]

    @property
    def shots(self) -> int:
        """Shots of all circuits."""
        return sum(circuit.shots for circuits in self._wanted for circuit in circuits)

    @property
    def circuits(self) -> int:
        """Circuits that are run."""
        return sum(map(len, self._wanted))

    @property
    def seconds(self) -> float | None:
        """What the vendor says that the jobs took; None if it does not say."""
        known = [seconds for seconds in self._seconds if seconds is not None]
        return sum(known) if known and len(known) == len(self._parts) else None

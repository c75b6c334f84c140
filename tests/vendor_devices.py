"""Devices of a vendor that does not exist: what site files of tests name as ``factory``."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

from qiskit import QuantumCircuit
from qiskit.primitives import BackendSamplerV2, StatevectorEstimator
from qiskit.providers import BackendV2, Options
from qiskit.providers.basic_provider import BasicSimulator
from qiskit.transpiler import Target


class Job:
    """A vendor's job that is done at once: with counts, and nothing else."""

    def __init__(self, number: int, counts: list[dict[str, int]]) -> None:
        self.number = number
        self.counts = counts
        self.state = "DONE"

    def job_id(self) -> str:
        return f"job-{self.number}"

    def status(self) -> str:
        return self.state

    def cancel(self) -> None:
        raise NotImplementedError

    def result(self) -> Any:
        counts = self.counts[0] if len(self.counts) == 1 else self.counts
        return SimpleNamespace(get_counts=lambda: counts)


class CountsOnly(BackendV2):  # type: ignore[misc]
    """Ignores ``memory``, refuses options that it does not know, writes bits without blanks."""

    max_circuits = 3

    def __init__(self, counts: Callable[[dict[str, int]], dict[str, int]] = dict) -> None:
        super().__init__(name="counts-only", backend_version="1.2")
        self._simulator = BasicSimulator()
        self._counts = counts
        self.calls: list[int] = []

    @property
    def target(self) -> Target:
        return self._simulator.target

    @classmethod
    def _default_options(cls) -> Options:
        options = Options(shots=100, memory=False, shade="blue")
        options.set_validator("shots", (1, 50_000))
        return options

    def run(self, run_input: list[QuantumCircuit], **options: Any) -> Any:
        unknown = set(options) - {"shots", "memory", "shade"}
        if unknown:
            raise TypeError(f"unknown options: {unknown}")
        self.calls.append(len(run_input))
        counts = self._simulator.run(run_input, shots=options["shots"]).result().get_counts()
        found = counts if isinstance(counts, list) else [counts]
        return Job(len(self.calls), [self._counts(_solid(each)) for each in found])


def _solid(counts: dict[str, int]) -> dict[str, int]:
    return {bits.replace(" ", ""): count for bits, count in counts.items()}


def silent() -> CountsOnly:
    """Loses its samples, and says nothing."""
    return CountsOnly(lambda counts: {"0" * len(next(iter(counts))): sum(counts.values())})


def mirrored() -> CountsOnly:
    """Writes the bits in the other order."""
    return CountsOnly(lambda counts: {bits[::-1]: count for bits, count in counts.items()})


def uniform() -> CountsOnly:
    """Gives each outcome as often as any other."""
    return CountsOnly(lambda counts: {f"{value:02b}": 50 for value in range(4)})


class Bare(CountsOnly):
    """Has no target, as old backends: it names its gates and their couplings."""

    coupling_map = [[0, 1], [1, 2]]  # noqa: RUF012 - as vendors write it
    num_qubits = 3
    operation_names = ("rz", "sx", "x", "cx", "its_own")

    @property
    def target(self) -> Any:
        raise NotImplementedError


class Busy(CountsOnly):
    """Takes jobs and never ends them."""

    def run(self, run_input: list[QuantumCircuit], **options: Any) -> Any:
        job = super().run(run_input, **options)
        job.state = "QUEUED"
        return job


class Refusing(CountsOnly):
    """Raises in ``run()`` what it was made with."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error

    def run(self, run_input: list[QuantumCircuit], **options: Any) -> Any:
        if self.error is not None:
            raise self.error
        return super().run(run_input, **options)


def keyed(token: str) -> CountsOnly:
    """Wants a credential."""
    if token != "s3cret":
        raise ConnectionError(f"the key {token} is wrong")
    return CountsOnly()


class Service(CountsOnly):
    """Remembers its jobs, whoever asks."""

    jobs: ClassVar[dict[str, Job]] = {}

    def run(self, run_input: list[QuantumCircuit], **options: Any) -> Any:
        job = super().run(run_input, **options)
        job.number = len(self.jobs)
        self.jobs[job.job_id()] = job
        return job

    def retrieve_job(self, job_id: str) -> Job:
        if job_id not in self.jobs:
            raise LookupError(f"there is no job {job_id}")
        return self.jobs[job_id]


class Failing(CountsOnly):
    """Its jobs fail, for a reason that only ``result()`` tells."""

    def run(self, run_input: list[QuantumCircuit], **options: Any) -> Any:
        job = super().run(run_input, **options)
        job.state = "ERROR"

        def result() -> Any:
            raise RuntimeError("the fridge is warm")

        job.result = result
        return job


def backend_sampler(backend: BackendV2) -> BackendSamplerV2:
    """A vendor's sampler for its own backend."""
    return BackendSamplerV2(backend=backend)


class Quarter(StatevectorEstimator):  # type: ignore[misc]
    """An estimator whose every expectation value is the same."""

    def run(self, pubs: Any, *, precision: float | None = None) -> Any:
        result = super().run(pubs, precision=precision).result()
        for each in result:
            each.data.evs[...] = 0.25
        return SimpleNamespace(
            job_id=lambda: "quarter", status=lambda: "DONE", result=lambda: result
        )

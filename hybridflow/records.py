"""The value objects that hybridflow's rooms hand to one another: frozen, typed, without behaviour.

They are :class:`msgspec.Struct` s, so that the same definition is the type in memory, the check at
the border and the bytes on the wire (``wire.py`` turns Qiskit's objects into them and back).
"""

from enum import StrEnum
from typing import Any, Literal

import msgspec

__all__ = [
    "Batch",
    "Capabilities",
    "ClientInfo",
    "Description",
    "Insistence",
    "JobState",
    "JobStatus",
    "OnUncertain",
    "PackedPub",
    "PackedResult",
    "Primitive",
    "Provenance",
    "Reply",
    "Request",
    "Resource",
    "TargetOperation",
    "TargetSnapshot",
    "Usage",
]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records."""


class Primitive(StrEnum):
    """Kind of a request, after Qiskit's V2 primitives."""

    SAMPLER = "sampler"
    ESTIMATOR = "estimator"


class JobState(StrEnum):
    """State of a request or of a vendor job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether the state cannot change any more."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


OnUncertain = Literal["ask", "repeat", "fail"]


class Resource(Record, frozen=True, kw_only=True):
    """A named QPU, or emulator, as the site file defines it (``[qpu.NAME]``).

    Attributes
    ----------
    name
        Name by which workflows ask for it.
    backend
        Entry point in the group ``hybridflow.backends``.
    options
        The backend's own keys, already checked against its options type.
    tasks_per_slot
        Quantum tasks that may share one slot at a time.
    max_in_flight
        Vendor jobs that the broker may have started and not yet seen finished.
    batch_seconds
        Estimated device seconds of one batch at most; a request that alone takes longer goes alone.
    budget_seconds
        Device seconds that a run may use; None: no bound.
    on_uncertain
        What becomes of requests whose vendor job's id was lost and cannot be looked up: fail until
        somebody has decided (``ask``) or for good, or be run, and perhaps paid for, once more.
    interpreter
        Path of the Python, or of the virtual environment, in which the backend runs; None: this.
    """

    name: str
    backend: str
    options: dict[str, Any] = {}
    tasks_per_slot: int = 16
    max_in_flight: int = 1
    batch_seconds: float = 60.0
    budget_seconds: float | None = None
    on_uncertain: OnUncertain = "ask"
    interpreter: str | None = None


class Capabilities(Record, frozen=True, kw_only=True):
    """What a backend can do, as it declares itself.

    Attributes
    ----------
    primitives
        Kinds of requests it runs.
    simulator
        Whether its samples come from a simulator.
    num_qubits
        Number of qubits; None where only memory bounds it.
    max_pubs, max_shots, max_bytes
        Limits of one vendor job (PUBs, bytes of payload) and of one PUB (shots); None: no limit.
    lanes
        Vendor jobs that may be started at the same time.
    serial
        Whether they then run one after the other, each with its whole fixed cost.
    seeds
        Whether a PUB with a seed gives the same result wherever it stands in a batch.
    exact
        Whether an estimator PUB with precision 0 is computed without sampling noise.
    late_binding
        Whether a gate does the same if its angle comes as a parameter's value: then circuits that
        differ in nothing else may be one PUB. It does not where a native gate takes some angles
        only.
    tags
        Whether ``find(tag)`` can look up a vendor job whose id was lost.
    find_seconds
        How long a vendor job that was taken may be missing from what ``find`` sees.
    durable_jobs
        Whether a vendor job outlives the process that started it.
    options
        Names of the request options that the backend understands, by primitive.
    fixed_seconds, circuit_seconds, shot_seconds
        Estimated cost of one vendor job, of each of its circuits, and of each shot of a circuit.
    qpy
        Newest version of QPY that it reads, where it runs in another interpreter; None: any that
        is written here.
    """

    primitives: tuple[Primitive, ...] = (Primitive.SAMPLER, Primitive.ESTIMATOR)
    simulator: bool = False
    num_qubits: int | None = None
    max_pubs: int | None = None
    max_shots: int | None = None
    max_bytes: int | None = None
    lanes: int = 1
    serial: bool = False
    seeds: bool = False
    exact: bool = False
    late_binding: bool = False
    tags: bool = False
    find_seconds: float = 0.0
    durable_jobs: bool = False
    options: dict[Primitive, tuple[str, ...]] = {}
    fixed_seconds: float = 0.0
    circuit_seconds: float = 0.0
    shot_seconds: float = 0.0
    qpy: int | None = None


class TargetOperation(Record, frozen=True, kw_only=True):
    """One instruction of a target: where it may stand, how long it takes and how often it fails.

    Attributes
    ----------
    name
        Qiskit's name of the instruction.
    num_qubits
        Qubits it acts on; 0 for control flow, and for all else that is of variable width.
    parameters
        Its parameters: a name for a free one, a number for a fixed one.
    places
        ``(qubits, duration in seconds, error rate)``; None: anywhere.
    gate
        Qiskit's name of the gate behind a variant with fixed parameters; empty: the same.
    """

    name: str
    num_qubits: int
    parameters: tuple[str | float, ...] = ()
    places: tuple[tuple[tuple[int, ...], float | None, float | None], ...] | None = None
    gate: str = ""


class TargetSnapshot(Record, frozen=True, kw_only=True):
    """A Qiskit ``Target`` at one moment, as data: for transpiling without a slot.

    Attributes
    ----------
    num_qubits
        Qubits of the device; None where there is no bound.
    dt
        Length of the device's time step in seconds.
    operations
        What the device can execute.
    calibration
        What tells this snapshot from another of the same device (a date); may be empty.
    """

    num_qubits: int | None
    operations: tuple[TargetOperation, ...]
    dt: float | None = None
    calibration: str = ""


class PackedPub(Record, frozen=True, kw_only=True):
    """One PUB in wire form: see :func:`hybridflow.wire.pack_pubs`.

    Attributes
    ----------
    circuit
        The circuit as QPY.
    parameters
        Values as ``.npy`` of shape ``(*shape, num_parameters)``, in the order of
        ``circuit.parameters``; None: the circuit has no parameter and the PUB no shape.
    observables
        Estimator only: JSON of the observables array (nested lists of ``{pauli: coefficient}``).
    shots
        Sampler only: shots for each parameter set.
    precision
        Estimator only: target standard error.
    seed
        Seed of this PUB alone; None: fresh randomness.
    circuits
        Bindings that the PUB broadcasts to (the product of its shape): a device's unit of work.
    structure
        Digest of the circuit without its parameters' values: circuits of equal structure do the
        same with the same values; None where that cannot be told.
    skeleton
        Digest of a circuit without parameters, without its gates' angles, too: circuits of equal
        skeletons differ in those only. None where that cannot be told, or is of no use.
    angles
        For a PUB that a broker has made of several such circuits: which of the numbers in
        `circuit`, counted in the order of its gates, the columns of `parameters` take the place of.
    """

    circuit: bytes
    parameters: bytes | None = None
    observables: bytes | None = None
    shots: int | None = None
    precision: float | None = None
    seed: int | None = None
    circuits: int = 1
    structure: bytes | None = None
    skeleton: bytes | None = None
    angles: tuple[int, ...] = ()


class PackedResult(Record, frozen=True, kw_only=True):
    """The result of one PUB in wire form: see :func:`hybridflow.wire.pack_result`.

    Attributes
    ----------
    arrays
        Arrays as ``.npy`` by field name: packed bits (``uint8``) for a register, numbers otherwise.
    bits
        Number of bits of each field that is a ``BitArray``.
    shape
        Shape of the PUB.
    metadata
        JSON of the PUB result's metadata.
    """

    arrays: dict[str, bytes]
    bits: dict[str, int] = {}
    shape: tuple[int, ...] = ()
    metadata: bytes = b"{}"


class ClientInfo(Record, frozen=True, kw_only=True):
    """Who asks: for fairness and accounting, and to tell a retry from a repetition.

    Attributes
    ----------
    user, workflow
        Whose request it is: names of the user and of the run's folder.
    task, attempt
        The task, by its id in the run's events, and this execution of it; empty outside a task.
    engine_task
        What the engine calls the task each time that it runs it; empty where that is not known.
    host, pid
        The process.
    namespace, born
        What tells it from another process that has the same id; 0 where that is not known.
    weight
        The workflow's share of the device, in proportion to those of others.
    """

    user: str = ""
    workflow: str = ""
    task: str = ""
    attempt: str = ""
    engine_task: str = ""
    host: str = ""
    pid: int = 0
    namespace: int = 0
    born: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 1e-3 <= self.weight <= 1e3:
            raise ValueError(f"`weight` must be between 0.001 and 1000, not {self.weight}")


Insistence = Literal["wait", "try", "claim"]


class Request(Record, frozen=True, kw_only=True):
    """One call of a primitive: a list of PUBs with options.

    Attributes
    ----------
    priority
        Before which other requests of its workflow it goes; from -10 to 10.
    insist
        What becomes of it when the vendor does not take it now: it waits for that, or (``try``) it
        is declined, since it can go elsewhere. ``claim``: it is declined unless its run has paid
        for it already.
    """

    id: str
    primitive: Primitive
    pubs: tuple[PackedPub, ...]
    options: dict[str, Any] = {}
    client: ClientInfo = ClientInfo()
    key: str | None = None
    priority: int = 0
    insist: Insistence = "wait"

    def __post_init__(self) -> None:
        if not -10 <= self.priority <= 10:
            raise ValueError(f"`priority` must be from -10 to 10, not {self.priority}")


class Batch(Record, frozen=True, kw_only=True):
    """What a backend starts as one vendor job: compatible PUBs, of one or more requests."""

    primitive: Primitive
    pubs: tuple[PackedPub, ...]
    options: dict[str, Any] = {}


class JobStatus(Record, frozen=True, kw_only=True):
    """State of a vendor job, with the vendor's own text when it failed."""

    state: JobState
    message: str = ""
    transient: bool = False


class Usage(Record, frozen=True, kw_only=True):
    """What a vendor job cost: QPU seconds as the vendor bills them, and shots."""

    qpu_seconds: float = 0.0
    shots: int = 0


class Provenance(Record, frozen=True, kw_only=True):
    """Where a result came from.

    Attributes
    ----------
    resource, backend
        The site's name of the resource, and its type.
    simulator
        Whether the samples come from a simulator.
    vendor_job_id
        The vendor's id of the job.
    batch_requests, batch_pubs
        How many requests and PUBs shared that vendor job.
    queue_seconds, run_seconds
        Time from the request's arrival at the broker to the start of the vendor job, and from there
        to its end.
    qpu_seconds
        This request's share of what the vendor billed.
    calibration
        The target's calibration at that time.
    route
        The route by which the request came to the resource; empty: it was sent there by name.
    fallback
        Why the route fell back to it; empty: it did not.
    """

    resource: str
    backend: str
    simulator: bool
    vendor_job_id: str
    batch_requests: int
    batch_pubs: int
    queue_seconds: float
    run_seconds: float
    qpu_seconds: float
    calibration: str = ""
    route: str = ""
    fallback: str = ""


class Reply(Record, frozen=True, kw_only=True):
    """The answer to a request: one result for each PUB, in order."""

    results: tuple[PackedResult, ...]
    provenance: Provenance


class Description(Record, frozen=True, kw_only=True):
    """What a broker says of its resource."""

    resource: str
    backend: str
    capabilities: Capabilities
    target: TargetSnapshot

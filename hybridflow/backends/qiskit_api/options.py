"""The keys of a site file's ``[qpu.NAME]`` table with ``backend = "qiskit"``."""

import re
from typing import Any

import msgspec

from hybridflow.backends.timing import TimingProfile

__all__ = ["QiskitOptions"]

_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_SECONDS = ("seconds_per_job", "seconds_per_circuit", "seconds_per_shot")


class QiskitOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the backend ``qiskit``.

    Attributes
    ----------
    factory
        Import path ``module:callable`` of what makes a ``BackendV2``: a class, a function, or an
        instance as it is.
    arguments
        What the factory is called with.
    sampler, estimator
        Import paths of V2 primitives, or of what makes them. With a factory, they are called with
        its backend first.
    sampler_arguments, estimator_arguments
        What these are called with.
    secrets
        Arguments (of the factory, or without one of the primitives) that are credentials: names of
        arguments, and the names that the slot's credentials have.
    run_options
        Options that each call of the backend's ``run()`` is given.
    seed_option
        Name of the option of ``run()`` that takes a seed, where the backend heeds it.
    refusals
        Names of the vendor's exceptions that mean that ``run()`` has refused circuits.
    simulator
        Whether samples come from a simulator; found out if not given.
    num_qubits, max_shots
        Bounds; without them, what the backend declares.
    exact
        Whether `estimator` computes exact values for the precision 0.
    lanes
        Vendor jobs that may be under way at the same time.
    durable
        Whether the vendor's jobs outlive this process and can be had again by their ids.
    self_test
        Whether X and Bell circuits are run when a slot opens.
    self_test_seconds
        Patience with them, in seconds.
    seconds_per_job, seconds_per_circuit, seconds_per_shot
        What the vendor bills, as far as it is known: estimates, and the cost of a vendor job that
        does not say what it has cost.
    """

    factory: str = ""
    arguments: dict[str, Any] = {}
    sampler: str = ""
    estimator: str = ""
    sampler_arguments: dict[str, Any] = {}
    estimator_arguments: dict[str, Any] = {}
    secrets: dict[str, str] = {}
    run_options: dict[str, Any] = {}
    seed_option: str = ""
    refusals: tuple[str, ...] = ()
    simulator: bool | None = None
    num_qubits: int | None = None
    max_shots: int | None = None
    exact: bool = False
    lanes: int = 1
    durable: bool = False
    self_test: bool = True
    self_test_seconds: float = 300.0
    seconds_per_job: float = 0.0
    seconds_per_circuit: float = 0.0
    seconds_per_shot: float = 0.0

    def __post_init__(self) -> None:
        self._check_paths()
        for name in ("num_qubits", "max_shots", "lanes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, not {value}")
        for name in ("self_test_seconds", *_SECONDS):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` must be at least 0, not {value}")

    def _check_paths(self) -> None:
        for name in ("factory", "sampler", "estimator"):
            path = getattr(self, name)
            if path and not _PATH.fullmatch(path):
                raise ValueError(f"`{name}` is an import path, module:callable, not {path!r}")
        if not (self.factory or self.is_pair):
            raise ValueError("one of `factory`, `sampler` and `estimator` must be given")
        # What would have no effect is a mistake.
        for needs, names in (
            (self.factory, ("arguments",)),
            (self.sampler, ("sampler_arguments",)),
            (self.estimator, ("estimator_arguments", "exact")),
            (not self.is_pair, ("run_options", "seed_option", "durable")),
        ):
            for name in names:
                if getattr(self, name) and not needs:
                    raise ValueError(f"`{name}` has no effect with the other keys of this table")

        for option in ("shots", "memory"):
            if option in self.run_options:
                raise ValueError(f"`run_options` cannot have `{option}`: hybridflow sets it")
        for argument in self.secrets:
            if argument in self.arguments:
                raise ValueError(f"the argument `{argument}` stands in `secrets`, too")

    @property
    def is_pair(self) -> bool:
        """Whether circuits are run by V2 primitives."""
        return bool(self.sampler or self.estimator)

    @property
    def timing(self) -> TimingProfile:
        """The three figures of time."""
        return TimingProfile(**{name: getattr(self, name) for name in _SECONDS})

"""A ``BackendV2`` in front of a function, for what Qiskit computes from a backend's counts."""

from collections.abc import Callable
from typing import Any

from qiskit import QuantumCircuit
from qiskit.providers import BackendV2, Options
from qiskit.transpiler import Target

__all__ = ["StandIn"]

_Answer = Callable[[list[QuantumCircuit]], list[dict[str, int]]]


class _Answered:
    """A job and its result in one: both are asked once, and at once."""

    def __init__(self, counts: list[dict[str, int]]) -> None:
        self._counts = counts

    def result(self) -> "_Answered":
        return self

    def get_counts(self) -> list[dict[str, int]]:
        return self._counts


class StandIn(BackendV2):  # type: ignore[misc]  # Qiskit has no types
    """A backend whose counts are what a function says.

    Parameters
    ----------
    target
        Its target.
    answer
        Returns the counts of circuits, in order.
    """

    def __init__(self, target: Target, answer: _Answer) -> None:
        super().__init__(name="stand-in")
        self._target = target
        self._answer = answer

    @property
    def target(self) -> Target:
        """The target."""
        return self._target

    @property
    def max_circuits(self) -> None:
        """No bound: it is kept to where circuits are really run."""
        return None

    @classmethod
    def _default_options(cls) -> Options:
        return Options()

    def run(self, run_input: list[QuantumCircuit], **options: Any) -> _Answered:
        """Return what the function says."""
        return _Answered(self._answer(run_input))

"""Decides from a task itself, and from its annotation, whether it is a quantum task."""

from collections.abc import Callable, Mapping
from typing import Any

from dask._task_spec import GraphNode
from dask.typing import Key

from hybridflow.errors import InputError, TaskError
from hybridflow_dask import amounts
from hybridflow_dask.graphs import Kind, Step, parts, steps
from hybridflow_dask.labels import QPU, is_qpu_label, resource_of

__all__ = ["holds_quantum_step", "restrictions"]

_FUSED = (
    "make each quantum step a task of its own with `dask.delayed(f)(...)` or `client.submit`, or "
    "compute with `optimize_graph=False`"
)
_WRITTEN = (
    "it is one task as it was written (a call inside a call in a graph, or a method such as "
    "`foldby` or `groupby` that calls the function among others), so that no setting helps: make "
    "each quantum step a task of its own with `client.map(f, ...)` or `dask.delayed(f)(...)`, or "
    "give it a key of its own in the graph, and hand its result to the rest"
)


def holds_quantum_step(node: GraphNode | None) -> bool:
    """Whether a task holds a marked step."""
    return any(step.kind is Kind.QUANTUM for step in steps(node))


def restrictions(
    key: Key,
    node: GraphNode | None,
    asked: Mapping[str, Any] | None,
    known: Mapping[str, int] | None = None,
) -> dict[str, float] | None:
    """Return the Dask resources that a task must have; None for a classical one without any.

    Parameters
    ----------
    key
        The task's key.
    node
        What it runs.
    asked
        The resources that its annotation asks for.
    known
        The site's resources by name; None if they are not known.

    Raises
    ------
    InputError
        If the annotation asks for a resource that does not exist, or not for a number of it.
    TaskError
        If the optimizer has made one task of quantum and classical steps.
    """
    asked = asked or {}
    _check(key, asked, known)
    wanted = {label: amount for label, amount in asked.items() if is_qpu_label(label)}
    others = {label: amount for label, amount in asked.items() if label not in wanted}
    if not _is_quantum(key, node, annotated=bool(wanted)):
        return others or None
    amount = max(wanted.values(), default=1)
    return {**others, **wanted, QPU: wanted.get(QPU, amount)}


def _check(key: Key, asked: Mapping[str, Any], known: Mapping[str, int] | None) -> None:
    amounts.check(asked, f"the annotation of the task {key!r}")
    for label in asked:
        name = resource_of(label)
        if name and known is not None and name not in known:
            raise InputError(
                f"the annotation of the task {key!r} asks for {label!r}, but there is no resource "
                f"{name!r}; there is: {', '.join(known)}",
                resource=name,
            )


def _is_quantum(key: Key, node: GraphNode | None, *, annotated: bool) -> bool:
    found = list(steps(node))
    quantum, classical = _sorted(found)
    if _is_mixed(found):
        raise TaskError(
            f"Dask has made one task, {key!r}, of the quantum step(s) {_names(quantum)} and the "
            f"classical step(s) {_names(classical)}, which may not run in a QPU slot: "
            f"{_advice(node, _is_mixed)}"
        )
    if quantum or not annotated:
        return bool(quantum)
    if _is_unclear(found):
        raise TaskError(
            f"the task {key!r} is annotated for a QPU, but Dask has made it of the steps "
            f"{_names(classical)}, and which of them was meant cannot be told: mark the function "
            f"with @hybridflow.quantum_task; then, {_advice(node, _is_unclear)}"
        )
    # Steps of Dask's own, which hand data on, need no QPU.
    return any(step.kind is Kind.CLASSICAL for step in classical)


def _sorted(found: list[Step]) -> tuple[list[Step], list[Step]]:
    quantum = [step for step in found if step.kind is Kind.QUANTUM]
    return quantum, [step for step in found if step.kind is not Kind.QUANTUM]


def _is_mixed(found: list[Step]) -> bool:
    return all(_sorted(found))


def _is_unclear(found: list[Step]) -> bool:
    return len(found) > 1 and any(step.kind is Kind.CLASSICAL for step in found)


def _advice(node: GraphNode | None, is_bad: Callable[[list[Step]], bool]) -> str:
    # Without the optimizer, each part is a task of its own.
    return _WRITTEN if any(is_bad(list(steps(part))) for part in parts(node)) else _FUSED


def _names(found: list[Step]) -> str:
    return ", ".join(repr(name) for name in dict.fromkeys(step.name for step in found))

"""The errors of tasks that have no worker: what they ask for, what there is, what to do."""

from collections.abc import Collection

from distributed.scheduler import TaskState, WorkerState

from hybridflow.errors import InputError, NoSlotError, TaskError
from hybridflow_dask.admission import Admission
from hybridflow_dask.amounts import offered, written
from hybridflow_dask.labels import QPU, resource_of
from hybridflow_dask.view import amounts

__all__ = ["no_classical_worker", "no_fitting_worker", "no_slot", "too_much"]


def no_slot(ts: TaskState, admission: Admission, seconds: float) -> NoSlotError:
    """Return the error of a quantum task for which there is no quantum worker."""
    members, reasons = admission.members, admission.reasons
    unused = [f"{ws.name} ({reason})" for ws, reason in reasons.items() if reason]
    resource = next((name for label in amounts(ts) if (name := resource_of(label))), None)
    slot = f"hybridflow slot run --resource {resource}" if resource else "hybridflow slot run"
    return NoSlotError(
        f"for {seconds:g} s there was no quantum worker for the task {ts.key!r}, which asks for "
        f"{_asked(ts)}; what the quantum workers have: {offered(members)}"
        + (f"; these get no task: {', '.join(unused)}" if unused else "")
        + "; start one with `cluster.scale(quantum=1)`, or by hand with "
        f'`{slot} -- dask worker ADDRESS --resources "{written(amounts(ts), " ")}"`',
        resource=resource,
    )


def too_much(ts: TaskState, able: Collection[WorkerState]) -> InputError:
    """Return the error of a quantum task that asks for more than any slot has."""
    return InputError(
        f"the task {ts.key!r} asks for {_asked(ts)}, which is more than a quantum worker has: "
        f"{offered(able)}; the amount of {QPU} is that of the tasks which share a slot, and "
        f'1 does for a task, as in `resources={{"{QPU}": 1}}`'
    )


def no_fitting_worker(ts: TaskState, workers: Collection[WorkerState], seconds: float) -> TaskError:
    """Return the error of a classical task whose restrictions no worker satisfies."""
    more = f' --resources "{written(amounts(ts), " ")}"' if amounts(ts) else ""
    return TaskError(
        f"for {seconds:g} s no worker could run the classical task {ts.key!r}, which asks for "
        f"{_asked(ts)}; what the classical workers have: {offered(workers)}; start one that fits "
        f"with `dask worker ADDRESS{more}`, or ask for what there is"
    )


def no_classical_worker(ts: TaskState, seconds: float) -> TaskError:
    """Return the error of a classical task where there are quantum workers only."""
    return TaskError(
        f"for {seconds:g} s there were quantum workers only, and the classical task {ts.key!r} "
        "may not run in a QPU slot: start a classical worker with `cluster.scale(classical=1)`, "
        "or by hand with `dask worker ADDRESS`"
    )


def _asked(ts: TaskState) -> str:
    places = sorted({*(ts.worker_restrictions or ()), *(ts.host_restrictions or ())})
    asked = [written(amounts(ts))] if amounts(ts) else []
    return " and ".join([*asked, *([f"one of the workers {', '.join(places)}"] if places else [])])

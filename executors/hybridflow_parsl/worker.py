"""What a worker runs for each task that one of our executors sent it.

Parsl imports this module in the worker, because the task's context names :func:`run`; from then on
the worker writes circuits in its results as QPY, too.
"""

import sys
from collections.abc import Callable
from typing import Any

from parsl.app.errors import RemoteExceptionWrapper
from parsl.serialize import unpack_apply_message

from hybridflow.environment import Role
from hybridflow.tasks import as_task
from hybridflow_parsl import circuits

__all__ = ["context", "run"]

circuits.install()


def context(role: Role) -> dict[str, Any]:
    """Return what tells Parsl's worker to call :func:`run`, as a part of a task's context."""
    return {"task_executor": {"f": f"{__name__}.{run.__name__}", "a": (role.value,)}}


def run(message: bytes, role: str) -> Any:
    """Unpack a task and run it: checked, recorded, and kept from ending its worker.

    Returns
    -------
    object
        What the function returned; what it raised in Parsl's ``RemoteExceptionWrapper``, which the
        driver opens. A ``SystemExit`` or its like, on which Parsl would wait for ever, becomes a
        :class:`~hybridflow.errors.TaskExitError` in it.
    """
    function, args, kwargs = unpack_apply_message(message)
    task = as_task(_Raising(function), Role(role))
    try:
        return task(*args, **kwargs)
    except Exception:
        # Returned, not raised: Parsl's worker dies of a raised one that cannot be pickled.
        return RemoteExceptionWrapper(*sys.exc_info())


class _Raising:
    # An app returns its exceptions; the record of the task's end should have them.
    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.__wrapped__(*args, **kwargs)
        if isinstance(result, RemoteExceptionWrapper):
            result.reraise()
        return result

"""One tree of errors: every exception that hybridflow raises on purpose.

Each class answers the question *who must act?*::

    HybridflowError
    ├── UserError                    change what you asked for: the same call fails again
    │   ├── SiteError (ValueError)           the site file or an environment variable is wrong
    │   ├── InputError (ValueError)          an argument of a command or a workflow is wrong
    │   ├── RequestError (ValueError)        a PUB, its shots or its options cannot be run
    │   │   ├── CircuitError                     not ISA, unbound, or nothing is measured
    │   │   └── TooLargeError                    over a limit of the resource or the memory
    │   ├── BudgetError (RuntimeError)       the run may not use so many QPU seconds
    │   ├── NoSlotError (RuntimeError)       there is no QPU slot where one is needed
    │   ├── TaskError (RuntimeError)         a task was misrouted, or ended strangely
    │   │   ├── UnmarkedTaskError (TypeError)    a function without the quantum mark
    │   │   └── TaskExitError                    the task called sys.exit()
    │   ├── MissingExtraError (ImportError)  an optional package is not installed
    │   └── MissingProgramError              a program of the system is not installed
    ├── ResourceError                the resource or the way to it failed (``transient``
    │   │                            says whether trying again can help)
    │   ├── VendorJobError                   a vendor job failed; carries the vendor's text
    │   ├── RequestCancelledError            the request was cancelled
    │   ├── DeclinedError                    not now, and nothing was begun: it may go elsewhere
    │   ├── AcquireError                     the slot's backend could not be acquired
    │   ├── QueueFullError                   the broker has no room for a request now
    │   ├── DeadlineError                    the slot ends before a vendor job could
    │   ├── BackendLostError                 the backend's process or connection died
    │   │   └── UncertainError                   … while a job started: it may be paid for
    │   ├── LedgerError                      a run's ledger cannot be written or read
    │   ├── ClusterError                     a local Slurm cluster did not come up, or failed
    │   ├── WorkerLostError (BrokenExecutor) the worker process of a task died
    │   ├── BrokerLostError (ConnectionError) the broker died, and stayed dead
    │   └── SlurmError                       a command of Slurm's failed; carries Slurm's words
    │       ├── JobRefusedError                  Slurm did not take a job
    │       └── JobFailedError                   a job failed, vanished or can never start
    └── InternalError                our bug: please report it

    RouteWarning (UserWarning)       a route's request goes where it was not meant to go first

All of them are picklable (they cross processes in every workflow engine) and travel over the wire
as :class:`ErrorRecord`.
"""

from concurrent.futures import BrokenExecutor
from typing import Any, ClassVar, Self

import msgspec

__all__ = [
    "AcquireError",
    "BackendLostError",
    "BrokerLostError",
    "BudgetError",
    "CircuitError",
    "ClusterError",
    "DeadlineError",
    "DeclinedError",
    "ErrorRecord",
    "HybridflowError",
    "InputError",
    "InternalError",
    "JobFailedError",
    "JobRefusedError",
    "LedgerError",
    "MissingExtraError",
    "MissingProgramError",
    "NoSlotError",
    "QueueFullError",
    "RequestCancelledError",
    "RequestError",
    "ResourceError",
    "RouteWarning",
    "SiteError",
    "SlurmError",
    "TaskError",
    "TaskExitError",
    "TooLargeError",
    "UncertainError",
    "UnmarkedTaskError",
    "UserError",
    "VendorJobError",
    "WorkerLostError",
]


class HybridflowError(Exception):
    """Base of all errors of hybridflow.

    Parameters
    ----------
    message
        What is wrong, where, and what to do.
    transient
        Whether the same call may succeed when it is tried again; the class's default if not given.
    resource
        Name of the resource concerned, if any.
    vendor_job_id
        Vendor's id of the job concerned, if any.
    """

    default_transient: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        transient: bool | None = None,
        resource: str | None = None,
        vendor_job_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.transient = self.default_transient if transient is None else transient
        self.resource = resource
        self.vendor_job_id = vendor_job_id

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    kind: type[HybridflowError], args: tuple[Any, ...], state: dict[str, Any]
) -> HybridflowError:
    # Not through __init__: a subclass of both OSError and HybridflowError would lose its arguments.
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UserError(HybridflowError):
    """Change what you asked for: the same call would fail again."""


class SiteError(UserError, ValueError):
    """The site file, or a variable of the environment, is wrong."""


class InputError(UserError, ValueError):
    """An argument of a command or of a workflow is wrong."""


class RequestError(UserError, ValueError):
    """A PUB, its number of shots or its options cannot be run on the resource."""


class CircuitError(RequestError):
    """A circuit is not ISA for the target, has unbound parameters or measures nothing."""


class TooLargeError(RequestError):
    """A request is over a limit of the resource, or would not fit into memory."""


class BudgetError(UserError, RuntimeError):
    """The run's budget of QPU seconds would be passed: nothing was sent. Give it more, or less."""


class NoSlotError(UserError, RuntimeError):
    """There is no QPU slot here, and a simulation in its place would be a lie."""


class TaskError(UserError, RuntimeError):
    """A task was sent to the wrong kind of worker, or ended in a way no engine can carry."""


class UnmarkedTaskError(TaskError, TypeError):
    """A function without the mark of :func:`hybridflow.quantum_task` was sent to a QPU slot."""


class TaskExitError(TaskError):
    """A task raised a ``BaseException`` such as ``SystemExit``, on which engines hang or die."""


class MissingExtraError(UserError, ImportError):
    """An optional package is not installed; the message names the extra."""


class MissingProgramError(UserError):
    """A program of the operating system is not installed; the message names the package."""


class ResourceError(HybridflowError):
    """The resource, or the way to it, failed."""


class VendorJobError(ResourceError):
    """A vendor job failed. The message carries the vendor's own text."""


class RequestCancelledError(ResourceError):
    """The request was cancelled before it had a result."""


class DeclinedError(ResourceError):
    """A resource does not take a request that may go elsewhere: nothing was begun or paid for."""

    default_transient = True


class AcquireError(ResourceError):
    """The backend of a slot could not be acquired."""


class QueueFullError(ResourceError):
    """The broker has no room for a request now; those that are under way will make some."""

    default_transient = True


class DeadlineError(ResourceError):
    """The Slurm job ends before a vendor job could: nothing was started; try in another slot."""

    default_transient = True


class BackendLostError(ResourceError):
    """The process that holds the backend, or the connection to it, died."""

    default_transient = True


class UncertainError(BackendLostError):
    """A vendor job's id was lost: whether it runs, and is paid for, cannot be looked up."""

    default_transient = False


class BrokerLostError(ResourceError, ConnectionError):
    """The broker died, or was stopped, and did not come back in time."""

    default_transient = True


class LedgerError(ResourceError):
    """A run's ledger cannot be written or read; nothing is paid for that it cannot record."""

    default_transient = True


class ClusterError(ResourceError):
    """A local Slurm cluster did not come up, or one of its commands failed."""


class WorkerLostError(ResourceError, BrokenExecutor):
    """The worker process of a task died; the task may have run in part."""

    default_transient = True


class SlurmError(ResourceError):
    """A command of Slurm's failed; ``transient`` where its controller could not be reached."""


class JobRefusedError(SlurmError):
    """Slurm did not take a job. The message carries Slurm's own words."""


class JobFailedError(SlurmError):
    """A Slurm job failed, was ended, has vanished, or waits for what cannot come."""


class InternalError(HybridflowError):
    """A bug in hybridflow: please report it, with the traceback."""


class RouteWarning(UserWarning):
    """A route falls back, or passes over a resource for which this run may have paid already."""


def _tree(root: type[HybridflowError]) -> dict[str, type[HybridflowError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


class ErrorRecord(msgspec.Struct, frozen=True):
    """An error as it crosses a socket: the name of its class and its fields, never a pickle."""

    kind: str
    message: str
    transient: bool = False
    resource: str | None = None
    vendor_job_id: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Record an exception; one that is not ours becomes an :class:`InternalError`."""
        if isinstance(error, HybridflowError):
            return cls(
                type(error).__name__,
                str(error),
                error.transient,
                error.resource,
                error.vendor_job_id,
            )
        return cls(InternalError.__name__, f"{type(error).__name__}: {error}")

    def error(self) -> HybridflowError:
        """Return the exception again; a class unknown to this version becomes its base."""
        kind = _tree(HybridflowError).get(self.kind, HybridflowError)
        return kind(
            self.message,
            transient=self.transient,
            resource=self.resource,
            vendor_job_id=self.vendor_job_id,
        )

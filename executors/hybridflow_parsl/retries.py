"""Which failures of a task are worth another try."""

import math

from parsl.dataflow.taskrecord import TaskRecord
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

from hybridflow.errors import HybridflowError

__all__ = ["retry_handler"]


def retry_handler(error: Exception, task_record: TaskRecord) -> float:
    """Return what a failure costs of ``Config(retries=…)``: 1, or more than there can be.

    Tried again are the failures that had nothing to do with the task: a lost worker or node, and
    errors of hybridflow that are ``transient``. An exception of the user's function would only
    come again, after the QPU has been paid a second time; and so would an error of usage, which
    Parsl by itself tries again as well.
    """
    lost = isinstance(error, WorkerLost | ManagerLost)
    transient = isinstance(error, HybridflowError) and error.transient
    return 1.0 if lost or transient else math.inf

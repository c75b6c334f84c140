"""The names by which client, scheduler and workers know quantum from classical: one place each.

A quantum worker declares two Dask resources, each with the number of its tasks per slot:
:data:`QPU`, which every quantum task asks for, and ``QPU-<resource>``, which a task asks for that
must have that resource. A classical worker declares neither.
"""

__all__ = [
    "CLASSICAL",
    "COSCHEDULED",
    "HAVEN",
    "LEAVING",
    "PROCESSES",
    "QPU",
    "QUANTUM",
    "is_qpu_label",
    "resource_label",
    "resource_of",
]

QUANTUM = "quantum"
CLASSICAL = "classical"
COSCHEDULED = "coscheduled"
QPU = "QPU"

HAVEN = "haven"
"""Name of the worker in the driver that runs no task: see ``haven.py``."""

LEAVING = "hybridflow-leaving"
"""Topic of the events by which workers say that they leave: see ``departure.py``."""

PROCESSES = "hybridflow"
"""Name of the executor that runs classical tasks in processes."""

_PREFIX = f"{QPU}-"


def resource_label(name: str) -> str:
    """Return the Dask resource that stands for the QPU resource `name`."""
    return f"{_PREFIX}{name}"


def resource_of(label: str) -> str:
    """Return the name of the QPU resource behind a Dask resource; empty if it stands for none."""
    return label[len(_PREFIX) :] if label.startswith(_PREFIX) else ""


def is_qpu_label(label: object) -> bool:
    """Whether a Dask resource is one of a quantum worker."""
    return label == QPU or (isinstance(label, str) and label.startswith(_PREFIX))

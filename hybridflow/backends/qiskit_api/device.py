"""What a ``BackendV2`` says of itself: its target, its limits, the date of its calibration.

Older backends, and those of small vendors, leave parts out; each of them is looked for where it
may stand, and done without where it is nowhere.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from hybridflow.backends.qiskit_api.faults import opening
from hybridflow.errors import AcquireError
from hybridflow.records import TargetOperation, TargetSnapshot

if TYPE_CHECKING:
    from qiskit.transpiler import Target

__all__ = ["anything", "described", "limit_of", "max_circuits", "option_names", "snapshot"]

_OURS = ("memory", "shots")
"""Options of ``run()`` that hybridflow sets itself."""


def snapshot(resource: str, device: Any, num_qubits: int | None = None) -> TargetSnapshot:
    """Return a device's target; of one without, what its gates and couplings say.

    Parameters
    ----------
    resource
        Name of the resource, for messages.
    device
        A ``BackendV2``.
    num_qubits
        Bound of the site file.

    Raises
    ------
    AcquireError
        If the device tells neither.
    """
    from hybridflow.targets import snapshot_of

    with opening(resource):
        target = _part(device, "target") or _from_names(resource, device)
        found = snapshot_of(target, calibration=_calibration(device))
    names = {operation.name for operation in found.operations}
    operations = found.operations
    if "measure" not in names:  # some targets have nothing but gates
        measure = TargetOperation(name="measure", num_qubits=1)
        operations = tuple(sorted((*operations, measure), key=lambda each: each.name))
    bounds = [found.num_qubits or _part(device, "num_qubits"), num_qubits]
    bound = min((bound for bound in bounds if bound), default=None)
    return msgspec.structs.replace(found, operations=operations, num_qubits=bound)


def _from_names(resource: str, device: Any) -> "Target":
    from qiskit.transpiler import CouplingMap, Target

    configuration = _configuration(device)
    names = _part(device, "operation_names") or getattr(configuration, "basis_gates", None)
    if not names:
        raise AcquireError(
            f"{resource} has no target, and does not name its gates: no circuit can be made for it",
            resource=resource,
        )
    pairs = _part(device, "coupling_map") or getattr(configuration, "coupling_map", None)
    count = _part(device, "num_qubits") or getattr(configuration, "n_qubits", None)
    if pairs is not None and not isinstance(pairs, CouplingMap):
        pairs = CouplingMap(pairs)
    return Target.from_configuration(_standard(names), num_qubits=count, coupling_map=pairs)


def _standard(names: Iterable[Any]) -> list[str]:
    from qiskit.circuit.library import get_standard_gate_name_mapping

    known = get_standard_gate_name_mapping()
    return [name for name in (*map(str, names), "measure") if name in known]


def anything(num_qubits: int | None) -> TargetSnapshot:
    """Return the target of primitives that do not tell theirs: all standard gates, anywhere."""
    from qiskit.circuit.library import get_standard_gate_name_mapping

    known = get_standard_gate_name_mapping()
    return TargetSnapshot(
        num_qubits=num_qubits,
        operations=tuple(
            TargetOperation(
                name=name,
                num_qubits=known[name].num_qubits,
                parameters=tuple(parameter.name for parameter in known[name].params),
            )
            for name in sorted(known)
        ),
    )


def max_circuits(device: Any) -> int | None:
    """Return how many circuits one call of ``run()`` takes; None: any number."""
    found = _part(device, "max_circuits")
    return int(found) if found else None


def limit_of(device: Any, option: str) -> int | None:
    """Return the largest value that a device allows for an option of ``run()``, if it says."""
    allowed = getattr(_part(device, "options"), "validator", None) or {}
    bounds = allowed.get(option)
    if isinstance(bounds, tuple | list) and len(bounds) == 2 and isinstance(bounds[1], int):
        return int(bounds[1])
    found = getattr(_configuration(device), f"max_{option}", None)
    return int(found) if isinstance(found, int) and found > 0 else None


def option_names(device: Any) -> tuple[str, ...]:
    """Return the names of the options that ``run()`` declares, without those that we set."""
    options = _part(device, "options")
    return tuple(sorted(str(name) for name in options or () if name not in _OURS))


def described(device: Any) -> dict[str, str]:
    """Return what identifies a device."""
    kind = type(device)
    found = {"class": f"{kind.__module__}.{kind.__qualname__}", "calibration": _calibration(device)}
    for name in ("name", "backend_version"):
        value = _part(device, name)
        if isinstance(value, str):
            found[name] = value
    return {key: value for key, value in found.items() if value}


def _calibration(device: Any) -> str:
    for name in ("calibration_set_id", "last_update_date"):
        value = _part(device, name)
        if value:
            return str(value)
    properties = _part(device, "properties")
    updated: Any = getattr(_called(properties), "last_update_date", None)
    return str(updated.isoformat() if hasattr(updated, "isoformat") else updated or "")


def _configuration(device: Any) -> Any:
    return _called(_part(device, "configuration"))


def _called(found: Any) -> Any:
    if not callable(found):
        return None
    try:
        return found()
    except Exception:  # a remnant of older Qiskits, which a vendor may not be able to fill
        return None


def _part(device: Any, name: str) -> Any:
    try:
        return getattr(device, name, None)
    except Exception:  # a property that the vendor has not implemented is one that is not there
        return None

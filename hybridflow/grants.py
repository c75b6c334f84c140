"""What Slurm's plugin granted to this job, as its variables say: names, types, slots, no secret.

Only the list of acquired resources means "acquired": the reference plugin writes the credentials of
resources that it failed to acquire, too.
"""

from collections.abc import Mapping, Sequence

from hybridflow import environment
from hybridflow.errors import SiteError
from hybridflow.records import Record

__all__ = ["Grant", "conflicts", "grants", "loses_variables", "requested"]


class Grant(Record, frozen=True, kw_only=True):
    """A resource that the plugin has acquired for this job.

    Attributes
    ----------
    name
        Name of the resource.
    type
        Its type, as the plugin's definitions say; empty where the plugin does not tell.
    slots
        Slots of it that the job holds.
    token
        Whether an acquisition token stands in the environment.
    timeout_seconds
        The job's whole time limit, as the plugin says it; None where it does not.
    """

    name: str
    type: str = ""
    slots: int = 1
    token: bool = False
    timeout_seconds: int | None = None


def grants(environ: Mapping[str, str]) -> list[Grant]:
    """Return what was acquired, in the plugin's order.

    Raises
    ------
    SiteError
        If the plugin's variables contradict one another, or hold no number where one belongs.
    """
    names = _list(environ, environment.RESOURCES)
    types = _list(environ, environment.TYPES) or [""] * len(names)
    if len(types) != len(names):
        raise SiteError(
            f"the Slurm plugin says {len(names)} resources in {environment.RESOURCES[0]} but "
            f"{len(types)} types in {environment.TYPES[0]}: one of them was changed in the job, or "
            f"{environment.LIST_DELIMITER} was; submit the job again without that"
        )
    return [_grant(name, kind, environ) for name, kind in zip(names, types, strict=True)]


def _list(environ: Mapping[str, str], spellings: Sequence[str]) -> list[str]:
    delimiter = environ.get(environment.LIST_DELIMITER) or ","
    for variable in spellings:
        if variable in environ:
            return _parts(environ[variable], delimiter)
    return []


def _parts(text: str, delimiter: str = ",") -> list[str]:
    return [part for part in map(str.strip, text.split(delimiter)) if part]


def _grant(name: str, kind: str, environ: Mapping[str, str]) -> Grant:
    slots = _number(environ, f"{name}_{environment.SLOTS}")
    if slots is None and kind == "pasqal-local":
        slots = _number(environ, environment.SLOTS)
    return Grant(
        name=name,
        type=kind,
        slots=1 if slots is None else slots,
        token=bool(environ.get(f"{name}_{environment.TOKEN}")),
        timeout_seconds=_number(environ, f"{name}_{environment.TIMEOUT_SECONDS}"),
    )


def _number(environ: Mapping[str, str], variable: str) -> int | None:
    value = environ.get(variable, "").strip()
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise SiteError(
            f"{variable} is {value!r}, which is no positive number: the Slurm plugin sets it; do "
            "not set it before submitting"
        )
    return int(value)


def requested(environ: Mapping[str, str]) -> list[str]:
    """Return the names that were asked for with ``--qpu``, acquired or not."""
    for variable in environment.REQUESTED:
        if environ.get(variable):
            return _parts(environ[variable])
    return []


def loses_variables(name: str) -> bool:
    """Whether dash, which is ``/bin/sh`` on Debian, drops the variables of such a resource."""
    return not name.replace("_", "a").isalnum() or not name.isascii() or name[:1].isdigit()


_VENDOR_BACKENDS: dict[str, tuple[str, ...]] = {
    "ibm_runtime": ("ibm-quantum-compute-service", "qiskit-runtime-service"),
    "pulser": ("pasqal-cloud", "pasqal-local"),
    "qrmi": environment.VENDOR_TYPES,
}


def conflicts(backend: str, kind: str) -> bool:
    """Whether a backend cannot be right for a resource of a type.

    A simulator in the place of a device would be a silent simulation; a vendor's backend knows the
    types of that vendor only. Types and backends of third parties are not judged.
    """
    if kind in environment.VENDOR_TYPES and backend in environment.LOCAL_TYPES:
        return True
    known = (*environment.VENDOR_TYPES, *environment.LOCAL_TYPES)
    return kind in known and kind not in _VENDOR_BACKENDS.get(backend, known)

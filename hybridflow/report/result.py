"""What a run's ``result.json`` says, as far as a report shows it.

Any workflow may write any figures; those with these names are shown. What cannot be read is left
out, and the page says so.
"""

import os
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Control", "Finding", "Result", "read_result"]

FILE = "result.json"


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow's comparison with random samples at the same bounded budget.

    Errors are in millihartree, one a seed.
    """

    ansatz_error_millihartree: tuple[float, ...]
    uniform_error_millihartree: tuple[float, ...]
    max_dim: int | None = None
    seeds: tuple[int, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that a workflow computed, beside the exact one."""

    quantity: str
    value: float
    exact: float | None = None
    unit: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run; None where the workflow did not tell."""

    energy_hartree: float | None = None
    reference_hartree: float | None = None
    error_millihartree: float | None = None
    shots: int | None = None
    vendor_jobs: int | None = None
    qpu_seconds: float | None = None
    seed: int | None = None
    molecule: str | None = None
    active_space: str | None = None
    qubits: int | None = None
    control: Control | None = None
    finding: Finding | None = None


def read_result(folder: str | os.PathLike[str]) -> tuple[Result, tuple[str, ...]]:
    """Read a run's result.

    Returns
    -------
    Result
        What can be read of it; nothing if there is none.
    tuple of str
        What cannot be read, a sentence each.
    """
    file = Path(folder) / FILE
    try:
        raw = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return Result(), ()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Result(), (f"{FILE} cannot be read: {error}.",)
    known: dict[str, Any] = {}
    faults = []
    for field in msgspec.structs.fields(Result):
        try:
            known[field.name] = msgspec.convert(raw.get(field.name), field.type)
        except msgspec.ValidationError as error:
            faults.append(f"In {FILE}, `{field.name}` cannot be read: {error}.")
    return Result(**known), tuple(faults)

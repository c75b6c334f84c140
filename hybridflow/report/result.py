"""What a run's ``result.json`` says, as far as a report shows it.

Any workflow may write any figures; those with these names are shown. A file that cannot be read, or
a figure that is no number, leaves a report without it, and the reason is told on the page.
"""

import os
from pathlib import Path

import msgspec

__all__ = ["Control", "Result", "read_result"]

FILE = "result.json"


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow's comparison with random samples at the same bounded budget.

    Errors are in millihartree, one a seed.
    """

    ansatz_error_millihartree: tuple[float, ...]
    uniform_error_millihartree: tuple[float, ...]
    max_dim: int | None = None
    seeds: tuple[int, ...] = ()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run; None where the workflow did not tell."""

    energy_hartree: float | None = None
    reference_hartree: float | None = None
    error_millihartree: float | None = None
    shots: int | None = None
    vendor_jobs: int | None = None
    qpu_seconds: float | None = None
    seed: int | None = None
    control: Control | None = None


def read_result(folder: str | os.PathLike[str]) -> tuple[Result | None, str]:
    """Read a run's result.

    Returns
    -------
    Result or None
        None if there is none, or none that can be read.
    str
        Why it cannot be read; empty if it can, or if there is none.
    """
    file = Path(folder) / FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=Result), ""
    except FileNotFoundError:
        return None, ""
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return None, f"{FILE} cannot be read: {error}"

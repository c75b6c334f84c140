"""Amounts of Dask's resources: checked where they are asked for, and written for people."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from distributed.scheduler import WorkerState

from hybridflow.errors import InputError

__all__ = ["check", "offered", "written"]

_FORM = '`resources={"QPU": 1}`'


def check(asked: object, where: str) -> None:
    """Refuse what is no mapping of Dask resources to amounts.

    Parameters
    ----------
    asked
        What was asked for.
    where
        Who asks, for the message.

    Raises
    ------
    InputError
        If it is no such mapping.
    """
    if not isinstance(asked, Mapping):
        raise InputError(f"{where} asks for the resources {asked!r}: write them as in {_FORM}")
    for label, amount in asked.items():
        if not _is_amount(amount):
            raise InputError(
                f"{where} asks for {amount!r} of {label!r}: the amount of a resource is a number "
                f"above 0, as in {_FORM}"
            )


def _is_amount(value: Any) -> bool:
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0


def written(amounts: Mapping[str, float], between: str = ", ") -> str:
    """Return amounts as Dask's command line has them: ``QPU=1, QPU-aer=1``."""
    return between.join(f"{label}={amount:g}" for label, amount in amounts.items())


def offered(workers: Iterable[WorkerState]) -> str:
    """Return what some workers declare, each kind once."""
    kinds = Counter(written(ws.resources) or "nothing" for ws in workers)
    listed = "; ".join(f"{kind} ({number} of them)" for kind, number in sorted(kinds.items()))
    return listed or "there is none"

"""Numbers of workers that users give, checked."""

import operator

from hybridflow.errors import InputError

__all__ = ["least_and_most", "whole_number"]


def whole_number(name: str, given: int | None, least: int, most: int | None = None) -> int | None:
    """Return a number of workers that was given, if it is one; None stays None.

    Raises
    ------
    InputError
        If it is no whole number, or out of range.
    """
    if given is None:
        return None
    try:
        operator.index(given)
    except TypeError as error:
        raise InputError(f"`{name}` must be a whole number, not {given!r}") from error
    if given < least:
        raise InputError(f"`{name}` must be at least {least}, not {given}")
    if most is not None and given > most:
        raise InputError(
            f"`{name}` must be at most {most}, not {given}: the cluster may use as many slots, and "
            "a slot has one worker; raise `tasks_per_slot` to run more tasks at a time"
        )
    return given


def least_and_most(name: str, given: tuple[int, int], most: int | None) -> tuple[int, int]:
    """Return two such numbers, between which a group may grow and shrink."""
    low, high = given
    if low > high:
        raise InputError(f"`{name}` must be (least, most), not {given}")
    whole_number(name, low, 0)
    whole_number(name, high, 0, most)
    return low, high

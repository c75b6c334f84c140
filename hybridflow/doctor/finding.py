"""What a check has found: how bad, what, where, and what to do."""

from enum import StrEnum

from hybridflow.records import Record

__all__ = ["Finding", "Level", "hint", "ok", "problem"]


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    HINT = "hint"
    PROBLEM = "problem"


class Finding(Record, frozen=True, kw_only=True):
    """What a check has found.

    Attributes
    ----------
    level
        How bad it is: a problem makes something fail, or go wrong in silence.
    text
        What is so.
    where
        The file, the variable or the part of Slurm concerned; may be empty.
    cure
        What to do; empty if all is well.
    check
        Name of the check.
    """

    level: Level
    text: str
    where: str = ""
    cure: str = ""
    check: str = ""


def ok(text: str, where: str = "") -> Finding:
    """Return a finding that all is well."""
    return Finding(level=Level.OK, text=text, where=where)


def hint(text: str, where: str, cure: str) -> Finding:
    """Return a finding that may be meant to be so."""
    return Finding(level=Level.HINT, text=text, where=where, cure=cure)


def problem(text: str, where: str, cure: str) -> Finding:
    """Return a finding that has to be seen to."""
    return Finding(level=Level.PROBLEM, text=text, where=where, cure=cure)

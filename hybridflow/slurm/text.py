"""The words of Slurm's text: ``Key=value`` lines, and amounts of GRES and licences."""

import re

__all__ = ["amounts", "fields"]

_PAIR = re.compile(r"(\S+?)=(.*?)(?= [A-Z]\S*?=|\s*$)")
_COUNT = re.compile(r"\((?:CNT:(\d+)|[^)]*)\)")
_NOTHING = ("(null)", "N/A")


def fields(line: str) -> dict[str, str]:
    """Return the pairs of a line of ``scontrol --oneliner show …``.

    A value may have blanks (a job's name, say): it ends where the next key begins.
    """
    pairs = _PAIR.findall(line)
    return {key: "" if value in _NOTHING else value for key, value in pairs}


def amounts(text: str) -> dict[str, int]:
    """Return how many of what, from one of Slurm's lists.

    They are written as ``gres:qpu:aer_a:1``, ``gres/qpu:aer_a=1``, ``qpu:aer_a(CNT:1)``,
    ``qpu:aer_a:1(IDX:0)``, ``cloud:2`` or ``cloud``.
    """
    found: dict[str, int] = {}
    for item in filter(None, text.split(",")):
        name, amount = _amount(item)
        found[name] = found.get(name, 0) + amount
    return found


def _amount(item: str) -> tuple[str, int]:
    counted = _COUNT.sub(lambda match: f":{match[1]}" if match[1] else "", item)
    words = re.split("[:=]", re.sub(r"^gres[:/]", "", counted))
    if words[-1].isdecimal():
        return ":".join(words[:-1]), int(words[-1])
    return ":".join(words), 1

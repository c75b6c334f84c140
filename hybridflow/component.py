"""What one component of a Slurm job asks for, checked: each word of it becomes an ``#SBATCH`` line.

The site file's tables ``[slurm.quantum]`` and ``[slurm.classical]`` are made of it, and so are the
jobs of ``slurm/jobs.py``.
"""

import re

from hybridflow.errors import InputError
from hybridflow.records import Record

__all__ = ["Component", "check_directive", "check_line", "check_walltime", "check_word"]

_WORD = re.compile(r"[^\s\x00-\x1f\x7f\"'\\#]+")
_WALLTIME = re.compile(r"\d+(:\d\d?){0,2}|\d+-\d\d?(:\d\d?){0,2}|UNLIMITED|INFINITE")


class Component(Record, frozen=True, kw_only=True):
    """One component of a job, or a whole one: nodes of one kind, and what each of them has.

    What is not given is left to Slurm's defaults.

    Attributes
    ----------
    partition, account, qos
        As ``sbatch`` has them.
    walltime
        Time limit in one of Slurm's forms: ``minutes``, ``minutes:seconds``,
        ``hours:minutes:seconds``, ``days-hours``, ``days-hours:minutes:seconds``.
    nodes
        Number of nodes.
    tasks
        Number of tasks, on all nodes together.
    cpus
        CPUs of each task.
    memory
        Memory of each node, as in ``"8G"``.
    qpu
        Resources whose slots the plugin is asked for (``--qpu=NAME``).
    gres, licenses
        Requests in Slurm's own words, as in ``"qpu:aer_a:1"`` and ``"cloud:1"``.
    extra
        Further options of ``sbatch``, as in ``"--exclusive"``.

    Raises
    ------
    InputError
        If a value would not be one word on an ``#SBATCH`` line, or a number is below 1.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    walltime: str | None = None
    nodes: int = 1
    tasks: int | None = None
    cpus: int | None = None
    memory: str | None = None
    qpu: tuple[str, ...] = ()
    gres: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("partition", "account", "qos", "memory"):
            check_word(name, getattr(self, name))
        for name in ("qpu", "gres", "licenses"):
            for word in getattr(self, name):
                check_word(name, word)
        for name in ("nodes", "tasks", "cpus"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise InputError(f"`{name}` must be at least 1, not {number}")
        check_walltime(self.walltime)
        for option in self.extra:
            check_directive(option)


def check_word(name: str, value: str | None) -> None:
    """Refuse what would not be one word on a line of a job script; None is fine."""
    if value is not None and not _WORD.fullmatch(value):
        raise InputError(
            f"`{name}` must be one word without blanks, quotes, `#` or control characters, "
            f"not {value!r}"
        )


def check_line(name: str, value: str) -> None:
    """Refuse what would not be one line of a job script."""
    if not value.strip() or not value.isprintable():
        raise InputError(f"`{name}` must be lines without line breaks, not {value!r}")


def check_directive(option: str) -> None:
    """Refuse what is no option of ``sbatch`` on one line."""
    check_line("extra", option)
    if not option.startswith("-"):
        raise InputError(f"`extra` must be options of sbatch such as '--exclusive', not {option!r}")


def check_walltime(value: str | None) -> None:
    """Refuse what is no time in one of Slurm's forms; None is fine."""
    if value is not None and not _WALLTIME.fullmatch(value):
        raise InputError(
            f"`walltime` must be a time in one of Slurm's forms, such as '90' (minutes), "
            f"'01:30:00' or '2-00:00:00', not {value!r}"
        )

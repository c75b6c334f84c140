"""Descriptions of Slurm jobs: typed, checked, frozen; ``script.py`` makes ``sbatch`` scripts.

A job has one component, or several of different kinds that start together (a heterogeneous job):
its command runs in the batch script, on the first node of the first component.
"""

import re

from msgspec import field

from hybridflow.component import Component, check_line, check_word
from hybridflow.errors import InputError
from hybridflow.records import Record

__all__ = ["Component", "Job"]

_NAME = re.compile(r"\w[\w.-]*")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_ARRAY = re.compile(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*(%\d+)?")


class Job(Record, frozen=True, kw_only=True):
    """A batch job.

    Attributes
    ----------
    name
        Its name: letters, digits and ``_.-``.
    command
        Program and arguments; run as they are, without a shell's expansions.
    components
        What it asks for. More than one: a heterogeneous job.
    modules
        Environment modules to load first.
    setup
        Lines of shell to run after that. A line that fails, fails the job.
    variables
        Variables to set then.
    array
        Indices of a job array, as in ``"0-9%2"``.
    output
        File for what the job prints, relative to where it was submitted, in Slurm's form.

    Raises
    ------
    InputError
        If a value cannot stand in a job script, or the combination is not possible.
    """

    name: str
    command: tuple[str, ...]
    components: tuple[Component, ...] = (Component(),)
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    array: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"a job's name has letters, digits and `_.-` only, not {self.name!r}")
        if not self.command:
            raise InputError("there is no command to run in the job")
        if not self.components:
            raise InputError("a job has at least one component")
        for word in self.command:
            if "\0" in word:
                raise InputError(f"a word of a command has no null character, unlike {word!r}")
        for line in self.setup:
            check_line("setup", line)
        for word in self.modules:
            check_word("modules", word)
        check_word("output", self.output)
        self._check_variables()
        self._check_array()

    def _check_variables(self) -> None:
        for name, value in self.variables.items():
            if not _VARIABLE.fullmatch(name) or "\0" in value:
                raise InputError(f"{name!r} cannot be set to {value!r} in a job's environment")

    def _check_array(self) -> None:
        if self.array is None:
            return
        if not _ARRAY.fullmatch(self.array):
            raise InputError(f"`array` must be indices such as '0-9%2', not {self.array!r}")
        if len(self.components) > 1:
            raise InputError("Slurm has no arrays of heterogeneous jobs: submit one job each")

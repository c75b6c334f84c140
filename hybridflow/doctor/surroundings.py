"""What checks look at: the environment, the site file and what Slurm says, each asked for once."""

import re
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property

from hybridflow import environment
from hybridflow.errors import SiteError, SlurmError
from hybridflow.grants import Grant, grants
from hybridflow.site import Site, load_site
from hybridflow.slurm.commands import run_slurm

__all__ = ["COMMANDS", "Surroundings"]

COMMANDS = ("sbatch", "scontrol", "squeue", "srun")
"""The commands of Slurm that hybridflow needs."""

_SECONDS = 10.0
_SETTING = re.compile(r"^(\w+)\s*= (.*)$", re.MULTILINE)


def _ask_slurm(program: str, *arguments: str) -> str:
    return run_slurm(program, *arguments, timeout=_SECONDS)


class Surroundings:
    """What checks look at; nothing is read, or asked for, before a check wants it.

    Parameters
    ----------
    environ
        The variables to look at.
    site_file
        The site file; what ``HYBRIDFLOW_SITE`` names if not given.
    ask
        Runs one of Slurm's commands and returns what it printed; raises
        :class:`~hybridflow.errors.SlurmError`.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        site_file: str | None = None,
        ask: Callable[..., str] = _ask_slurm,
    ) -> None:
        self.environ = environ
        self.site_file = site_file or environ.get(environment.SITE) or None
        self.ask = ask

    # -- the site ------------------------------------------------------------------------------

    @cached_property
    def _site(self) -> Site | SiteError:
        try:
            return load_site(self.site_file)
        except SiteError as error:
            return error

    @property
    def site(self) -> Site | None:
        """The site; None if its file is wrong."""
        return self._site if isinstance(self._site, Site) else None

    @property
    def site_error(self) -> SiteError | None:
        """What is wrong with the site's file."""
        return self._site if isinstance(self._site, SiteError) else None

    # -- the job -------------------------------------------------------------------------------

    @property
    def job(self) -> str | None:
        """Number of the Slurm job that this process is in."""
        return self.environ.get(environment.SLURM_JOB)

    @cached_property
    def _grants(self) -> list[Grant] | SiteError:
        try:
            return grants(self.environ)
        except SiteError as error:
            return error

    @property
    def grants(self) -> list[Grant]:
        """What the plugin has acquired for this job; empty where its variables contradict."""
        return [] if isinstance(self._grants, SiteError) else self._grants

    @property
    def grants_error(self) -> SiteError | None:
        """What contradicts in the plugin's variables."""
        return self._grants if isinstance(self._grants, SiteError) else None

    # -- Slurm ---------------------------------------------------------------------------------

    @property
    def wants_slurm(self) -> bool:
        """Whether Slurm belongs to what is looked at: there may well be none on a laptop."""
        configured = self.site is not None and self.site.slurm is not None
        return configured or self.job is not None or "SLURM_CONF" in self.environ

    @cached_property
    def missing_commands(self) -> list[str]:
        """Those of Slurm's commands that are not in ``PATH``."""
        path = self.environ.get("PATH")
        return [name for name in COMMANDS if shutil.which(name, path=path) is None]

    @cached_property
    def unreachable(self) -> str:
        """Why slurmctld cannot be asked; empty if it can."""
        if self.missing_commands:
            return f"not installed here: {', '.join(self.missing_commands)}"
        try:
            said = self.ask("scontrol", "ping")
        except SlurmError as error:
            return str(error)
        return "" if " UP" in said else said.strip()

    @property
    def slurm_answers(self) -> bool:
        """Whether there is a Slurm that can be asked."""
        return not self.unreachable

    @cached_property
    def settings(self) -> dict[str, str]:
        """The settings of Slurm (``scontrol show config``)."""
        return dict(_SETTING.findall(self.ask("scontrol", "show", "config")))

    @cached_property
    def nodes(self) -> list[dict[str, str]]:
        """The nodes, by the words of ``scontrol show node``."""
        return _records(self.ask("scontrol", "--oneliner", "show", "node"))

    @cached_property
    def licenses(self) -> list[dict[str, str]]:
        """The licences, by the words of ``scontrol show licenses``."""
        return _records(self.ask("scontrol", "--oneliner", "show", "licenses"))


def _records(text: str) -> list[dict[str, str]]:
    # "Name=q1 Gres=qpu:a:1 …": values with blanks in them (Reason, OS) are cut, and not used here.
    lines = (re.findall(r"(\w+)=(\S*)", line) for line in text.splitlines())
    return [dict(pairs) for pairs in lines if pairs]

"""Slots that the job's allocation holds where no plugin says so: Slurm itself is asked.

A site without any plugin says in ``[slurm.slots.NAME]`` which GRES or licence stands for a slot,
and ``qpu = false``. The allocation then decides, as it does for our plugin: a job that Slurm has
given that GRES, or that licence, has the slot, however it was submitted.
"""

from collections.abc import Mapping
from typing import Protocol

from hybridflow import environment, squeue
from hybridflow.grants import Grant

__all__ = ["Words", "allocated"]


class Words(Protocol):
    """What a slot is in Slurm's words, as in ``"qpu:NAME:1"``; one of the two at least."""

    @property
    def gres(self) -> str | None:
        """The GRES, of which each node of the job holds some."""

    @property
    def licenses(self) -> str | None:
        """The licence, whose slot is on the job's first node."""


def allocated(slots: Mapping[str, Words], environ: Mapping[str, str]) -> list[Grant]:
    """Return those slots that this job, or component of a job, holds on this node.

    Parameters
    ----------
    slots
        What the slot of each resource is.
    environ
        The job's variables.

    Raises
    ------
    SlurmError
        If Slurm does not say what the job holds.
    """
    if not slots:
        return []
    job = squeue.ask(environ)
    node = environ.get(environment.NODE, job.first_node)
    counts = {name: _count(words, job, node) for name, words in slots.items()}
    return [Grant(name=name, slots=count) for name, count in counts.items() if count]


def _count(words: Words, job: squeue.RunningJob, node: str) -> int:
    counts = []
    if words.gres:
        counts.append(job.holds_gres(words.gres))
    if words.licenses:
        counts.append(job.holds_licenses(words.licenses) if node == job.first_node else 0)
    return min(counts, default=0)

"""Whether a Slurm job has ended, as real Slurm says it."""

import os

import pytest

from hybridflow.slurm import Job, cancel, submit, wait_for_end
from hybridflow.slurm.cluster import SlurmCluster
from hybridflow.slurm.ended import job_ended

pytestmark = pytest.mark.usefixtures("on_cluster")


def test_a_job_that_runs_and_one_that_has_ended() -> None:
    number = submit(Job(name="sleeper", command=("sleep", "600")))
    assert job_ended(number) is False
    cancel(number)
    wait_for_end(number)
    assert job_ended(number) is True


def test_a_job_that_never_was() -> None:
    assert job_ended("99999999") is None


def test_where_slurm_does_not_answer(
    on_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", os.devnull)
    assert job_ended("1") is None

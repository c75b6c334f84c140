"""When a Slurm job ends, as its environment or squeue says."""

from pathlib import Path

import pytest

from hybridflow import walltime
from hybridflow.errors import SlurmError
from hybridflow.walltime import job_deadline

JOB = {"SLURM_JOB_ID": "42"}


def squeue(folder: Path, *lines: str) -> dict[str, str]:
    """Return the environment of a job whose squeue is a script of these lines."""
    program = folder / "squeue"
    program.write_text("\n".join(["#!/bin/sh", *lines]))
    program.chmod(0o700)
    return {**JOB, "PATH": f"{folder}:/usr/bin:/bin"}


@pytest.fixture
def _found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A program is looked for in the PATH of the process, not of its environment to be.
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_outside_a_job_there_is_none() -> None:
    assert job_deadline({}) is None


def test_newer_slurm_says_it() -> None:
    assert job_deadline({**JOB, "SLURM_JOB_END_TIME": "1790000000"}) == 1790000000.0


@pytest.mark.usefixtures("_found_there")
def test_older_slurm_is_asked(tmp_path: Path) -> None:
    environ = squeue(
        tmp_path, 'test "$SLURM_TIME_FORMAT" = %s || exit 1', "echo 41 17", "echo 42 1790000000"
    )
    assert job_deadline(environ) == 1790000000.0


@pytest.mark.usefixtures("_found_there")
def test_no_limit(tmp_path: Path) -> None:
    assert job_deadline(squeue(tmp_path, "echo '42 N/A'")) is None


@pytest.mark.usefixtures("_found_there")
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'Invalid job id' >&2; exit 1", "Invalid job id"),
        ("echo nonsense", "'nonsense'"),
        ("echo 42 soon", "'42 soon'"),
        ("exec sleep 600", "did not answer"),
    ],
)
def test_what_slurm_does_not_say_is_an_error_that_tells_why(
    tmp_path: Path, script: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walltime, "_ANSWER_SECONDS", 0.5)
    with pytest.raises(SlurmError, match=words):
        job_deadline(squeue(tmp_path, script))


def test_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="cannot be started"):
        job_deadline({**JOB, "PATH": str(tmp_path)})

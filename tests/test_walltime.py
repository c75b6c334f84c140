"""When a Slurm job ends, as its environment or squeue says."""

from pathlib import Path

import pytest
from family import eventually

from hybridflow import squeue as module
from hybridflow.errors import SlurmError
from hybridflow.walltime import DeadlineWatch, job_deadline

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
        tmp_path,
        'test "$SLURM_TIME_FORMAT" = %s || exit 1',
        "echo '41|17|N/A|(null)|q1|RUNNING|None|N/A|'",
        "echo '42|1790000000|N/A|(null)|q1|RUNNING|None|N/A|'",
    )
    assert job_deadline(environ) == 1790000000.0


@pytest.mark.usefixtures("_found_there")
def test_no_limit(tmp_path: Path) -> None:
    assert job_deadline(squeue(tmp_path, "echo '42|N/A|N/A|(null)|q1|RUNNING|None|N/A|'")) is None


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
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.5)
    with pytest.raises(SlurmError, match=words):
        job_deadline(squeue(tmp_path, script))


def test_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="cannot be started"):
        job_deadline({**JOB, "PATH": str(tmp_path)})


@pytest.mark.usefixtures("_found_there")
def test_in_a_heterogeneous_job_the_component_of_this_node_counts(tmp_path: Path) -> None:
    """The job's number is that of the first component, in all of them."""
    environ = squeue(
        tmp_path, 'test "$*" = "${*%--nodelist c7}" || echo "43|17|N/A|(null)|c7|RUNNING|None|N/A|"'
    )
    het = {**environ, "SLURM_HET_SIZE": "2", "SLURMD_NODENAME": "c7"}
    assert job_deadline(het | {"SLURM_JOB_END_TIME": "1790000000"}) == 17.0


@pytest.mark.usefixtures("_found_there")
def test_a_changed_limit_is_noticed_and_a_slurm_that_is_away_is_not(tmp_path: Path) -> None:
    answer, told = tmp_path / "answer", list[float | None]()
    environ = squeue(tmp_path, f"cat {answer} && echo '|N/A|(null)|q1|RUNNING|None|N/A|'")
    with DeadlineWatch(environ, 17.0, told.append, interval_seconds=0.01):
        answer.write_text("42|18")
        eventually(lambda: told == [18.0])
        answer.unlink()
        answer.with_suffix(".new").write_text("42|N/A")
        answer.with_suffix(".new").rename(answer)
        eventually(lambda: told == [18.0, None])


def test_outside_a_job_nobody_looks() -> None:
    with DeadlineWatch({}, None, [].append, interval_seconds=0.0) as watch:
        assert not watch._thread.is_alive()

"""What squeue says of a running job, in its several spellings."""

import pytest

from hybridflow import squeue
from hybridflow.squeue import RunningJob, ask

JOB = {"SLURM_JOB_ID": "42"}


@pytest.mark.parametrize(
    ("held", "request_", "count"),
    [
        ("gres:qpu:aer_a:1", "qpu:aer_a:1", 1),
        ("gres:gpu:2,gres:qpu:aer_a:3", "qpu:aer_a", 3),
        ("gres/qpu:aer_a=2", "qpu:aer_a:1", 2),
        ("gres:qpu:aer_a", "qpu:aer_a:1", 1),
        ("gres:qpu:1", "qpu:1", 1),
        ("gres:qpu:aer_a:1", "qpu:1", 0),
        ("gres:qpu:aer_a2:1", "qpu:aer_a:1", 0),
        ("gres:qpu:aer_a:0", "qpu:aer_a:1", 0),
        ("N/A", "qpu:aer_a:1", 0),
    ],
)
def test_gres(held: str, request_: str, count: int) -> None:
    assert RunningJob(number="42", end=None, gres=held).holds_gres(request_) == count


def test_licenses() -> None:
    job = RunningJob(number="42", end=None, licenses="matlab:2,cloud")
    assert [job.holds_licenses(name) for name in ("cloud:1", "matlab:1", "mat:1")] == [1, 2, 0]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("q1", "q1"),
        ("c[1-3,7],d4", "c1"),
        ("c07,d[1-2]", "c07"),
        ("r[2-3]n[05-06]", "r2n05"),
        ("", ""),
    ],
)
def test_the_first_node(nodes: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        squeue, "_squeue", lambda *_: f"41|1|||x||||\n42|N/A|N/A|(null)|{nodes}|RUNNING|None|N/A|\n"
    )
    assert ask(JOB) == RunningJob(
        number="42", end=None, gres="N/A", licenses="(null)", first_node=first
    )


@pytest.mark.parametrize(
    ("state", "early"),
    [
        ("RUNNING|None|N/A", False),
        ("COMPLETING|None|N/A", True),
        ("CANCELLED|None|None", True),
        ("COMPLETING|TimeLimit|N/A", False),
        ("COMPLETING|None|1795398703", False),
    ],
)
def test_a_job_that_is_being_cancelled_says_nothing_of_its_time(
    state: str, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(squeue, "_squeue", lambda *_: f"42|17|N/A|(null)|q1|{state}|\n")
    assert ask(JOB).ends_early is early

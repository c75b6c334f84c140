"""Slurm jobs: their descriptions, scripts, states and ends, on a real cluster."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridflow.errors import InputError, JobFailedError, JobRefusedError, SlurmError
from hybridflow.slurm import (
    Component,
    Job,
    JobInfo,
    SlurmState,
    Watch,
    all_jobs,
    cancel,
    check_completed,
    queries,
    script,
    submit,
    wait,
    wait_for_end,
)
from hybridflow.slurm.cluster import SlurmCluster
from hybridflow.slurm.commands import run_slurm

PLAIN = """\
#!/bin/bash
#SBATCH --job-name=energies
#SBATCH --output=out-%A_%a.txt
#SBATCH --array=0-9%2
#SBATCH --partition=main
#SBATCH --account=chem
#SBATCH --qos=short
#SBATCH --time=1-02:30:00
#SBATCH --nodes=2
#SBATCH --ntasks=4
#SBATCH --cpus-per-task=3
#SBATCH --mem=8G
#SBATCH --exclusive
set -e
module load python/3.12
source venv/bin/activate
export MOLECULE='it'"'"'s water'
exec python -c 'print("$HOME")'
"""

TOGETHER = """\
#!/bin/bash
#SBATCH --job-name=sqd
#SBATCH --partition=qpu
#SBATCH --nodes=1
#SBATCH --qpu=aer_a,aer_b
#SBATCH --gres=qpu:aer_a:1
#SBATCH --licenses=cloud:1
#SBATCH hetjob
#SBATCH --partition=classical
#SBATCH --nodes=2
set -e
exec hybridflow run sqd
"""


def test_script_of_a_job() -> None:
    job = Job(
        name="energies",
        command=("python", "-c", 'print("$HOME")'),
        components=(
            Component(
                partition="main",
                account="chem",
                qos="short",
                walltime="1-02:30:00",
                nodes=2,
                tasks=4,
                cpus=3,
                memory="8G",
                extra=("--exclusive",),
            ),
        ),
        modules=("python/3.12",),
        setup=("source venv/bin/activate",),
        variables={"MOLECULE": "it's water"},
        array="0-9%2",
        output="out-%A_%a.txt",
    )
    assert script(job) == PLAIN


def test_script_of_a_heterogeneous_job() -> None:
    slot = Component(
        partition="qpu",
        qpu=("aer_a", "aer_b"),
        gres=("qpu:aer_a:1",),
        licenses=("cloud:1",),
    )
    nodes = Component(partition="classical", nodes=2)
    job = Job(name="sqd", command=("hybridflow", "run", "sqd"), components=(slot, nodes))
    assert script(job) == TOGETHER


EVIL = "x\n#SBATCH --uid=0"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Component(partition=EVIL),
        lambda: Component(account=EVIL),
        lambda: Component(qos=EVIL),
        lambda: Component(memory=EVIL),
        lambda: Component(walltime=f"10{EVIL}"),
        lambda: Component(qpu=("a", EVIL)),
        lambda: Component(gres=(EVIL,)),
        lambda: Component(licenses=(EVIL,)),
        lambda: Component(extra=(f"--exclusive{EVIL}",)),
        lambda: Component(extra=("exclusive",)),
        lambda: Component(partition="a b"),
        lambda: Component(nodes=0),
        lambda: Job(name=EVIL, command=("x",)),
        lambda: Job(name="a/b", command=("x",)),
        lambda: Job(name="x", command=()),
        lambda: Job(name="x", command=("a\0b",)),
        lambda: Job(name="x", command=("x",), components=()),
        lambda: Job(name="x", command=("x",), modules=(EVIL,)),
        lambda: Job(name="x", command=("x",), setup=(EVIL,)),
        lambda: Job(name="x", command=("x",), output=EVIL),
        lambda: Job(name="x", command=("x",), array=f"1{EVIL}"),
        lambda: Job(name="x", command=("x",), variables={"A B": ""}),
        lambda: Job(name="x", command=("x",), array="0-1", components=(Component(), Component())),
    ],
)
def test_what_cannot_stand_in_a_script_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()


# --- commands ------------------------------------------------------------------------------------


def test_a_missing_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="no command `sbatch` here"):
        submit(Job(name="x", command=("true",)))


@pytest.mark.usefixtures("slurm")
@pytest.mark.skipif(Path("/etc/slurm/slurm.conf").exists(), reason="this machine has a Slurm")
def test_a_machine_without_a_slurm_to_ask_is_told_what_to_do() -> None:
    with pytest.raises(SlurmError, match=r"sinfo.*SLURM_CONF.*hybridflow cluster env"):
        run_slurm("sinfo")


def test_a_command_that_hangs_is_ended() -> None:
    with pytest.raises(SlurmError, match=r"took longer than 0.1 s") as caught:
        run_slurm("sleep", "60", timeout=0.1)
    assert caught.value.transient


def test_a_controller_that_is_down_is_worth_another_try(
    on_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    conf = Path(os.environ["SLURM_CONF"]).read_text()
    nobody = re.sub(r"(?m)^SlurmctldPort\s*=.*", "SlurmctldPort=1", conf)
    (tmp_path / "slurm.conf").write_text(f"{nobody}\nMessageTimeout=1\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(SlurmError, match=r"cannot be reached.*Unable to contact") as caught:
        all_jobs()
    assert caught.value.transient


# --- states --------------------------------------------------------------------------------------


def shell(text: str, *components: Component, name: str = "test", array: str | None = None) -> str:
    chosen = components or (Component(),)
    return submit(Job(name=name, command=("sh", "-c", text), components=chosen, array=array))


def test_ends_are_noticed_and_named(on_cluster: SlurmCluster, tmp_path: Path) -> None:
    """One job of each kind, all of them under way at a time."""
    fine = shell("echo $SLURM_JOB_NAME", name="fine.one")
    failed = shell("exit 3")
    tasks = shell("test $SLURM_ARRAY_TASK_ID != 2", array="0-2")
    killed = shell("kill -9 $$")
    waiting = shell("true", Component(extra=("--begin=now+1hour",)))

    seen: list[JobInfo] = []
    info = wait(fine, on_change=seen.append)
    assert (info.id, info.group, info.name, info.exit_status) == (fine, fine, "fine.one", 0)
    assert seen[-1] == info
    assert (tmp_path / f"slurm-{fine}.out").read_text() == "fine.one\n"

    with pytest.raises(JobFailedError, match=f"Slurm job {failed} failed, exit status 3") as caught:
        wait(failed)
    assert not caught.value.transient
    with pytest.raises(JobFailedError, match=f"Slurm job {tasks} failed, exit status 1"):
        wait(tasks)
    assert wait_for_end(killed).exit_status == 128 + 9

    cancel(waiting)
    with pytest.raises(JobFailedError, match=f"Slurm job {waiting} was cancelled"):
        wait(waiting)


def test_a_job_that_can_never_start_is_named(on_cluster: SlurmCluster) -> None:
    failed = shell("exit 1")
    never = shell("true", Component(extra=(f"--dependency=afterok:{failed}",)))
    held = shell("true", Component(partition="qpu", gres=("qpu:aer_b:1",)))
    try:
        with pytest.raises(JobFailedError, match=r"cannot come \(DependencyNeverSatisfied\)"):
            wait(never)
    finally:
        cancel(never)
    assert wait(held).gres == {"qpu:aer_b": 1}


def test_a_job_that_slurm_does_not_take_is_explained(on_cluster: SlurmCluster) -> None:
    with pytest.raises(JobRefusedError, match=r"invalid partition specified: nowhere"):
        shell("true", Component(partition="nowhere"))
    with pytest.raises(JobRefusedError, match=r"Requested node configuration is not available"):
        shell("true", Component(partition="classical", gres=("qpu:1",)))


def test_a_job_that_vanished_is_named(on_cluster: SlurmCluster) -> None:
    with pytest.raises(JobFailedError, match="Slurm job 999999 has vanished"):
        wait("999999")


def test_a_heterogeneous_job_is_one(on_cluster: SlurmCluster) -> None:
    """It is named by its first component, and both dialects of Slurm's say the same of it."""
    job = shell(
        "srun --het-group=0,1 true; exit 4",
        Component(partition="qpu", gres=("qpu:aer_b:1",), licenses=("cloud:1",)),
        Component(partition="classical", nodes=2),
    )
    info = wait_for_end(job)
    assert (info.id, info.state, info.exit_status) == (job, SlurmState.FAILED, 4)
    assert (info.gres, info.licenses) == ({"qpu:aer_b": 1}, {"cloud": 1})
    components = [each for each in all_jobs() if each.group == job]
    text = run_slurm("scontrol", "--oneliner", "--all", "show", "job")
    assert [each.nodes for each in components] == ["q1", "c[1-2]"]
    assert [each for each in queries._of_scontrol(text) if each.group == job] == components


def test_one_question_for_all_jobs_ever_more_seldom(
    on_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def run(program: str, *arguments: str) -> str:
        asked.append(program)
        return run_slurm(program, *arguments)

    monkeypatch.setattr(queries, "run_slurm", run)
    begin = (Component(extra=("--begin=now+1hour",)),)
    jobs = [shell("true", *begin) for _ in range(3)]
    watch = Watch(jobs)
    try:
        first = watch.look()
        intervals = [watch.interval_seconds]
        for _ in range(17):
            watch.look()
            intervals.append(watch.interval_seconds)
    finally:
        cancel(*jobs)
    assert {job: first[job].state for job in jobs} == dict.fromkeys(jobs, SlurmState.PENDING)
    assert asked == ["squeue"] * 18
    assert intervals == sorted(intervals)
    assert (intervals[0], intervals[-1]) == (1.0, 30.0)
    assert {info.state for info in watch.look().values()} == {SlurmState.CANCELLED}
    assert watch.interval_seconds == 1.0


def test_an_older_slurm_without_json_is_asked_in_its_own_way(
    on_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = shell("exit 5")

    def run(program: str, *arguments: str) -> str:
        if "--json" in arguments:
            raise SlurmError("squeue: unrecognized option '--json'")
        return run_slurm(program, *arguments)

    monkeypatch.setattr(queries, "run_slurm", run)
    info = wait_for_end(job)
    assert (info.state, info.exit_status, info.name) == (SlurmState.FAILED, 5, "test")


def test_the_json_of_newer_slurms_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 23.02 on numbers have flags, from 23.11 on states are lists."""
    number = {"set": True, "infinite": False}
    job = {
        "job_id": 8,
        "het_job_id": {**number, "number": 7},
        "array_job_id": {**number, "number": 0},
        "name": "x",
        "user_name": "ada",
        "partition": "qpu",
        "job_state": ["FAILED", "COMPLETING"],
        "state_reason": "None",
        "exit_code": {
            "status": ["SIGNALED"],
            "return_code": {**number, "set": False, "number": 0},
            "signal": {"id": {**number, "number": 15}, "name": "TERM"},
        },
        "nodes": "q1",
        "gres_detail": ["gres/qpu:aer_a:1(IDX:0)"],
        "licenses": "cloud:1",
    }
    monkeypatch.setattr(
        queries, "run_slurm", lambda *words: json.dumps({"jobs": [job], "errors": []})
    )
    (info,) = all_jobs()
    assert (info.id, info.group, info.state) == ("8", "7", SlurmState.FAILED)
    assert (info.exit_status, info.gres) == (143, {"qpu:aer_a": 1})


def test_what_the_controller_has_forgotten_is_asked_of_the_accounts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Components and tasks count to their job; what is still running there has vanished."""
    lines = (
        "7+0|7|COMPLETED|0:0|ada|qpu|q1|sqd\n7+1|8|NODE_FAIL|1:0|ada|classical|c1|sqd\n"
        "9_1|10|CANCELLED by 1000|0:15|ada|main|None assigned|a|b\n"
        "11|11|RUNNING|0:0|ada|main|c1|x\n"
    )
    answers = {"squeue": '{"jobs": [], "errors": []}', "sacct": lines}
    monkeypatch.setattr(queries, "run_slurm", lambda program, *words: answers[program])
    seen = Watch(["7", "9", "11"]).look()
    assert {job: info.state.value for job, info in seen.items()} == {
        "7": "NODE_FAIL",
        "9": "CANCELLED",
        "11": "VANISHED",
    }
    assert (seen["9"].name, seen["9"].exit_status, seen["9"].nodes) == ("a|b", 143, "")


@pytest.mark.parametrize(
    ("state", "says", "transient"),
    [
        (SlurmState.PREEMPTED, "was preempted.*submit it again", True),
        (SlurmState.NODE_FAIL, "lost a node.*submit it again", True),
        (SlurmState.TIMEOUT, "time limit.*longer --walltime", False),
        (SlurmState.OUT_OF_MEMORY, "out of memory", False),
    ],
)
def test_ends_say_what_to_do(state: SlurmState, says: str, transient: bool) -> None:
    with pytest.raises(JobFailedError, match=says) as caught:
        check_completed(JobInfo(id="3", group="3", state=state))
    assert caught.value.transient is transient

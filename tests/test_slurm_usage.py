"""``hybridflow usage``: what is made of sacct's answers, and a real job in slurmdbd's books."""

import json
import os
import pwd
import re
import shlex
import shutil
import stat
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from family import eventually

from hybridflow.cli import main
from hybridflow.errors import SlurmError
from hybridflow.site import load_site
from hybridflow.slurm import SlotUsage, VendorTime, booked_times, slot_usage
from hybridflow.slurm.cluster import SlurmCluster

SITE = """
[qpu.aer]
backend = "aer"
[qpu.big]
backend = "aer"
[qpu.cloud]
backend = "fake"
[slurm.slots.big]
gres = "qpu:aer_b:1"
"""

# Real lines of Slurm 22.05, with other users: a plain job, a heterogeneous one, an array's task, a
# job that ran twice, one that waits, and one without a QPU.
SACCT = """\
1|ada|chem|10|billing=1,cpu=1,gres/qpu:aer=2,gres/qpu=2,license/cloud=1,node=1|1
2+0|ada|chem|5|billing=1,cpu=1,gres/qpu:aer=1,gres/qpu=1,license/cloud=2,node=1|2
2+1|ada|chem|5|billing=1,cpu=1,gres/qpu:aer_b=1,gres/qpu=1,node=1|3
5_7|bob|bio|3|billing=1,cpu=1,gres/qpu:aer_b=1,gres/qpu=1,mem=200M,node=1|12
8|bob|chem|4|billing=1,cpu=1,gres/qpu:aer=1,gres/qpu=1,node=1|8
8|bob|chem|6|billing=1,cpu=1,gres/qpu:aer=1,gres/qpu=1,node=1|8
9|bob|chem|0||9
10|bob|chem|99|billing=4,cpu=4,gres/gpu=1,license/matlab=1,node=1|10
"""

START, END = datetime(2026, 1, 1), datetime(2026, 1, 31, 12)


@pytest.fixture
def site(tmp_path: Path) -> str:
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    return str(file)


def program(folder: Path, name: str, text: str, status: int = 0) -> None:
    """Put a command into a folder that keeps its arguments and prints a text."""
    script = folder / name
    script.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/{name}.arguments\n'
        f"cat {folder}/{name}.text\nexit {status}\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (folder / f"{name}.text").write_text(text)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a `sacct` answers with the lines above."""
    program(tmp_path, "sacct", SACCT)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def usage(site: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["usage", "--site", site, *options])


def sums_of(result: Result) -> list[tuple[object, ...]]:
    columns = ("user", "account", "resource", "jobs", "slot_seconds")
    return [
        tuple(entry[column] for column in columns) for entry in json.loads(result.output)["usage"]
    ]


def test_slot_time_is_summed_by_user_account_and_resource(commands: Path, site: str) -> None:
    found = slot_usage(booked_times(load_site(site), START, END), ("user", "account", "resource"))
    assert [(u.user, u.account, u.resource, u.jobs, u.slot_seconds) for u in found] == [
        ("ada", "chem", "aer", 2, 10 * 2 + 5),
        ("ada", "chem", "big", 1, 5),
        ("ada", "chem", "cloud", 2, 10 + 5 * 2),
        ("bob", "bio", "big", 1, 3),
        ("bob", "chem", "aer", 1, 4 + 6),
    ]


def test_components_of_a_heterogeneous_job_are_one_job(commands: Path, site: str) -> None:
    found = slot_usage(booked_times(load_site(site), START, END), ("user",))
    everything = {"account": None, "resource": None}
    assert found == [
        SlotUsage(user="ada", jobs=2, slot_seconds=50, **everything),
        SlotUsage(user="bob", jobs=2, slot_seconds=13, **everything),
    ]


def test_what_vendors_billed_stands_beside_each_job_once(commands: Path, site: str) -> None:
    vendors = {
        ("1", "aer", "ada"): VendorTime(vendor_jobs=2, qpu_seconds=3.5),
        ("2", "cloud", "ada"): VendorTime(vendor_jobs=1, qpu_seconds=1.0),
        # Booked twice: it was requeued.
        ("8", "aer", "bob"): VendorTime(vendor_jobs=4, qpu_seconds=2.0),
        ("99", "aer", "ada"): VendorTime(vendor_jobs=1, qpu_seconds=9.0),
        # From a ledger of Eve's that speaks of Ada's job.
        ("1", "aer", "eve"): VendorTime(vendor_jobs=1, qpu_seconds=9.0),
    }
    booked = booked_times(load_site(site), START, END)
    found = slot_usage(booked, ("user", "resource"), vendors)
    assert [(u.user, u.resource, u.vendor_jobs, u.qpu_seconds) for u in found] == [
        ("ada", "aer", 2, 3.5),
        ("ada", "big", 0, 0.0),
        ("ada", "cloud", 1, 1.0),
        ("bob", "aer", 4, 2.0),
        ("bob", "big", 0, 0.0),
    ]


def test_runs_that_are_none_are_named(commands: Path, site: str, tmp_path: Path) -> None:
    done = usage(site, "--end=2026-01-31", "--runs", str(tmp_path))
    assert done.exit_code == 2
    assert f"there is no ledger in {tmp_path}" in done.output
    mixed = CliRunner().invoke(main, ["usage", "runs/one", "--runs", "runs"])
    assert "--runs: for slots only, without RUN_DIR" in mixed.output


def test_sacct_is_told_what_is_asked_for(commands: Path, site: str) -> None:
    words = "--start 2026-01-01 --end 2026-01-31T12:00 --user ada --user bob --account chem"
    done = usage(site, "--json", "--by=resource", "--resource=big", *words.split())
    assert sums_of(done) == [(None, None, "big", 2, 8)]
    told = (commands / "sacct.arguments").read_text().split()
    assert {
        "--starttime=2026-01-01T00:00:00",
        "--endtime=2026-01-31T12:00:00",
        "--user=ada,bob",
        "--accounts=chem",
        "--truncate",
        "--duplicates",
        "--allocations",
    } <= set(told)


def test_the_table_shows_what_is_told_apart(commands: Path, site: str) -> None:
    done = usage(site, "--start=2026-01-01", "--end=2026-01-31", "--by=resource", "--by=account")
    title, *rows = done.output.splitlines()
    assert title == "2026-01-01T00:00:00 to 2026-01-31T00:00:00"
    assert [row.split() for row in rows] == [
        ["account", "resource", "jobs", "slot", "seconds"],
        ["bio", "big", "1", "3"],
        ["chem", "aer", "3", "35"],
        ["chem", "big", "1", "5"],
        ["chem", "cloud", "2", "20"],
    ]


def test_it_is_of_this_month_unless_said(commands: Path, site: str) -> None:
    before = datetime.now().replace(microsecond=0)
    window = json.loads(usage(site, "--json", "--end=2999-01-01").output)
    end = datetime.fromisoformat(window["end"])
    assert before <= end <= datetime.now()  # a job that runs is not booked for the future
    assert window["start"] == f"{end - timedelta(seconds=1):%Y-%m}-01T00:00:00"
    december = json.loads(usage(site, "--json", "--end=2026-01-01").output)
    assert (december["start"], december["end"]) == ("2025-12-01T00:00:00", "2026-01-01T00:00:00")


def test_slots_that_slurm_books_without_a_type_are_not_lost(commands: Path, site: str) -> None:
    program(commands, "sacct", "1|ada|chem|10|gres/qpu:aer=1,gres/qpu=3|1\n")
    found = slot_usage(booked_times(load_site(site), START, END), ("resource",))
    assert [(entry.resource, entry.slot_seconds) for entry in found] == [("aer", 10), ("qpu", 20)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--start=2026-02-01", "--end=2026-01-01"), "the start, 2026-02-01 .* before the end"),
        (("--resource=dream",), 'no QPU "dream"; known are: aer, big, cloud'),
        (("--user=",), "must not be empty"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    commands: Path, site: str, options: tuple[str, ...], says: str
) -> None:
    done = usage(site, *options)
    assert done.exit_code == 2
    assert re.search(says, done.output)


@pytest.mark.parametrize("line", ["1|ada|chem|10", "1|ada|chem|soon|cpu=1", "slurm is well"])
def test_an_answer_that_is_none_is_an_error(commands: Path, site: str, line: str) -> None:
    program(commands, "sacct", f"{line}\n")
    with pytest.raises(SlurmError, match="was asked for JobID, User"):
        booked_times(load_site(site), START, END)


@pytest.mark.parametrize("booked", ["cpu,mem", "cpu,gres/gpu,license/matlab"])
def test_accounts_without_qpus_are_no_zero(commands: Path, site: str, booked: str) -> None:
    program(commands, "sacct", "10|bob|chem|99|cpu=4|10\n")
    program(commands, "scontrol", f"AccountingStorageTRES   = {booked}\nOther = 1\n")
    with pytest.raises(SlurmError, match="no accounts of QPUs: an administrator sets up"):
        booked_times(load_site(site), START, END)


@pytest.mark.parametrize("booked", ["cpu,gres/qpu", "cpu,gres/qpu:aer", "cpu,license/cloud"])
def test_a_month_without_a_job_is_a_zero(commands: Path, site: str, booked: str) -> None:
    program(commands, "sacct", "")
    program(commands, "scontrol", f"AccountingStorageTRES   = {booked}\nOther = 1\n")
    assert booked_times(load_site(site), START, END) == []


def test_a_slurm_without_accounts_says_so(on_cluster: SlurmCluster, site: str) -> None:
    done = usage(site)
    assert done.exit_code == 3
    assert "this Slurm keeps no accounts: an administrator sets up slurmdbd" in done.output


def test_a_real_job_stands_in_the_books(
    accounted: SlurmCluster, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in accounted.environ.items():
        monkeypatch.setenv(name, value)
    config = accounted.run(["scontrol", "show", "config"]).stdout
    assert "gres/qpu,gres/qpu:aer,gres/qpu:aer_b,license/cloud" in config
    time.sleep(1)  # jobs of other tests have ended before the second in which this one's begin
    since = f"--start={datetime.now():%Y-%m-%dT%H:%M:%S}"
    assert sums_of(usage(site, "--json", "--user=daemon")) == []
    accounted.run(shlex.split("srun --job-name=a --gres=qpu:aer:2 --licenses=cloud:1 sleep 1"))
    query = ["sacct", "-XnP", "--allusers", "--name=a", "--format=State,ElapsedRaw"]
    eventually(lambda: "COMPLETED|" in accounted.run(query).stdout)
    seconds = int(accounted.run(query).stdout.strip().partition("|")[2])
    assert seconds >= 1
    me = pwd.getpwuid(os.geteuid()).pw_name
    assert sums_of(usage(site, "--json", since, "--user", me)) == [
        (me, "hybridflow", "aer", 1, 2 * seconds),
        (me, "hybridflow", "cloud", 1, seconds),
    ]
    assert "Invalid user id: nobody-here" in usage(site, "--user=nobody-here").output
    check_vendors(accounted, tmp_path, since)


QUANTUM_JOB = """
from qiskit import QuantumCircuit
import hybridflow as hf

circuit = QuantumCircuit(1)
circuit.measure_all()
for shots in (100, 200):
    hf.Sampler().run([circuit], shots=shots).result()
"""
VENDORS_SITE = """
[qpu.aer]
backend = "aer"
seconds_per_job = 0.5
[slurm.slots.aer]
qpu = false
gres = "qpu:aer:1"
"""


def check_vendors(cluster: SlurmCluster, folder: Path, since: str) -> None:
    (folder / "vendors.toml").write_text(VENDORS_SITE)
    (folder / "job.py").write_text(QUANTUM_JOB)
    run = folder / "runs" / "one"
    door = f"{sys.executable} -m hybridflow slot run --site {folder}/vendors.toml --"
    cluster.run(
        shlex.split(f"srun --gres=qpu:aer:1 {door} {sys.executable} {folder}/job.py"),
        env={"HYBRIDFLOW_RUN": str(run)},
    )

    def billed() -> list[tuple[object, ...]]:
        options = ("--json", since, "--by=resource", "--resource=aer", "--runs", str(run.parent))
        (entry,) = json.loads(usage(f"{folder}/vendors.toml", *options).output)["usage"]
        return [(entry["jobs"], entry["vendor_jobs"], entry["qpu_seconds"])]

    eventually(lambda: billed() == [(2, 2, pytest.approx(1.0))])
    shutil.copytree(run, run.with_name("copy"))
    assert billed() == [(2, 2, pytest.approx(1.0))]
    if os.geteuid() == 0:
        for ledger in run.parent.glob("*/ledger"):
            os.chown(ledger, pwd.getpwnam("daemon").pw_uid, -1)
        assert billed() == [(2, 0, 0.0)], "a ledger of another user's speaks of no job of this one"

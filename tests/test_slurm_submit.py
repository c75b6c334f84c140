"""``hybridflow submit``: one job with a QPU slot and classical nodes, on a real cluster."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from waiting import processes_of, until

from hybridflow.cli import main
from hybridflow.errors import InputError, SiteError
from hybridflow.site import load_site
from hybridflow.slurm import (
    SlurmState,
    Watch,
    cancel,
    coscheduled_job,
    current_allocation,
    queries,
    wait_for_end,
)
from hybridflow.slurm.cluster import SlurmCluster
from hybridflow.testing import slurm_cluster

ROOT = Path(__file__).parent.parent
NODES = ROOT / "tests" / "slurm_nodes.py"
PLACES = {"quantum": {"node": "q1", "shots": 5}, "classical": ["c1", "c2"]}
# Without a plugin, the site file says what a slot is, and Slurm whether the job holds one.
SITE = """
[qpu.aer_a]
backend = "aer"
tasks_per_slot = 1

[slurm]
walltime = "5"

[slurm.quantum]
partition = "qpu"

[slurm.classical]
partition = "classical"
nodes = 2

[slurm.slots.aer_a]
qpu = false
gres = "qpu:aer_a:1"
"""

LICENCE = """
[qpu.cloud]
backend = "aer"

[slurm.slots.cloud]
qpu = false
licenses = "cloud:1"
"""

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=hybridflow
#SBATCH --output=hybridflow-%j.out
#SBATCH --partition=qpu
#SBATCH --time=10
#SBATCH --nodes=1
#SBATCH --gres=qpu:aer_a:1
#SBATCH hetjob
#SBATCH --partition=classical
#SBATCH --time=10
#SBATCH --nodes=3
set -e
export HYBRIDFLOW_SITE={site}
exec echo 'a b' --wait
"""


bare = slurm_cluster(scope="module", nodes=3, qpus={"aer_a": 1}, licenses={"cloud": 1})


@pytest.fixture
def unplugged(
    bare: SlurmCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[SlurmCluster]:
    """A cluster without the plugin, for this process's own commands."""
    for name, value in bare.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(queries, "LAST_SECONDS", queries.FIRST_SECONDS)
    monkeypatch.chdir(tmp_path)
    yield bare
    bare.run(["scancel", "--user", str(os.getuid())])


@pytest.fixture
def site(tmp_path: Path) -> Path:
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    return file


def submit(site: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["submit", "--site", str(site), *words])


def said(folder: Path) -> str:
    """Return what the one job that was submitted in a folder has printed."""
    (output,) = folder.glob("hybridflow-*.out")
    return output.read_text()


def test_dry_run_prints_the_script(site: Path) -> None:
    done = submit(
        site, *("--dry-run", "--walltime", "10", "--nodes", "3", "--", "echo", "a b", "--wait")
    )
    assert (done.exit_code, done.output) == (0, SCRIPT.format(site=site))


def test_without_classical_nodes_it_is_a_plain_job(site: Path) -> None:
    done = submit(site, "--dry-run", "--nodes", "0", "--", "true")
    assert "hetjob" not in done.output
    assert "--gres=qpu:aer_a:1" in done.output


def test_what_is_wrong_is_explained(site: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.toml"
    bare.write_text("[qpu.aer_a]\nbackend = 'aer'\n")
    with pytest.raises(SiteError, match=r"add a table \[slurm\]"):
        coscheduled_job(["true"], load_site(bare))
    with pytest.raises(SiteError, match="no resource 'b'"):
        coscheduled_job(["true"], load_site(site), resource="b")
    with pytest.raises(InputError, match="at least 0, not -1"):
        coscheduled_job(["true"], load_site(site), nodes=-1)
    with pytest.raises(InputError, match="`walltime` must be a time"):
        coscheduled_job(["true"], load_site(site), walltime="soon")


@pytest.mark.parametrize("words", [(), ("--attach", "1", "--", "true")])
def test_either_a_command_or_a_job_to_attach_to(site: Path, words: tuple[str, ...]) -> None:
    done = submit(site, *words)
    assert (done.exit_code, "give either a COMMAND" in done.output) == (2, True)


def test_waiting_gives_the_status_of_the_command(
    unplugged: SlurmCluster, site: Path, tmp_path: Path
) -> None:
    done = submit(site, "--wait", "--nodes", "1", "--", "sh", "-c", "echo here; exit 7")
    assert done.exit_code == 7
    assert "failed on q1" in done.output
    assert said(tmp_path) == "here\n"


def test_more_nodes_than_there_are_is_explained(unplugged: SlurmCluster, site: Path) -> None:
    """Slurm takes such a job, and would let it wait for ever with a hold on the QPU."""
    done = submit(site, "--wait", "--nodes", "9", "--", "true")
    assert done.exit_code == 3
    assert re.search(r"job (\d+) waits for what cannot come .* scancel \1", done.output)


def test_without_a_plugin_the_allocation_says_which_slots_a_job_has(
    unplugged: SlurmCluster, tmp_path: Path
) -> None:
    """By GRES or by licence, on the node that has it; and none to a job that was given none."""
    site = tmp_path / "site.toml"
    site.write_text(SITE + LICENCE)
    show = f"{sys.executable} -m hybridflow slot show --json --site {site}"
    job = f"{show} --resource aer_a; srun --nodes=2 --het-group=1 {show} --resource cloud"
    held = ["--gres=qpu:aer_a:1", ":", "--partition=classical", "--nodes=2", "--licenses=cloud:1"]
    done = unplugged.run(["salloc", "--partition=qpu", *held, "sh", "-c", job], check=False)
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["resource"], each["origin"], each["slots"]) for each in shown] == [
        ("aer_a", "slurm", 1),
        ("cloud", "slurm", 1),
    ], done.stderr
    # The licence's slot is on the first node of its component alone.
    assert done.stderr.count("holds no slot of 'cloud' on this node: submit it with") == 1
    refused = unplugged.run(["srun", "sh", "-c", show], check=False)
    assert "submit it with --gres=qpu:aer_a:1, which is what a slot is" in refused.stderr


def test_the_site_file_that_we_ship_fits_a_cluster_with_the_plugin(
    on_cluster: SlurmCluster, tmp_path: Path
) -> None:
    """The same on Dask, with a slot that the plugin has granted."""
    shipped = tmp_path / "slurm.toml"
    shipped.symlink_to(ROOT / "configs" / "slurm.toml")
    check_places_and_cancel(shipped, tmp_path, "dask")
    until(lambda: not list(tmp_path.glob("hybridflow-dask-*")))


def check_places_and_cancel(
    site: Path, folder: Path, engine: str, meanwhile: Callable[[], None] | None = None
) -> None:
    found = folder / "places.json"
    done = submit(site, "--", sys.executable, str(NODES), engine, str(found))
    number = done.output.split()[1]
    check_places(found, number)
    if meanwhile is not None:
        meanwhile()
        found.unlink()
        check_places(found, number)
    # Each process of the job knows the site file, on the slot's node and on the others.
    assert len(processes_of(site)) > 5
    cancel(number)
    until(lambda: not processes_of(site))
    assert wait_for_end(number).state is SlurmState.CANCELLED


def check_places(found: Path, number: str) -> None:
    until(lambda: found.exists() or wait_is_over(number))
    assert found.exists(), said(found.parent)
    assert json.loads(found.read_text()) == PLACES


def wait_is_over(number: str) -> bool:
    return Watch([number]).look()[number].state.final


@pytest.mark.timeout(240)
def test_sqd_in_one_job_gives_the_energy_of_the_laptop(
    unplugged: SlurmCluster, site: Path, tmp_path: Path
) -> None:
    """The same workflow and seed, through the same command, on one machine and in a job."""
    run = ["run", "sqd", "--molecule", "h2", "--shots", "1000", "--iterations", "1", "--quiet"]
    done = submit(
        site,
        *("--", sys.executable, "-m", "hybridflow", *run),
        *("--engine", "parsl", "--output", "job"),
    )
    laptop = [*run, "--site", str(site), "--engine", "local", "--output", "laptop"]
    assert CliRunner().invoke(main, laptop, catch_exceptions=False).exit_code == 0
    number = done.output.split()[1]
    assert wait_for_end(number).state is SlurmState.COMPLETED, said(tmp_path)
    results = [json.loads(Path(name, "result.json").read_text()) for name in ("job", "laptop")]
    assert results[0]["energy_hartree"] == pytest.approx(results[1]["energy_hartree"], abs=1e-10)


# The last one on this cluster: `srun` now waits until slurmctld has heard of the nodes again.
def test_tasks_run_where_they_should_and_nothing_is_left_of_a_cancelled_job(
    unplugged: SlurmCluster, site: Path, tmp_path: Path
) -> None:
    """On Parsl, without a plugin, and over a restart of slurmctld in the middle of the run."""
    check_places_and_cancel(site, tmp_path, "parsl", meanwhile=unplugged.restart_controller)


# --- what a process sees of its job --------------------------------------------------------------


def test_outside_such_a_job_there_are_no_classical_nodes() -> None:
    assert current_allocation({}) is None
    assert current_allocation({"SLURM_JOB_ID": "3", "SLURM_JOB_NUM_NODES": "4"}) is None


def test_inside_such_a_job_they_are_component_1() -> None:
    here = current_allocation(
        {
            "SLURM_JOB_ID": "3",
            "SLURM_HET_SIZE": "2",
            "SLURM_JOB_NUM_NODES_HET_GROUP_1": "3",
            "SLURM_JOB_NODELIST_HET_GROUP_1": "c[1-3]",
            "SLURM_JOB_CPUS_PER_NODE_HET_GROUP_1": "8(x2),4",
        }
    )
    assert here is not None
    assert (here.job, here.node_list, here.nodes, here.cpus) == ("3", "c[1-3]", 3, 4)
    assert {"--het-group=1", "--nodes=3", "--ntasks=3", "--overlap"} <= set(here.srun())
    assert {"--nodes=1", "--relative=2"} <= set(here.srun(1, first=2))

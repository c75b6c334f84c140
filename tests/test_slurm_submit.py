"""``hybridflow submit``: one job with a QPU slot and classical nodes, on a real cluster."""

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hybridflow.cli import main
from hybridflow.errors import InputError, SiteError
from hybridflow.site import load_site
from hybridflow.slurm import coscheduled_job, current_allocation
from hybridflow.slurm.cluster import SlurmCluster

ROOT = Path(__file__).parent.parent
NODES = ROOT / "tests" / "slurm_nodes.py"
# Without a plugin, nobody but the site's own lines can say what the GRES stands for.
SITE = """
[qpu.aer_a]
backend = "aer"
tasks_per_slot = 1

[slurm]
walltime = "5"
setup = ["export QRMI_JOB_QPU_RESOURCES=aer_a QRMI_JOB_QPU_TYPES=aer"]

[slurm.quantum]
partition = "qpu"

[slurm.classical]
partition = "classical"
nodes = 2

[slurm.slots.aer_a]
qpu = false
gres = "qpu:aer_a:1"
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
export QRMI_JOB_QPU_RESOURCES=aer_a QRMI_JOB_QPU_TYPES=aer
export HYBRIDFLOW_SITE={site}
exec echo 'a b' --wait
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    return file


def submit(site: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["submit", "--site", str(site), *words])


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


def test_waiting_gives_the_status_of_the_command(
    on_cluster: SlurmCluster, site: Path, tmp_path: Path
) -> None:
    done = submit(site, "--wait", "--nodes", "1", "--", "sh", "-c", "echo here; exit 7")
    assert done.exit_code == 7
    assert "failed on q1" in done.output
    (output,) = tmp_path.glob("hybridflow-*.out")
    assert output.read_text() == "here\n"


def test_more_nodes_than_there_are_is_explained(on_cluster: SlurmCluster, site: Path) -> None:
    """Slurm takes such a job, and would let it wait for ever with a hold on the QPU."""
    done = submit(site, "--wait", "--nodes", "9", "--", "true")
    assert done.exit_code == 3
    assert re.search(r"job (\d+) waits for what cannot come .* scancel \1", done.output)


@pytest.mark.parametrize("engine", ["dask", "parsl"])
def test_quantum_tasks_run_in_the_slot_and_classical_ones_on_the_nodes(
    on_cluster: SlurmCluster, site: Path, tmp_path: Path, engine: str
) -> None:
    done = submit(site, "--wait", "--", sys.executable, str(NODES), engine)
    (output,) = tmp_path.glob("hybridflow-*.out")
    assert done.exit_code == 0, output.read_text()
    last = output.read_text().splitlines()[-1]
    assert json.loads(last) == {"quantum": {"node": "q1", "1": 5}, "classical": ["c1", "c2"]}
    assert not list(tmp_path.glob("hybridflow-dask-*"))


@pytest.mark.timeout(240)
def test_sqd_in_one_job_gives_the_energy_of_the_laptop(
    on_cluster: SlurmCluster, site: Path, tmp_path: Path
) -> None:
    """The same workflow and seed, through the same command, on one machine and in a job."""
    run = ["run", "sqd", "--molecule", "h2", "--shots", "1000", "--iterations", "1", "--quiet"]
    done = submit(
        site,
        *("--wait", "--", sys.executable, "-m", "hybridflow", *run),
        *("--engine", "parsl", "--output", "job"),
    )
    (output,) = tmp_path.glob("hybridflow-*.out")
    assert done.exit_code == 0, output.read_text()
    laptop = [*run, "--site", str(site), "--engine", "local", "--output", "laptop"]
    assert CliRunner().invoke(main, laptop, catch_exceptions=False).exit_code == 0
    results = [json.loads(Path(name, "result.json").read_text()) for name in ("job", "laptop")]
    assert results[0]["energy_hartree"] == pytest.approx(results[1]["energy_hartree"], abs=1e-10)


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

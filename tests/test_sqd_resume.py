"""``hybridflow run sqd --resume`` goes on with what was begun, and pays for no sample twice."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from family import eventually

from hybridflow.cli import main
from hybridflow.errors import InputError
from hybridflow.events import EventLog, RunStarted, VendorJobStarted, read_events
from hybridflow.records import JobState
from hybridflow.testing import QpuEmulator, qpu_emulator
from hybridflow_workflows.sqd import SQDParameters, resume_sqd, run_sqd
from hybridflow_workflows.sqd.earlier import earlier_run

H2 = SQDParameters(molecule="h2", basis="sto-3g", shots=200, iterations=1, optimize=False)


@pytest.fixture(scope="module")
def emulator() -> Iterator[QpuEmulator]:
    with qpu_emulator("qpu", seconds_per_job=0.01) as running:
        yield running


def test_a_run_that_goes_on_pays_for_no_sample(emulator: QpuEmulator, tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(emulator.site)
    folder = tmp_path / "run"
    first = run_sqd(H2, site=site, engine="local", workers=1, output=folder)
    (folder / "result.json").unlink()
    again = resume_sqd(folder, site=site, workers=1)
    assert len(emulator.log()) == 1
    assert (folder / "result.json").exists()
    assert (again.engine, again.parameters) == (first.engine, first.parameters)
    assert again.provenance["samples"] == first.provenance["samples"]
    assert again.energy_hartree == pytest.approx(first.energy_hartree)
    with pytest.raises(InputError, match="--resume"):
        run_sqd(H2, site=site, engine="local", output=folder)


def test_a_killed_driver_costs_no_sample(tmp_path: Path) -> None:
    """While its vendor job runs: the run that goes on gets that one's results."""
    folder, site = tmp_path / "run", tmp_path / "site.toml"
    with qpu_emulator("qpu", seconds_per_job=3.0) as emulator:
        site.write_text(emulator.site)
        words = "run sqd --molecule h2 --basis sto-3g --shots 200 --iterations 1 --no-optimize"
        options = f"--engine local --workers 1 --quiet --site {site} --output {folder}"
        command = [sys.executable, "-m", "hybridflow", *words.split(), *options.split()]
        with subprocess.Popen(command, start_new_session=True) as driver:
            eventually(lambda: vendor_jobs(folder), 60)
            driver.kill()
        result = resume_sqd(folder, site=site, workers=1)
        assert [execution.state for execution in emulator.log()] == [JobState.DONE]
    assert result.provenance["samples"]["vendor_job_id"] == vendor_jobs(folder)[0]
    eventually(lambda: not programs_of(site), 30)


def vendor_jobs(folder: Path) -> list[str]:
    """Return the ids of the vendor jobs that were started in a run."""
    events = read_events(folder)
    return [event.vendor_job_id for event in events if isinstance(event, VendorJobStarted)]


def programs_of(site: Path) -> list[int]:
    """Return the processes that still know a site file."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and str(site) in words:
                found.append(process.pid)
    return found


def begun(folder: Path, pid: int) -> None:
    """Write what a driver that was killed has left."""
    log = EventLog(folder)
    log.emit(
        RunStarted(workflow="sqd", engine="dask", resource="qpu", arguments={"molecule": "h2"})
    )
    log.close()
    (file,) = folder.glob("events-*")
    file.rename(folder / f"events-{os.uname().nodename}-{pid}.jsonl")


def test_it_has_the_parameters_and_the_engine_of_before(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    begun(tmp_path, ended.pid)
    run = earlier_run(tmp_path)
    assert run.parameters == SQDParameters(molecule="h2")
    assert run.engine == "dask"


def test_a_run_that_still_goes_on_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as leader:
        begun(tmp_path, leader.pid)
        with pytest.raises(InputError, match=f"process {leader.pid}"):
            earlier_run(tmp_path)
        leader.kill()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run of sqd"):
        earlier_run(tmp_path)


def test_other_options_make_no_sense_with_it(tmp_path: Path) -> None:
    words = ["run", "sqd", "--resume", str(tmp_path), "--shots", "5", "--molecule", "h2"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "leave out --shots, --molecule" in done.output

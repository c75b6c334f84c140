"""The doctor: each silent failure of interop.md is found, named, and comes with its cure."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybridflow.cli import main
from hybridflow.doctor import CHECKS, Finding, Level, Surroundings, examine
from hybridflow.errors import SlurmError
from hybridflow.slot import Origin, Slot, write_slots
from hybridflow.slurm.cluster import SlurmCluster

SITE = """
[qpu.aer_a]
backend = "aer"
[qpu.cloud]
backend = "fake"
[slurm]
"""
JOB = {"SLURM_JOB_ID": "42", "SLURM_JOB_END_TIME": "4000000000"}
REQUESTED = "SLURM_SPANK__SLURM_SPANK_OPTION_spank_qrmi_qpu"
RESOURCES = "QRMI_JOB_QPU_RESOURCES"
KEY = "QRMI_IBM_QCS_IAM_APIKEY"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    return file


class Slurm:
    """Slurm as the doctor sees it: what each command prints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ping = "Slurmctld(primary) at host is UP"
        self.help = "Options provided by plugins:\n      --qpu=name[,name]\n"
        self.filter = "cli_filter/lua"
        self.node = "NodeName=q1 Gres=qpu:aer_a:1 State=IDLE\nNodeName=c1 Gres=(null) State=IDLE\n"
        self.license = "LicenseName=cloud Total=2 Used=0\n"
        self.job = "JobId=42 JOB_GRES=qpu:aer_a:1 Licenses=(null)\n"
        (folder / "cli_filter.lua").write_text("-- gives --qpu its effect on the scheduler\n")
        (folder / "plugstack.conf").write_text("")

    def ask(self, program: str, *arguments: str) -> str:
        match [program, *(word for word in arguments if not word.startswith("--"))]:
            case ["scontrol", "ping"]:
                return self.ping
            case ["scontrol", "show", "config"]:
                return (
                    f"SLURM_VERSION           = 22.05.8\nSLURM_CONF = {self.folder}/answers.conf\n"
                    f"CliFilterPlugins        = {self.filter}\n"
                    f"PlugStackConfig         = {self.folder}/plugstack.conf\n"
                )
            case ["scontrol", "show", "node"]:
                return self.node
            case ["scontrol", "show", "licenses"]:
                return self.license
            case ["scontrol", "show", "job", "42"]:
                return self.job
            case ["srun"]:
                return self.help
        raise SlurmError(f"`{program} {' '.join(arguments)}` is not known here")


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    monkeypatch.setattr(Surroundings, "missing_commands", [])
    return Slurm(tmp_path)


def look(
    site: Path | None, answers: Slurm | None = None, **environ: str
) -> dict[str, list[Finding]]:
    """Return what was found, by check."""
    variables = {"PATH": "/nonexistent", **environ}
    file = str(site) if site else None
    surroundings = (
        Surroundings(variables, file, answers.ask) if answers else Surroundings(variables, file)
    )
    found: dict[str, list[Finding]] = {}
    for finding in examine(surroundings):
        found.setdefault(finding.check, []).append(finding)
    return found


def levels(found: Mapping[str, list[Finding]], *, of: str) -> list[Level]:
    return [finding.level for finding in found.get(of, [])]


def only(found: Mapping[str, list[Finding]], check: str, level: Level = Level.PROBLEM) -> Finding:
    """Return the one finding of a level that a check has made; it says where, and what to do."""
    (finding,) = [one for one in found[check] if one.level is level]
    assert finding.where
    assert finding.cure
    return finding


# --- all is well ---------------------------------------------------------------------------------


def test_a_laptop_needs_no_slurm() -> None:
    found = look(None)
    assert {one.level for findings in found.values() for one in findings} == {Level.OK}


def test_a_healthy_job(site: Path, answers: Slurm) -> None:
    job = {
        **JOB,
        RESOURCES: "aer_a",
        "QRMI_JOB_QPU_TYPES": "aer",
        REQUESTED: "aer_a",
        "aer_a_QRMI_JOB_QPU_SLOTS": "1",
        "aer_a_QRMI_JOB_ACQUISITION_TOKEN": "t0ken",
    }
    found = look(site, answers, **job)
    wrong = [one for findings in found.values() for one in findings if one.level is not Level.OK]
    assert not wrong
    assert "t0ken" not in str(found)


def test_every_check_has_a_name_of_its_own_and_says_what_it_looks_for() -> None:
    names = [check.__name__ for check in CHECKS]
    assert len(set(names)) == len(names)
    assert all(check.__doc__ and check.__doc__.startswith("Whether ") for check in CHECKS)


# --- the job: interop.md, what goes wrong in silence ---------------------------------------------


@pytest.mark.parametrize("variable", [REQUESTED, "SLURM_SPANK__SLURM_SPANK_OPTION_hybridflow_qpu"])
@pytest.mark.parametrize("acquired", [{}, {RESOURCES: ""}])
def test_asked_for_and_nothing_acquired(
    site: Path, variable: str, acquired: dict[str, str]
) -> None:
    found = look(site, **JOB, **acquired, **{variable: "aer_a"}, SLURM_HET_SIZE="2")
    said = only(found, "requested_resources")
    for words in ("srun --qpu", "salloc --qpu", "heterogeneous, with 2 components"):
        assert words in said.text
    assert "sbatch --gres=qpu:1 --qpu=aer_a" in said.cure


def test_partial_acquisition(site: Path) -> None:
    found = look(site, **JOB, **{RESOURCES: "aer_a", REQUESTED: "aer_a,dead", f"dead_{KEY}": "s3c"})
    assert "only aer_a was acquired" in only(found, "requested_resources").text
    assert "credentials of dead are here" in only(found, "credentials").text
    assert "s3c" not in str(found)


def test_a_job_without_a_qpu(site: Path) -> None:
    assert "holds no QPU" in only(look(site, **JOB), "acquired_resources", Level.HINT).text


def test_acquired_but_unknown_to_the_site(site: Path) -> None:
    found = look(site, **JOB, **{RESOURCES: "foreign"})
    assert "[qpu.foreign]" in only(found, "acquired_resources").cure


def test_lists_that_contradict(site: Path) -> None:
    lists = {RESOURCES: "aer_a", "QRMI_JOB_QPU_TYPES": "aer,aer"}
    found = look(site, **JOB, **lists, **{REQUESTED: "aer_a"})
    assert "1 resources" in only(found, "acquired_resources").text
    assert "requested_resources" not in found


@pytest.mark.parametrize(
    ("kind", "level"), [("iqm-server", Level.PROBLEM), ("emulator", Level.HINT)]
)
def test_types_that_do_not_match(site: Path, kind: str, level: Level) -> None:
    found = look(site, **JOB, **{RESOURCES: "aer_a", "QRMI_JOB_QPU_TYPES": kind})
    assert kind in only(found, "types", level).text


def test_names_that_dash_drops(site: Path) -> None:
    site.write_text(SITE + '[qpu."ibm-fez.1"]\nbackend = "fake"\n')
    found = look(site, **JOB, **{RESOURCES: "ibm-fez.1"})
    assert "#!/bin/bash" in only(found, "lost_variables").cure
    assert "ibm-fez.1" in only(found, "resource_names", Level.HINT).text
    kept = look(site, **JOB, **{RESOURCES: "ibm-fez.1", "ibm-fez.1_QRMI_JOB_QPU_SLOTS": "1"})
    assert "lost_variables" not in kept


def test_acquired_without_the_scheduler(site: Path, answers: Slurm) -> None:
    answers.job = "JobId=42 JOB_GRES=qpu:aer_ab:1 Licenses=(null) TresPerNode=(null)\n"
    found = look(site, answers, **JOB, **{RESOURCES: "aer_a"})
    assert "--gres=qpu:aer_a:1" in only(found, "job_allocation").cure


@pytest.mark.parametrize("said", ["TRES=gres/qpu:cloud=1", "Licenses=x:1,cloud:1", "qpu:cloud:2"])
def test_acquired_with_the_scheduler(site: Path, answers: Slurm, said: str) -> None:
    answers.job = f"JobId=42 {said}\n"
    found = look(site, answers, **JOB, **{RESOURCES: "cloud"})
    assert levels(found, of="job_allocation") == [Level.OK]


def test_the_end_of_the_job(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ends in" in look(site, **JOB)["job_end"][0].text
    monkeypatch.setenv("PATH", "/nonexistent")
    unknown = look(site, SLURM_JOB_ID="42")
    assert "not known" in only(unknown, "job_end", Level.HINT).text


# --- credentials ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "level"), [({}, Level.HINT), ({"HYBRIDFLOW_ROLE": "classical"}, Level.PROBLEM)]
)
def test_credentials_in_the_environment(site: Path, where: dict[str, str], level: Level) -> None:
    found = look(site, **JOB, **where, **{RESOURCES: "aer_a", f"aer_a_{KEY}": "s3cr3t"})
    assert f"aer_a_{KEY}" in only(found, "credentials", level).where
    assert "s3cr3t" not in str(found)


def test_the_credentials_file(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    environ = {"HYBRIDFLOW_CREDENTIALS": str(file)}
    gone = look(site, **environ)
    assert "was taken" in only(gone, "credentials_file", Level.HINT).text
    file.touch(mode=0o600)
    assert levels(look(site, **environ), of="credentials_file") == [Level.OK]
    file.chmod(0o644)
    assert "mode 0644" in only(look(site, **environ), "credentials_file").text
    assert file.exists()


# --- the site and places -------------------------------------------------------------------------


def test_a_wrong_site_file(site: Path, tmp_path: Path) -> None:
    site.write_text('[qpu.a]\nbackend = "no-such"\n')
    assert "no-such" in only(look(site), "site_file").text
    gone = str(tmp_path / "gone.toml")
    assert "cannot be read" in only(look(None, HYBRIDFLOW_SITE=gone), "site_file").text


def test_no_site_file_in_a_job() -> None:
    assert "laptop" in only(look(None, **JOB), "site_file", Level.HINT).text


def test_a_backend_without_its_package(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridflow.doctor.site._is_installed", lambda name: name != "qiskit-aer")
    said = only(look(site), "backends")
    assert "qiskit-aer" in said.text
    assert said.cure == "pip install 'hybridflow[aer]'"


def test_a_device_that_does_not_exist(site: Path) -> None:
    site.write_text('[qpu.a]\nbackend = "aer"\ndevice = "no_such_device"\n')
    assert "no_such_device" in only(look(site), "backends").text


def test_a_device_whose_credentials_only_slots_have(site: Path) -> None:
    site.write_text('[qpu.fez]\nbackend = "ibm_runtime"\n')
    finding = only(look(site), "backends", Level.HINT)
    assert "there are no credentials for 'fez'" in finding.text
    wrong = {"fez_QRMI_IBM_QCS_IAM_APIKEY": "a-key-without-an-instance"}
    finding = only(look(site, **wrong), "backends")
    assert "set `qpu.fez.instance`" in finding.text


def test_tmpdir_points_nowhere(site: Path, tmp_path: Path) -> None:
    found = look(site, TMPDIR=str(tmp_path / "gone"))
    assert "another one" in only(found, "temporary_folder").text


def test_a_name_too_long_for_a_socket(site: Path) -> None:
    site.write_text(f'[qpu.{"n" * 100}]\nbackend = "fake"\n')
    assert "107 bytes" in only(look(site), "socket_paths").text


def test_variables_of_ours(site: Path, tmp_path: Path) -> None:
    environ = {
        "HYBRIDFLOW_SIET": "x",
        "HYBRIDFLOW_BROKER": str(tmp_path / "gone"),
        "HYBRIDFLOW_RUN": str(site),
        "HYBRIDFLOW_ROLE": "cook",
    }
    found = look(site, **environ)
    said = [one.text for one in found["variables"]]
    assert levels(found, of="variables") == [Level.HINT, *[Level.PROBLEM] * 3]
    for words in ("HYBRIDFLOW_SITE?", "no slot's folder", "run's folder", "'cook'"):
        assert words in " ".join(said)


def test_inside_a_slot(site: Path, tmp_path: Path) -> None:
    slot = Slot(resource="aer_a", backend="aer", origin=Origin.SITE, folder=str(tmp_path))
    write_slots([slot], tmp_path)
    found = look(site, HYBRIDFLOW_BROKER=str(tmp_path))
    assert "in a slot of aer_a" in found["variables"][0].text


# --- Slurm ---------------------------------------------------------------------------------------


def test_no_commands_of_slurm(site: Path) -> None:
    assert "sbatch, scontrol, squeue, srun" in only(look(site), "controller").text


def test_slurm_is_away(site: Path, answers: Slurm) -> None:
    answers.ping = "Slurmctld(primary) at host is DOWN"
    found = look(site, answers)
    assert "DOWN" in only(found, "controller").text
    assert not {"plugin", "cli_filter", "slots"} & found.keys()


def test_what_slurm_lacks(site: Path, answers: Slurm) -> None:
    answers.help, answers.filter, answers.node = (
        "",
        "(null)",
        "NodeName=c1 Gres=qpu:aer_ab:1 State=IDLE",
    )
    found = look(site, answers)
    assert "plugstack.conf" in only(found, "plugin").where
    assert "two jobs can get one QPU" in only(found, "cli_filter").text
    assert "Gres=qpu:aer_a:1" in only(found, "slots").cure


def test_a_filter_without_its_script(site: Path, answers: Slurm) -> None:
    script = answers.folder / "cli_filter.lua"
    script.write_text("return slurm.SUCCESS")
    assert "says nothing of QPUs" in only(look(site, answers), "cli_filter").text
    script.unlink()
    assert "cli_filter.lua is not there" in only(look(site, answers), "cli_filter").text


def test_a_site_that_asks_for_slots_itself_needs_no_filter(site: Path, answers: Slurm) -> None:
    answers.filter = "(null)"
    site.write_text(
        f'{SITE}[slurm.slots.aer_a]\ngres = "qpu:aer_a:1"\n'
        '[slurm.slots.cloud]\nlicenses = "cloud:1"\n'
    )
    only(look(site, answers), "cli_filter", Level.HINT)


def test_the_node_of_the_qpu_is_down(site: Path, answers: Slurm) -> None:
    answers.node = "NodeName=q1 Gres=qpu:aer_a:1 State=DOWN*\n"
    assert "q1" in only(look(site, answers), "slots").text


def test_slurm_that_stops_answering(site: Path, answers: Slurm) -> None:
    known = answers.ask
    answers.ask = lambda program, *words: (  # type: ignore[method-assign]
        known(program, *words) if "node" not in words else known("away")
    )
    assert "did not answer" in only(look(site, answers), "slots").text


# --- definitions ---------------------------------------------------------------------------------


def defined(
    answers: Slurm, *entries: object, plugin: str = "hybridflow", mode: int = 0o600
) -> Path:
    file = answers.folder / "qpus.json"
    file.write_text(json.dumps({"resources": entries}))
    file.chmod(mode)
    names = answers.folder / "qpus.names"
    names.write_text("# a remark\n\naer_a gres\ncloud license\n")
    named = f"definitions={file} names={names}" if plugin == "hybridflow" else str(file)
    included = answers.folder / "included.conf"
    included.write_text(f"required spank_{plugin}.so {named} # a remark\n")
    stack = answers.folder / "plugstack.conf"
    stack.write_text(f"# a remark\ninclude {stack}\ninclude {included}\n")
    return file


GOOD = {"name": "aer_a", "type": "aer", "environment": {}, "allocation": "gres"}


def test_good_definitions(site: Path, answers: Slurm) -> None:
    defined(answers, GOOD)
    assert set(levels(look(site, answers), of="definitions")) == {Level.OK}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"name": "a", "type": "aeer"}], "'aeer'"),
        ([GOOD, GOOD, GOOD], "defined 3 times"),
        (["s3cr3t"], "broken"),
    ],
)
def test_bad_definitions(site: Path, answers: Slurm, entries: list[object], words: str) -> None:
    defined(answers, *entries)
    found = [one for one in look(site, answers)["definitions"] if one.level is Level.PROBLEM]
    assert words in found[0].text
    assert "s3cr3t" not in str(found)


def test_the_reference_plugin_does_not_know_our_types(site: Path, answers: Slurm) -> None:
    defined(answers, GOOD, plugin="qrmi")
    assert "refuses the whole file" in str(look(site, answers)["definitions"])


def test_definitions_with_keys_that_nobody_reads(site: Path, answers: Slurm) -> None:
    defined(answers, {**GOOD, "enviroment": {}})
    assert "enviroment" in only(look(site, answers), "definitions", Level.HINT).text


def test_definitions_that_others_can_read(site: Path, answers: Slurm) -> None:
    defined(answers, GOOD, mode=0o644)
    assert "0644" in str(look(site, answers)["definitions"])


def test_the_list_of_names(site: Path, answers: Slurm) -> None:
    file = defined(answers, GOOD).with_name("qpus.names")
    assert "names" not in look(site, answers)
    file.write_text("aer_a gres\n")
    assert "does not have cloud" in only(look(site, answers), "names", Level.HINT).text
    file.unlink()
    assert "cannot be read" in only(look(site, answers), "names").text


def test_definitions_that_are_not_there(site: Path, answers: Slurm) -> None:
    defined(answers, GOOD).unlink()
    assert "cannot be read" in only(look(site, answers), "definitions").text


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_what_is_wrong_and_what_to_do(site: Path) -> None:
    shown = CliRunner().invoke(main, ["doctor", "--site", str(site)], env={"PATH": "/nonexistent"})
    assert shown.exit_code == 2
    assert "problem  Slurm cannot be asked" in shown.output
    assert "         do: put Slurm's commands into PATH" in shown.output
    assert shown.output.endswith("1 problem, 0 hints\n")
    assert "\x1b" not in shown.output


def test_the_command_s_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("TMPDIR", raising=False)
    shown = CliRunner().invoke(main, ["doctor", "--json"])
    said = json.loads(shown.output)
    assert (shown.exit_code, said["problems"]) == (0, 0)
    assert {"level", "text", "where", "cure", "check"} == said["findings"][0].keys()


# --- the real Slurm ------------------------------------------------------------------------------


HYBRIDFLOW = [sys.executable, "-m", "hybridflow"]


def doctor(slurm: SlurmCluster, site: Path, *launch: str) -> dict[str, list[str]]:
    """Run the doctor in a job; return the levels of its findings, by check."""
    command = [*launch, *HYBRIDFLOW, "doctor", "--site", str(site), "--json"]
    found: dict[str, list[str]] = {}
    for finding in json.loads(slurm.run(command, check=False).stdout)["findings"]:
        found.setdefault(finding["check"], []).append(finding["level"])
    return found


def test_a_job_on_the_real_slurm(slurm: SlurmCluster, site: Path) -> None:
    found = doctor(slurm, site, "srun", "--qpu=aer_a", "--time=5")
    assert {level for levels in found.values() for level in levels} == {"ok"}
    for check in ("controller", "plugin", "acquired_resources", "job_allocation", "job_end"):
        assert found[check] == ["ok"], check
    assert found["slots"] == ["ok", "ok"]  # a GRES and a licence


def test_a_job_that_claims_more_than_it_holds(slurm: SlurmCluster, site: Path) -> None:
    # Said in the step: what was said before, the plugin has removed.
    claim = ["env", f"{RESOURCES}=cloud,aer_a", "QRMI_JOB_QPU_TYPES=fake,aer"]
    found = doctor(slurm, site, "srun", "--licenses=cloud:1", *claim)
    assert found["job_allocation"] == ["problem"]
    assert found["job_end"] == ["ok"]  # without a limit


def test_the_door_knows_when_a_job_ends(slurm: SlurmCluster, site: Path) -> None:
    show = [*HYBRIDFLOW, "slot", "run", "--site", str(site), "--", *HYBRIDFLOW, "slot", "show"]
    began = time.time()
    shown = json.loads(slurm.run(["srun", "--qpu=cloud", "--time=5", *show, "--json"]).stdout)
    assert shown["inside"]
    assert began + 295 <= shown["deadline"] <= time.time() + 300

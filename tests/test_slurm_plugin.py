"""The SPANK plugin on a real cluster: who gets a slot, who does not, and what is left behind."""

import json
import os
import pwd
import re
import subprocess
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from users import python_of
from waiting import until

from hybridflow.errors import InputError, MissingProgramError
from hybridflow.slurm.cluster import SlurmCluster
from hybridflow.slurm.spank import build, configure, slots

KEY = f"sesame-{os.getpid()}-{time.monotonic_ns()}"
FAKE_QRMI = '''
"""A vendor for tests: what it is asked stands in a file, which the endpoint names."""
import time
class ResourceType:
    IQMServer = "iqm-server"
class QuantumResource:
    @classmethod
    def from_config(cls, name, kind, values):
        self = cls()
        self.name, self.values = name, values
        return self
    def _say(self, what):
        with open(self.values["QRMI_IQM_ISA_ENDPOINT"], "a") as file:
            print(what, self.name, file=file)
    def acquire(self):
        print("LD_PRELOAD=what a package prints is no variable", flush=True)
        if self.name == "dead":
            raise RuntimeError("offline, key " + self.values["QRMI_IQM_ISA_TOKEN"])
        while self.name == "slow":
            time.sleep(1)
        self._say("acquire")
        return "token-of-the-vendor"
    def release(self, token):
        self._say("release " + token)
'''
ODD_ENVIRONMENT = r"""
#include <slurm/slurm.h>
#include <unistd.h>
int main(int count, char **words)
{
    char *environment[] = {"PATH=/usr/bin:/bin", "QRMI_JOB_ID", "QRMI_JOB_UID=0"};
    submit_response_msg_t *answer;
    job_desc_msg_t job;
    slurm_init(NULL);
    slurm_init_job_desc_msg(&job);
    job.environment = environment, job.env_size = 3, job.work_dir = "/", job.min_nodes = 1;
    job.user_id = getuid(), job.group_id = getgid(), job.std_out = words[count - 1];
    job.script = "#!/bin/sh\nenv | grep QRMI_JOB_UID\necho reached\n";
    return slurm_submit_batch_job(&job, &answer);
}
"""
QPUS = {"aer_a": 1, "aer_b": 2, "vendor": 1, "dead": 1, "slow": 1}


@dataclass
class Site:
    cluster: SlurmCluster
    definitions: Path
    vendor_log: Path
    tmp: Path

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"cwd": "/", "check": False, "timeout": 40, **options}
        return self.cluster.run(list(command), **options)

    def batch(self, script: str, *options: str, **more: Any) -> tuple[int, str]:
        """Run a batch job to its end: its exit status and all that it printed."""
        output = self.tmp / f"{time.monotonic_ns()}.out"
        done = self.run(
            *("sbatch", "--parsable", f"--output={output}", *options, "--wrap", script), **more
        )
        status = self.ended(done)
        return status, (output.read_text() if output.exists() else "") + done.stderr

    def ended(self, submission: subprocess.CompletedProcess[str]) -> int:
        """Wait for a job, more closely than `sbatch --wait`; return 0 if it has completed."""
        if submission.returncode:
            return submission.returncode
        job = submission.stdout.strip()
        until(lambda: self.state(job).split()[0] not in ("PENDING", "RUNNING", "COMPLETING"))
        return 0 if self.state(job).startswith("COMPLETED") else 1

    def submit(self, script: str, *options: str) -> str:
        words = ["sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", script]
        return self.cluster.run(words, cwd="/").stdout.strip()

    def state(self, job: str) -> str:
        words = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T %r"]
        return self.run(*words).stdout.strip()

    def assert_nothing_drained(self) -> None:
        nodes = self.run("sinfo", "--noheader", "--Node", "--format=%N %T %E").stdout
        assert not re.search("drain|down", nodes), nodes

    def kept(self) -> list[Path]:
        """Return what jobs have left on the nodes."""
        places = [self.cluster.folder / name for name in ("slots", "grants")]
        return [file for place in places for file in place.rglob("*.json")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    tmp = tmp_path_factory.mktemp("plugin")
    log = tmp / "vendor.log"
    vendor = {"QRMI_IQM_ISA_ENDPOINT": str(log), "QRMI_IQM_ISA_TOKEN": KEY}
    definitions = tmp / "qpus.json"
    definitions.touch(mode=0o600)
    resources = [
        {"name": "aer_a", "type": "aer", "environment": {"QRMI_AER_KEY": KEY}},
        {"name": "aer_b", "type": "aer", "environment": {"QRMI_AER_KEY": KEY}},
        *({"name": n, "type": "iqm-server", "environment": vendor} for n in QPUS if "_" not in n),
        {"name": "cloud", "type": "emulator", "allocation": "license"},
    ]
    definitions.write_text(json.dumps({"resources": resources}))
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(
                SlurmCluster(
                    3, qpus=QPUS, licenses={"cloud": 2}, plugin=True, definitions=definitions
                )
            )
        except MissingProgramError as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(error))
        python = tmp / "venv" / "bin" / "python"
        venv.create(tmp / "venv", symlinks=True)
        (packages,) = (tmp / "venv" / "lib").glob("python*/site-packages")
        (packages / "qrmi.py").write_text(FAKE_QRMI)
        configure(
            cluster.folder / "etc",
            cluster.folder / "plugin" / "spank_hybridflow.so",
            definitions=definitions,
            state=cluster.folder / "slots",
            grants=cluster.folder / "grants",
            python=python,
            timeout_seconds=5,
        )
        yield Site(cluster, definitions, log, tmp)


def variables(text: str) -> dict[str, str]:
    pairs = [line.partition("=") for line in text.splitlines()]
    return {name: value for name, _, value in pairs if "QPU" in name or "QRMI" in name}


# --- who gets a slot ------------------------------------------------------------------------------


def test_a_batch_job_sees_what_it_has_acquired(site: Site) -> None:
    """Names, types and tokens as the contract says; the same in its steps."""
    status, text = site.batch("env; srun sh -c 'env | sed s/^/step:/'", "--qpu=aer_b,aer_a", "-t5")
    assert status == 0, text
    seen = variables(text)
    tokens = {seen.pop(f"{name}_QRMI_JOB_ACQUISITION_TOKEN") for name in ("aer_a", "aer_b")}
    assert len(tokens) == 2
    step = {f"step:{name}": value for name, value in seen.items() if not name.startswith("step:")}
    assert step.items() <= seen.items()
    assert {name: value for name, value in seen.items() if not name.startswith("step:")} == {
        "QRMI_JOB_QPU_RESOURCES": "aer_b,aer_a",
        "QRMI_JOB_QPU_TYPES": "aer,aer",
        "SLURM_JOB_QPU_RESOURCES": "aer_b,aer_a",
        "SLURM_JOB_QPU_TYPES": "aer,aer",
        "QRMI_LIST_DELIMITER": ",",
        "QRMI_JOB_ID": seen["QRMI_JOB_ID"],
        "QRMI_JOB_UID": str(os.geteuid()),
        **{f"{name}_QRMI_JOB_QPU_SLOTS": "1" for name in ("aer_a", "aer_b")},
        **{f"{name}_QRMI_JOB_TIMEOUT_SECONDS": "300" for name in ("aer_a", "aer_b")},
    }
    until(lambda: not site.kept())


@pytest.mark.parametrize(
    ("request_", "slots_held"),
    [("--gres=qpu:aer_b:2", "2"), ("--gres=qpu:aer_b:1", "1")],
)
def test_a_gres_without_the_option_is_a_slot(site: Site, request_: str, slots_held: str) -> None:
    done = site.run("srun", request_, "env")
    seen = variables(done.stdout)
    assert seen["QRMI_JOB_QPU_RESOURCES"] == "aer_b", done.stderr
    assert seen["aer_b_QRMI_JOB_QPU_SLOTS"] == slots_held


def test_a_license_is_a_slot_on_any_node(site: Site) -> None:
    done = site.run("srun", "--partition=classical", "--qpu=cloud", "env")
    assert variables(done.stdout)["QRMI_JOB_QPU_TYPES"] == "emulator", done.stderr


def test_steps_of_an_interactive_allocation_have_the_slot(site: Site) -> None:
    """The shell itself has none, and is told so; a job submitted from it asks for nothing."""
    inner = (
        "echo shell=$QRMI_JOB_QPU_RESOURCES; srun sh -c 'echo step=$QRMI_JOB_QPU_RESOURCES';"
        "sbatch --wait -o /dev/null -p classical --wrap '! env | grep QRMI_JOB' && echo nested"
    )
    done = site.run("salloc", "--qpu=aer_a", "sh", "-c", inner)
    assert {"shell=", "step=aer_a", "nested"} <= set(done.stdout.splitlines()), done.stderr
    assert "this shell has no QPU slot" in done.stderr


def test_a_later_component_of_a_heterogeneous_job_has_the_slot(site: Site) -> None:
    """That component's node alone, also in a step that spans all components."""
    output, script = site.tmp / "het.out", site.tmp / "het.sh"
    script.write_text(
        "#!/bin/sh\n#SBATCH -p classical\n#SBATCH hetjob\n#SBATCH --qpu=aer_b,aer_a\n"
        "#SBATCH hetjob\n#SBATCH -p classical\n"
        "srun --het-group=0,1,2 sh -c 'echo $SLURMD_NODENAME=$QRMI_JOB_QPU_RESOURCES'\n"
    )
    done = site.run("sbatch", "--parsable", f"--output={output}", str(script))
    assert site.ended(done) == 0, done.stderr
    assert sorted(output.read_text().split()) == ["c1=", "c2=", "q1=aer_b,aer_a"]


def test_a_classical_job_has_nothing_even_if_its_submitter_had(site: Site) -> None:
    environment = {**os.environ, "QRMI_JOB_QPU_RESOURCES": "aer_a", "HYBRIDFLOW_CREDENTIALS": "/x"}
    done = site.run("srun", "--partition=classical", "env", env=environment)
    assert variables(done.stdout) == {}
    assert "HYBRIDFLOW_CREDENTIALS" not in done.stdout


# --- one at a time, and given back ----------------------------------------------------------------


def test_what_a_vendors_package_prints_reaches_no_job(site: Site) -> None:
    done = site.run("srun", "--qpu=vendor", "env")
    assert done.returncode == 0, done.stderr
    assert "LD_PRELOAD" not in done.stdout + done.stderr
    until(lambda: not site.kept())


def test_a_second_job_waits_and_a_cancelled_one_gives_back(site: Site) -> None:
    """The vendor sees acquire and release by turns, whatever ends the job."""
    site.vendor_log.unlink(missing_ok=True)
    first = site.submit("sleep 100", "--qpu=vendor")
    until(lambda: site.vendor_log.exists())
    second = site.submit("true", "--qpu=vendor")
    third = site.submit("true", "--gres=qpu:vendor:1")
    until(lambda: site.state(second) == "PENDING Resources")
    site.run("scancel", first)
    until(lambda: all(site.state(job).startswith("COMPLETED") for job in (second, third)))
    acquired, released = "acquire vendor", "release token-of-the-vendor vendor"
    until(lambda: site.vendor_log.read_text().splitlines() == [acquired, released] * 3)
    until(lambda: not site.kept())


def test_what_a_dead_nodes_job_had_is_given_back(site: Site) -> None:
    """By slurmctld, since the node cannot; a job that ends on a living node is left to that."""
    site.vendor_log.unlink(missing_ok=True)
    job = site.submit("sleep 100", "--qpu=vendor", "--no-requeue")
    until(lambda: site.state(job).startswith("RUNNING") and site.vendor_log.exists())
    until(lambda: len(site.kept()) > 1)  # what it acquired, and its credentials
    site.cluster.kill_node("q1")
    assert site.vendor_log.read_text().splitlines() == ["acquire vendor"]
    site.run("scontrol", "update", "nodename=q1", "state=down", "reason=test")
    released = ["acquire vendor", "release token-of-the-vendor vendor"]
    until(lambda: site.vendor_log.read_text().splitlines() == released)
    until(lambda: site.state(job).startswith("NODE_FAIL"))
    site.cluster.start_node("q1")
    assert site.run("srun", "--qpu=vendor", "true").returncode == 0
    until(lambda: site.vendor_log.read_text().splitlines() == released * 2)


# --- who gets none --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["srun", "salloc", "sbatch"])
def test_an_unknown_name_is_refused_at_submission(site: Site, command: str) -> None:
    script = ["--wrap=true"] if command == "sbatch" else ["true"]
    done = site.run(command, "--qpu=nope", *script)
    assert done.returncode != 0
    assert 'no QPU "nope"; known are: aer_a, aer_b, vendor, dead, slow, cloud' in done.stderr


@pytest.mark.parametrize("text", ["", "aer_a,", "aer_a, aer_b", "aer_a;aer_b"])
def test_a_malformed_list_is_refused_at_submission(site: Site, text: str) -> None:
    done = site.run("srun", f"--qpu={text}", "true")
    assert done.returncode != 0
    assert "is no list of names: write --qpu=NAME[,NAME] without blanks" in done.stderr


def test_the_option_alone_grants_nothing(site: Site) -> None:
    """Who goes round the command-line filter gets a clear failure, and no slot."""
    done = without(site, "CliFilterPlugins", ["srun", "--qpu=aer_a", "echo", "reached"])
    assert done.returncode != 0
    assert "the job's allocation holds no slot of aer_a" in done.stderr
    assert "reached" not in done.stdout
    site.assert_nothing_drained()


def test_what_a_user_writes_into_the_options_variable_forges_nothing(site: Site) -> None:
    """It is read on the node, where nobody has checked it: it cannot pose as an allocation."""
    output = site.tmp / "forged.out"
    done = without(
        site,
        "PlugStackConfig|CliFilterPlugins",
        ["sbatch", "--parsable", "-p", "qpu", f"--output={output}", "--wrap", "echo reached"],
        _SLURM_SPANK_OPTION_hybridflow_qpu="x\ngres x\ngres-here qpu:aer_b(CNT:1)",
    )
    assert site.ended(done) != 0
    assert "the job's allocation holds no slot of x_gres_x" in output.read_text()
    site.assert_nothing_drained()


@pytest.mark.parametrize("request_", ["cloud:0", "cloud:", "cloud: 0", "cloud:4294967296"])
def test_a_licence_that_slurm_takes_for_none_is_no_slot(site: Site, request_: str) -> None:
    """Slurm starts such a job without a licence, and repeats the user's words as what it holds."""
    done = site.run("srun", "--partition=classical", f"--licenses={request_}", "env")
    assert done.returncode == 0, done.stderr
    assert variables(done.stdout) == {}


def test_an_environment_of_what_is_no_variable_does_not_hang_the_step(site: Site) -> None:
    """Slurm's own commands never send such a thing, but its library does."""
    source, program, output = (site.tmp / name for name in ("odd.c", "odd", "odd.out"))
    source.write_text(ODD_ENVIRONMENT)
    subprocess.run(["cc", "-o", program, source, "-lslurm"], check=True, timeout=30)
    assert site.run(str(program), str(output)).returncode == 0
    until(lambda: output.exists() and output.read_text() == "reached\n")
    site.assert_nothing_drained()


def without(
    site: Site, settings: str, command: list[str], **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with a slurm.conf of the user's own, from which settings are missing."""
    etc = site.cluster.folder / "etc"
    lines = (etc / "slurm.conf").read_text().splitlines()
    kept = [line for line in lines if not re.match(settings, line)]
    (etc / "own").mkdir(exist_ok=True)
    (etc / "own" / "slurm.conf").write_text("\n".join([*kept, ""]))
    # Not by way of Site.run: the cluster's own variable wins there.
    environment = {**os.environ, **variables, "SLURM_CONF": str(etc / "own" / "slurm.conf")}
    return subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0o644, "others may read or change them"),
        ("{", 0o600, "not valid JSON"),
        ('{"resources": [{"name": "aer_a", "type": "abacus"}]}', 0o600, "`type` must be one of"),
        ('{"resources": []}', 0o600, "which no QPU definition describes"),
    ],
)
def test_bad_definitions_fail_the_job_and_not_the_node(
    site: Site, content: str | None, mode: int, reason: str
) -> None:
    right = site.definitions.read_text()
    try:
        site.definitions.write_text(content or right)
        site.definitions.chmod(mode)
        status, text = site.batch("echo reached", "--qpu=aer_a")
    finally:
        site.definitions.write_text(right)
        site.definitions.chmod(0o600)
    assert status != 0
    assert reason in text
    assert KEY not in text
    assert "reached" not in text
    site.assert_nothing_drained()


def test_what_cannot_be_acquired_fails_the_job(site: Site) -> None:
    """The reason stands there without the key; what was acquired is given back."""
    status, text = site.batch("echo reached", "--qpu=aer_a,dead")
    assert status != 0
    assert "dead cannot be acquired: RuntimeError: offline, key ***" in text
    assert KEY not in text
    assert "reached" not in text
    site.assert_nothing_drained()
    until(lambda: not site.kept())


def test_a_part_is_enough_where_the_user_says_so(site: Site) -> None:
    status, text = site.batch(
        "echo has=$QRMI_JOB_QPU_RESOURCES", "--qpu=dead,aer_a", "--qpu-partial"
    )
    assert status == 0, text
    assert "has=aer_a" in text
    assert "dead cannot be acquired" in text


def test_a_vendor_that_hangs_does_not_hang_the_node(site: Site) -> None:
    status, text = site.batch("echo reached", "--qpu=slow")
    assert status != 0
    assert "slow cannot be acquired: the vendor gave no answer in time" in text
    site.assert_nothing_drained()


# --- credentials ----------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_credential_is_its_users_alone_and_in_no_environment(site: Site) -> None:
    """Read by the job's user, not by another; in no process's environment, argument or log."""
    user, other = (pwd.getpwnam(name) for name in ("daemon", "nobody"))
    script = "echo $HYBRIDFLOW_CREDENTIALS; read go; cat $HYBRIDFLOW_CREDENTIALS"
    with subprocess.Popen(
        ["srun", "--qpu=aer_a", "sh", "-c", script],
        env={**os.environ, **site.cluster.environ},
        cwd="/",
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as job:
        assert job.stdin is not None
        assert job.stdout is not None
        file = Path(job.stdout.readline().strip())
        seen, folder = file.stat(), file.parent.stat()
        assert (seen.st_uid, seen.st_mode & 0o777) == (user.pw_uid, 0o600)
        assert (folder.st_uid, folder.st_mode & 0o777) == (user.pw_uid, 0o700)
        reader = subprocess.run(
            ["cat", str(file)],
            user=other.pw_uid,
            group=other.pw_gid,
            extra_groups=[],
            capture_output=True,
            timeout=10,
        )
        assert reader.returncode != 0
        assert KEY.encode() not in reader.stdout
        assert not [path for path in Path("/proc").glob("[0-9]*/environ") if _holds(path)]
        assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if _holds(path)]
        text, _ = job.communicate("\n", timeout=20)
    assert json.loads(text) == {"aer_a": {"QRMI_AER_KEY": KEY}}
    until(lambda: not file.parent.exists())
    assert not [path for path in (site.cluster.folder / "log").iterdir() if _holds(path)]


def run_of(site: Site, user: str) -> Path:
    # Where all users can go: pytest's own folders are their maker's alone.
    return site.cluster.folder / "runs" / user


@contextmanager
def held_slot(site: Site, user: str, qpu: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a job of a user that is inside a slot, with a run folder, until its input ends."""
    *as_user, program, option = python_of(user)
    run = run_of(site, user)
    run.mkdir(parents=True)
    os.chown(run, pwd.getpwnam(user).pw_uid, -1)
    file = run.with_suffix(".toml")
    file.write_text(f'[qpu.{qpu}]\nbackend = "fake"')
    variables = {**site.cluster.environ, "HYBRIDFLOW_RUN": str(run), "TMPDIR": "/tmp"}
    words = [f"{name}={value}" for name, value in variables.items()]
    door = ["-m", "hybridflow", "slot", "run", "--site", str(file), "--"]
    show = "echo $SLURM_JOB_ID; echo $HYBRIDFLOW_BROKER; read line"
    with subprocess.Popen(
        [*as_user, *words, "srun", f"--qpu={qpu}", program, option, *door, "sh", "-c", show],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as job:
        yield job


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_two_users_at_once_have_no_way_to_one_another(site: Site) -> None:
    """Not to the slot, its socket, credentials or run; and no process shows a key."""
    users = {"daemon": "aer_a", "nobody": "aer_b"}
    with ExitStack() as stack:
        jobs = {
            user: stack.enter_context(held_slot(site, user, qpu)) for user, qpu in users.items()
        }
        for user, job in jobs.items():
            assert job.stdout is not None
            number, broker = (job.stdout.readline().strip() for _ in range(2))
            (other,) = users.keys() - {user}
            credentials = site.cluster.folder / "slots" / "q1" / "credentials" / number
            events = run_of(site, user)
            for words in (
                ["ls", broker],
                ["ls", str(credentials)],
                ["sh", "-c", f"cat {events}/*.jsonl {events}/ledger/*"],
                ["srun", f"--jobid={number}", "true"],
            ):
                tried = site.run("runuser", "-u", other, "--", *words)
                assert tried.returncode != 0, (words, tried.stdout)
                assert "enied" in tried.stderr, (words, tried.stderr)
        assert not [path for path in Path("/proc").glob("[0-9]*/environ") if _holds(path)]
        assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if _holds(path)]
        for job in jobs.values():
            job.communicate("\n", timeout=40)
            assert job.returncode == 0
    until(lambda: not site.kept())


def _holds(path: Path) -> bool:
    try:
        return KEY.encode() in path.read_bytes()
    except OSError:  # a process that has ended
        return False


def test_each_step_has_credentials_of_its_own(site: Site) -> None:
    """As the door says to one who finds none any more: what another step took is not taken."""
    step = "srun --overlap --ntasks=1 sh -c 'cat $HYBRIDFLOW_CREDENTIALS'"
    status, text = site.batch(f"rm $HYBRIDFLOW_CREDENTIALS; {step}; {step}", "--qpu=aer_a")
    assert (status, text.count(KEY)) == (0, 2), text
    until(lambda: not site.kept())


# --- the helper and the build, without a cluster --------------------------------------------------


def test_what_an_allocation_holds_is_read_in_slurms_words() -> None:
    job = slots.read_job(
        "job 7\nstep 4294967291\nuid 5\nminutes 3\nasked a,b\ngres qpu:a(CNT:2),gpu:x:1(IDX:0)\n"
        "gres qpu:b.c-d:2(IDX:0-1)\nlicenses cloud:2,other\ngres-here qpu:a(CNT:2),qpu:z(CNT:0)\n"
    )
    assert (job.id, job.uid, job.minutes, job.asked) == (7, 5, 3, ("a", "b"))
    assert job.held == {"a", "b.c-d", "cloud", "other"}
    assert job.gres == {"a": 2}
    with pytest.raises(slots.Refusal, match="holds no slot of b"):
        slots.check_asked(job)
    job = slots.read_job("job 7\ngres-here gpu:qpu:1(CNT:1),notqpu:a(CNT:1)\nlicenses cloud:0,b:\n")
    assert (dict(job.gres), job.held) == ({}, frozenset())


def test_a_qpu_that_a_licence_grants_is_not_granted_by_a_gres_too() -> None:
    definitions = {"a": slots.Definition("a", "aer", "license", {})}
    job = slots.read_job("job 7\ngres-here qpu:a(CNT:1)\n")
    with pytest.raises(slots.Refusal, match="granted by licence alone"):
        slots.slots_here(job, definitions)


def test_steps_of_a_job_share_one_acquisition_and_a_requeued_job_has_its_own(
    tmp_path: Path,
) -> None:
    definitions, state = tmp_path / "qpus.json", tmp_path / "state"
    node = slots.Node.of("n", state)
    definitions.touch(mode=0o600)
    definitions.write_text('{"resources": [{"name": "a", "type": "aer"}]}')

    def token(step: int, began: int) -> str:
        facts = f"job 7\nstep {step}\nbegan {began}\nasked a\ngres qpu:a(CNT:1)\n"
        job = slots.read_job(facts + "gres-here qpu:a(CNT:1)\n")
        lines = list(slots.start(job, definitions, node, 5))
        (found,) = [line for line in lines if line.startswith("a_QRMI_JOB_ACQUISITION_TOKEN=")]
        return found

    first = token(0, 100)
    assert token(1, 100) == first
    assert token(0, 200) != first
    kept = state / "n" / "jobs" / "7.json"
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert list(slots.end(slots.read_job("job 7\n"), definitions, node, 5)) == []
    assert not kept.exists()
    kept.write_text("{")
    with pytest.raises(slots.Refusal, match="is damaged"):
        list(slots.end(slots.read_job("job 7\n"), definitions, node, 5))


def test_what_a_user_puts_into_the_folder_of_credentials_keeps_no_slot(tmp_path: Path) -> None:
    """Folders too deep for Python to remove: the slot is given back, and they are gone."""
    definitions, state = tmp_path / "qpus.json", tmp_path / "state"
    node = slots.Node.of("n", state)
    definitions.touch(mode=0o600)
    definitions.write_text(
        '{"resources": [{"name": "a", "type": "aer", "environment": {"QRMI_KEY": "x"}}]}'
    )
    here = f"uid {os.geteuid()}\ngid {os.getegid()}\ngres-here qpu:a(CNT:1)\n"
    assert list(slots.start(slots.read_job(f"job 7\n{here}"), definitions, node, 5))
    folder = state / "n" / "credentials" / "7"
    deep = "mkdir -p " + "/".join(["d"] * 1000) + " && cd -P " + "/".join(["d"] * 1000)
    subprocess.run(["/bin/sh", "-c", f"{deep} && {deep}"], cwd=folder, check=True, timeout=20)
    assert list(slots.end(slots.read_job("job 7\n"), definitions, node, 5)) == []
    assert not folder.exists()
    assert not (state / "n" / "jobs" / "7.json").exists()


def test_what_cannot_be_written_down_is_not_acquired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the job fails before the vendor is asked: a token that is lost stays held."""
    asked: list[str] = []
    monkeypatch.setattr(slots.Vendor, "acquire", lambda self, one: asked.append(one.name))
    monkeypatch.setattr(os, "pwrite", lambda file, text, place: len(text) - 1)
    definitions = tmp_path / "qpus.json"
    definitions.touch(mode=0o600)
    definitions.write_text('{"resources": [{"name": "a", "type": "aer"}]}')
    job = slots.read_job("job 7\ngres-here qpu:a(CNT:1)\n")
    with pytest.raises(OSError, match="No space left"):
        list(slots.start(job, definitions, slots.Node.of("n", tmp_path / "state"), 5))
    assert asked == []


def test_a_type_of_a_vendor_needs_its_package(tmp_path: Path) -> None:
    definition = slots.Definition("q", "pasqal-local", "gres", {"QRMI_WARDEN_URL": "http://x"})
    try:
        import qrmi  # type: ignore[import-not-found, unused-ignore] # noqa: F401
    except ImportError:
        with pytest.raises(slots.Refusal, match="needs the Python package qrmi"):
            slots.Vendor(5).acquire(definition)


def test_the_build_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgramError, match="apt-get install gcc"):
        build(tmp_path / "plugin")
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'slurm/slurm.h: No such file or directory' >&2\nexit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(MissingProgramError, match="apt-get install libslurm-dev"):
        build(tmp_path / "plugin")


def test_configuring_refuses_definitions_that_others_may_read(tmp_path: Path) -> None:
    file = tmp_path / "qpus.json"
    file.write_text('{"resources": []}')
    file.chmod(0o640)
    with pytest.raises(InputError, match="others may read"):
        configure(tmp_path, tmp_path / "x.so", definitions=file, state=tmp_path)


def test_the_example_of_definitions_is_right(tmp_path: Path) -> None:
    file = tmp_path / "qpus.json"
    file.touch(mode=0o600)
    example = Path(__file__).parent.parent / "configs" / "slurm" / "qpus.json"
    file.write_text(example.read_text(encoding="utf-8"), encoding="utf-8")
    assert list(slots.names(file))[1:] == ["garnet gres", "heron license"]

"""The local cluster: up, used, broken, ended. Each is a real Slurm."""

import json
import multiprocessing
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from family import eventually
from users import python_of

from hybridflow.errors import ClusterError, InputError, JobRefusedError, MissingProgramError
from hybridflow.site import load_site
from hybridflow.slurm import Component, Job, submit
from hybridflow.slurm.cluster import SlurmCluster, background, programs

ROOT = os.geteuid() == 0


def state(cluster: SlurmCluster, job: str) -> str:
    return cluster.run(
        ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T %r"]
    ).stdout.strip()


def batch(cluster: SlurmCluster, script: str, *options: str) -> str:
    wrapped = ["sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", script]
    return cluster.run(wrapped, cwd="/").stdout.strip()


def processes_of(folder: str | Path) -> list[int]:
    """Return the processes that know the cluster in a folder, by argument or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process.pid)
    return found


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(folder: str | Path) -> None:
    eventually(lambda: not Path(folder).exists())
    eventually(lambda: not processes_of(folder))


@pytest.fixture(scope="module")
def own() -> Iterator[SlurmCluster]:
    """A cluster that tests may break: they leave it with both nodes up and no job."""
    os.environ["TEST_SECRET_OF_THE_DEVELOPER"] = "leaked"
    with SlurmCluster(nodes=2, qpus={"aer": 1}) as cluster:
        yield cluster
    del os.environ["TEST_SECRET_OF_THE_DEVELOPER"]


# Used


def test_jobs_run_on_every_node(slurm: SlurmCluster) -> None:
    done = slurm.run(["srun", "--nodes=3", "printenv", "SLURMD_NODENAME"])
    assert sorted(done.stdout.split()) == ["c1", "c2", "q1"]
    assert slurm.nodes == ("q1", "c1", "c2")


def test_partitions_tell_the_qpu_node_from_the_others(slurm: SlurmCluster) -> None:
    shown = slurm.run(["sinfo", "--noheader", "--format=%P %N"]).stdout.split("\n")
    assert sorted(filter(None, shown)) == ["classical c[1-2]", "main* c[1-2],q1", "qpu q1"]


def test_its_daemons_cannot_be_reached_from_elsewhere(slurm: SlurmCluster) -> None:
    if socket.gethostbyname(socket.gethostname()) != "127.0.0.1":
        pytest.skip("Slurm binds to the address of this machine's name, which others can reach")
    members = processes_of(slurm.folder)
    ports = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert {c.laddr[0] for c in ports if c.pid in members} == {"127.0.0.1"}


@pytest.mark.parametrize("request_of", ["--gres=qpu:aer_a:1", "--licenses=cloud:2"])
def test_a_second_job_waits_for_the_slot(slurm: SlurmCluster, request_of: str) -> None:
    first, second = (batch(slurm, "sleep 60", request_of) for _ in range(2))
    try:
        eventually(lambda: state(slurm, first).startswith("RUNNING"))
        eventually(lambda: state(slurm, second) in ("PENDING Resources", "PENDING Licenses"))
        slurm.run(["scancel", first])
        eventually(lambda: state(slurm, second).startswith("RUNNING"))
    finally:
        slurm.run(["scancel", first, second])


def test_jobs_ask_for_slots_by_name(slurm: SlurmCluster) -> None:
    done = slurm.run(["srun", "--qpu=aer_b,cloud", "printenv", "QRMI_JOB_QPU_RESOURCES"])
    assert done.stdout == "aer_b,cloud\n"
    refused = slurm.run(["srun", "--qpu=none", "true"], check=False)
    assert 'no QPU "none"; known are: aer_a, aer_b, cloud' in refused.stderr


def test_definitions_are_the_plugins() -> None:
    with pytest.raises(InputError, match="say plugin=True"):
        SlurmCluster(definitions={"resources": []})
    wrong = {"resources": [{"name": "a", "type": "nonsense"}]}
    with pytest.raises(InputError, match="`type` must be one of"):
        SlurmCluster(plugin=True, definitions=wrong).start()


def test_settings_replace_the_clusters_own() -> None:
    with SlurmCluster(nodes=1, settings={"SlurmdTimeout": "77", "MaxArraySize": "21"}) as cluster:
        shown = cluster.run(["scontrol", "show", "config"])
        assert "SlurmdTimeout           = 77 sec" in shown.stdout
        assert "MaxArraySize            = 21" in shown.stdout
        assert shown.stderr == ""


def test_a_heterogeneous_job_has_both_kinds_of_node(slurm: SlurmCluster) -> None:
    done = slurm.run(
        shlex.split(
            "srun --gres=qpu:aer_b:1 printenv SLURMD_NODENAME"
            " : --partition=classical --nodes=2 printenv SLURMD_NODENAME"
        )
    )
    assert sorted(done.stdout.split()) == ["c1", "c2", "q1"]


def test_daemons_and_jobs_see_nothing_of_the_developers_environment(own: SlurmCluster) -> None:
    clean = {"PATH": os.environ["PATH"]}
    assert "TEST_SECRET" not in own.run(["srun", "env"], env=clean).stdout
    daemons = processes_of(own.folder)
    assert len(daemons) > 4
    assert not [
        pid for pid in daemons if b"TEST_SECRET" in Path(f"/proc/{pid}/environ").read_bytes()
    ]


def test_secrets_are_their_owners_alone(own: SlurmCluster) -> None:
    assert {
        name: oct((own.folder / name).stat().st_mode)[-3:] for name in ("keys", "log", "db")
    } == {
        "keys": "700",
        "log": "700",
        "db": "700",
    }
    assert oct((own.folder / "keys" / "munge.key").stat().st_mode)[-3:] == "600"


def test_a_failed_command_tells_what_it_said(slurm: SlurmCluster) -> None:
    with pytest.raises(ClusterError, match="invalid partition specified: nowhere"):
        slurm.run(["srun", "--partition=nowhere", "true"])
    assert slurm.run(["false"], check=False).returncode == 1
    with pytest.raises(ClusterError, match="took longer than"):
        slurm.run(["sleep", "60"], timeout=0.1)


def test_clusters_live_side_by_side(slurm: SlurmCluster, own: SlurmCluster) -> None:
    nodes = {len(c.run(["sinfo", "-hN", "-pmain"]).stdout.splitlines()) for c in (slurm, own)}
    assert nodes == {2, 3}


# Broken


def test_a_job_outlives_a_restart_of_the_controller(own: SlurmCluster) -> None:
    job = batch(own, "sleep 60")
    eventually(lambda: state(own, job).startswith("RUNNING"))
    own.restart_controller()
    assert state(own, job).startswith("RUNNING")
    own.run(["scancel", job])
    eventually(lambda: not state(own, job).startswith("RUNNING"))


def test_a_killed_node_loses_its_job_and_can_come_back(own: SlurmCluster, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    job = batch(own, f"setsid sleep 60 & echo $! > {pid}; wait", "--nodelist=c1", "--no-requeue")
    eventually(lambda: pid.exists() and pid.read_text().endswith("\n"))
    own.kill_node("c1")
    assert not is_alive(int(pid.read_text()))
    with pytest.raises(InputError, match="slurmd-c1 is not running"):
        own.kill_node("c1")
    own.run(["scontrol", "update", "nodename=c1", "state=down", "reason=test"])
    eventually(lambda: "NODE_FAIL" in state(own, job))
    own.start_node("c1")
    assert own.run(["srun", "--nodelist=c1", "echo", "back"]).stdout == "back\n"


def test_a_daemon_that_does_not_come_up_shows_the_end_of_its_log() -> None:
    with pytest.raises(ClusterError, match="slurmctld ended with") as caught:
        SlurmCluster(nodes=1, settings={"SelectType": "select/none_such"}).start()
    assert "Can't find plugin for select/none_such" in str(caught.value)


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"no-such-daemon": "its-package"} | programs.BASIC
    monkeypatch.setattr(programs, "BASIC", wanted)
    with pytest.raises(MissingProgramError, match=r"needs no-such-daemon, .* install its-package"):
        SlurmCluster().start()


@pytest.mark.parametrize(("continuous", "outcome"), [("", "skipped=1"), ("true", "errors=1")])
def test_without_slurm_tests_skip_and_in_ci_they_fail(
    tmp_path: Path, continuous: str, outcome: str
) -> None:
    (tmp_path / "test_it.py").write_text(
        "from hybridflow.slurm.cluster import programs\n"
        "from hybridflow.testing import slurm_cluster\n"
        "programs.BASIC['no-such-daemon'] = 'its-package'\n"
        "cluster = slurm_cluster(nodes=1)\n"
        "def test_it(cluster): pass\n"
    )
    variables = {**os.environ, "CI": continuous}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    number, word = outcome.split("=")[::-1]
    assert f"{number} {word.removesuffix('s')}" in done.stdout
    assert "its-package" in done.stdout or not continuous


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 0}, "0 nodes"),
        ({"qpus": {"a b": 1}}, "'a b' cannot be a QPU's name"),
        ({"qpus": {"a": 0}}, "0 slots"),
        ({"qpus": {"a": 1}, "licenses": {"a": 1}}, "as a node's and as a licence"),
        ({"settings": {"MaxJobCount": "1\nInclude=x"}}, "no setting"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SlurmCluster(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [("full", "has something in it"), ("with blank", "Slurm allows"), ("x" * 80, "too long")],
)
def test_a_folder_that_cannot_be_used_is_refused(short_path: Path, name: str, message: str) -> None:
    (short_path / "full").mkdir()
    (short_path / "full" / "work").touch()
    with pytest.raises(InputError, match=message):
        SlurmCluster(folder=short_path / name).start()
    assert (short_path / "full" / "work").exists()


def test_what_needs_a_running_cluster_says_so(slurm: SlurmCluster) -> None:
    with pytest.raises(InputError, match="is not running"):
        SlurmCluster().run(["sinfo"])
    with pytest.raises(InputError, match="is running already"):
        slurm.start()
    with pytest.raises(InputError, match=r"no node 'c9'; there are q1, c1, c2"):
        slurm.kill_node("c9")


# Ended


def test_nothing_is_left_when_the_maker_is_killed() -> None:
    script = """if True:
        import time
        from hybridflow.slurm.cluster import SlurmCluster
        cluster = SlurmCluster(nodes=2).start()
        job = "setsid sleep 600 & sleep 600"
        cluster.run(["sbatch", "--output=/dev/null", "--wrap", job], cwd="/")
        while "R" not in cluster.run(["squeue", "-h", "-o%t"]).stdout:
            pass
        print(cluster.folder, flush=True)
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        folder = maker.stdout.readline().decode().strip()
        members = processes_of(folder)
        assert len(members) > 5
        maker.kill()
    assert_gone(folder)
    assert not list(filter(is_alive, members))


def test_a_stopped_cluster_leaves_nothing_and_can_start_again() -> None:
    cluster = SlurmCluster(nodes=1)
    folders = []
    for _ in range(2):
        with cluster:
            folders.append(cluster.folder)
        assert_gone(folders[-1])
    cluster.stop()


def test_a_child_that_the_maker_has_forked_does_not_keep_it() -> None:
    with SlurmCluster(nodes=1) as cluster:
        folder = cluster.folder
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    assert not folder.exists()
    child.kill()
    child.join()


# Root, and ordinary users


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    """An ordinary user of this machine, made for these tests."""
    if not ROOT:
        pytest.skip("only root can make users; the other tests are an ordinary user's then")
    name = f"hf{os.getpid()}"
    subprocess.run(["useradd", "--no-create-home", "--home-dir=/", name], check=True)
    yield name
    subprocess.run(["userdel", name], check=True)


def test_an_ordinary_user_has_a_cluster_with_accounting(user: str) -> None:
    script = """if True:
        from hybridflow.slurm.cluster import SlurmCluster
        with SlurmCluster(nodes=2, qpus={"aer": 1}, plugin=True, accounting=True) as cluster:
            print(cluster.folder, oct(cluster.folder.stat().st_mode)[-3:])
            print(cluster.run(["srun", "--qpu=aer", "id", "-un"]).stdout)
            print(cluster.run(["sacctmgr", "-nP", "list", "associations"]).stdout)
    """
    done = subprocess.run(
        [*python_of(user), "-c", script], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    folder, mode, name, *associations = done.stdout.split()
    assert (mode, name) == ("700", user)
    assert any(f"|hybridflow|{user}|" in line for line in associations)
    assert_gone(folder)


def test_roots_cluster_runs_the_jobs_of_others_as_them(slurm: SlurmCluster, user: str) -> None:
    done = slurm.run(["runuser", "-u", user, "--", "srun", "id", "-un"], cwd="/")
    assert done.stdout.strip() == user


# Accounting


def test_accounting_books_slots_and_keeps_out_who_has_no_account(
    accounted: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounted.run(["srun", "--job-name=booked", "--gres=qpu:aer:2", "true"])
    query = ["sacct", "-XnP", "--allusers", "--name=booked"]
    query.append("--format=Account,User,State,AllocTRES")
    eventually(lambda: "|COMPLETED|" in accounted.run(query).stdout)
    account, who, _, tres = accounted.run(query).stdout.strip().split("|")
    assert (account, who) == ("hybridflow", pwd.getpwuid(os.geteuid()).pw_name)
    assert {"gres/qpu=2", "gres/qpu:aer=2"} <= set(tres.split(","))

    monkeypatch.setenv("SLURM_CONF", accounted.environ["SLURM_CONF"])
    others = Component(account="chemistry", gres=("qpu:aer:1",))
    with pytest.raises(JobRefusedError, match="Invalid account or account/partition"):
        submit(Job(name="x", command=("true",), components=(others,)))
    if ROOT:
        without = ["runuser", "-u", "daemon", "--", "srun", "--gres=qpu:aer:1", "true"]
        assert "Invalid account" in accounted.run(without, check=False, cwd="/").stderr


# From the command line


@pytest.fixture
def place() -> Iterator[str]:
    """A folder for a cluster; the name is short, since sockets lie in it."""
    folder = tempfile.mkdtemp(prefix="hf-")
    yield folder
    assert not Path(folder).exists()


def hybridflow_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "hybridflow", "cluster", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_cluster_of_the_command_line_outlives_its_command(place: str) -> None:
    up = hybridflow_command(
        "up", "--nodes=2", "--qpu=aer:1", "--license=cloud:2", "--folder", place
    )
    assert up.returncode == 0, up.stderr
    assert up.stdout.splitlines()[:2] == ["nodes  q1 c1", "QPUs   aer:1 cloud:2"]
    again = hybridflow_command("up", "--folder", place)
    assert (again.returncode, "is a local cluster in" in again.stderr) == (2, True)
    script = f'eval "$({sys.executable} -m hybridflow cluster env --folder {shlex.quote(place)})"'
    run = f"{script}; srun --qpu=aer,cloud printenv SLURMD_NODENAME; echo $HYBRIDFLOW_SITE"
    done = subprocess.run(["bash", "-c", run], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("q1\n"), done.stderr
    site = load_site(done.stdout.split()[1])
    assert (site.default, [*site.resources]) == ("aer", ["aer", "cloud"])
    status = hybridflow_command("status", "--folder", place)
    assert status.returncode == 0
    assert "QPU slots qpu:aer:1, used qpu:aer:0" in status.stdout
    down = hybridflow_command("down", "--folder", place)
    assert (down.returncode, down.stdout) == (0, "")
    assert_gone(place)
    assert hybridflow_command("status", "--folder", place).returncode == 2


def test_a_cluster_without_the_plugin_says_what_a_slot_is_and_ends_with_its_holder(
    place: str,
) -> None:
    up = hybridflow_command("up", "--nodes=1", "--qpu=aer:1", "--no-plugin", "--folder", place)
    assert up.returncode == 0, up.stderr
    script = f'eval "$({sys.executable} -m hybridflow cluster env --folder {shlex.quote(place)})"'
    run = f"{script}; srun --gres=qpu:aer:1 {sys.executable} -m hybridflow slot show"
    done = subprocess.run(["bash", "-c", run], capture_output=True, text=True, check=False)
    assert "granted   by the Slurm job: 1 slot\n" in done.stdout, done.stderr
    held = json.loads((Path(place) / "cluster.json").read_text())
    os.kill(held["pid"], signal.SIGKILL)
    assert_gone(place)


def test_what_a_lost_machine_left_is_removed(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_SWEEP_SECONDS", 0.0)
    options = background.Options(
        nodes=1,
        qpus={},
        licenses={},
        accounting=False,
        plugin=False,
        definitions=None,
        folder=place,
    )
    lost = background.BackgroundCluster(
        pid=os.getpid(), created=1.0, options=options, nodes=("q1",), environ={}
    )
    (Path(place) / "cluster.json").write_bytes(msgspec.json.encode(lost))
    assert hybridflow_command("status", "--folder", place).returncode == 3
    background.end_background(background.find_background(Path(place)))


def test_a_cluster_that_does_not_come_up_says_why(place: str) -> None:
    (Path(place) / "work").touch()
    up = hybridflow_command("up", "--folder", place)
    assert (up.returncode, "has something in it" in up.stderr) == (2, True)
    shutil.rmtree(place)
    up = hybridflow_command("up", "--nodes=1", "--qpu=aer", "--folder", place)
    assert (up.returncode, "'aer' is not NAME:SLOTS" in up.stderr) == (2, True)


def test_the_state_of_others_is_not_trusted(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(InputError, match="cannot be trusted"):
        background.find_background(tmp_path)
    tmp_path.chmod(0o700)
    (tmp_path / "cluster.json").write_text("{}")
    with pytest.raises(InputError, match="does not describe a local cluster"):
        background.find_background(tmp_path)


def test_it_is_up_in_ten_seconds() -> None:
    began = time.monotonic()
    with SlurmCluster(nodes=3, qpus={"aer_a": 1, "aer_b": 2}):
        assert time.monotonic() - began < 10

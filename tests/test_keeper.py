"""The keeper and the reaper: real processes, and none that outlives its command."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from family import Family, children, family, python

from hybridflow.lease import Lease

KEEPER = [sys.executable, "-m", "hybridflow.keeper"]
FOREVER = "\ntime.sleep(600)"
UNTIL_TOLD = "\nsignal.sigwait({signal.SIGUSR1})"
ONCE_OR_TWICE = """
def hits(number):
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    say("command")
    signal.sigwait({number})
    return 1 if signal.sigtimedwait({number}, 0.5) is None else 2
"""


def run(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*KEEPER, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def kept(body: str, *options: str) -> list[str]:
    return [*KEEPER, *options, "--", *python(body)]


def reaper_of(keeper: Family) -> int:
    (found,) = children(keeper.process.pid)
    return found


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_exit_status_passes_through(status: int) -> None:
    assert run("--", "sh", "-c", f"exit {status}").returncode == status


def test_death_by_a_signal_is_told_as_a_shell_tells_it() -> None:
    assert run("--", "sh", "-c", "kill -9 $$").returncode == 128 + 9


def test_output_and_input_are_the_command_s_own() -> None:
    done = run("--", "cat", input="to and fro")
    assert (done.returncode, done.stdout, done.stderr) == (0, "to and fro", "")


@pytest.mark.parametrize(("program", "status"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_what_cannot_be_started_is_named(program: str, status: int) -> None:
    done = run("--", program)
    assert done.returncode == status
    assert program in done.stderr
    assert "Traceback" not in done.stderr


def test_descriptors_opened_for_the_command_reach_it() -> None:
    script = f"{sys.executable} -m hybridflow.keeper -- cat <(printf through)"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "through"


def test_keeper_holds_no_descriptor_of_its_own_open_in_the_command() -> None:
    listing = run("--", "sh", "-c", "ls /proc/self/fd").stdout.split()
    assert listing == ["0", "1", "2", "3"]  # the last is the listed folder itself


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    body = f"""
def heard(*_):
    say("heard")
    sys.exit(42)
signal.signal({number}, heard)
say("command"){FOREVER}"""
    with family(kept(body)) as one:
        one.wait_for("command")
        one.process.send_signal(number)
        one.wait_for("heard")
        assert one.process.wait(timeout=30) == 42
        one.wait_gone()


def test_interrupt_is_left_to_the_terminal() -> None:
    body = """
both = {signal.SIGINT, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, both)
say("command")
say("ended" if signal.sigwait(both) == signal.SIGTERM else "interrupted")
sys.exit(3)"""
    with family(kept(body)) as one:
        one.wait_for("command")
        one.process.send_signal(signal.SIGINT)
        one.process.send_signal(signal.SIGTERM)
        one.wait_for("ended")
        assert "interrupted" not in one.members
        assert one.process.wait(timeout=30) == 3


def test_interrupt_of_the_group_reaches_the_command_once_and_keeper_outlives_it() -> None:
    body = f"""{ONCE_OR_TWICE}
sys.exit(hits(signal.SIGINT))"""
    with family(kept(body)) as one:
        one.wait_for("command")
        os.killpg(one.process.pid, signal.SIGINT)
        assert one.process.wait(timeout=30) == 1


def test_a_signal_to_every_process_reaches_the_command_once() -> None:
    """Slurm signals all processes of a job: a second one would break into a clean-up."""
    body = f"""{ONCE_OR_TWICE}
sys.exit(hits(signal.SIGTERM))"""
    with family(kept(body)) as one:
        one.wait_for("command")
        reaper = reaper_of(one)
        for pid in (one.members["command"], reaper, one.process.pid):
            os.kill(pid, signal.SIGTERM)
        assert one.process.wait(timeout=30) == 1


def test_an_ignored_hangup_stays_ignored() -> None:
    body = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    done = subprocess.run(
        ["nohup", *KEEPER, "--", sys.executable, "-c", body],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.strip() == "True"


def test_what_the_command_leaves_behind_is_ended_with_it() -> None:
    body = f"""
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR1}})
daemon("daemon")
daemon("deaf", deaf=True)
say("command"){UNTIL_TOLD}
sys.exit(5)"""
    with family(kept(body, "--grace", "0.5")) as one:
        one.wait_for("command", "daemon", "deaf")
        one.process.send_signal(signal.SIGUSR1)
        assert one.process.wait(timeout=30) == 5
        one.wait_gone()


def test_a_stopped_child_is_ended_too() -> None:
    body = f"""
daemon("daemon")
say("command"){FOREVER}"""
    with family(kept(body)) as one:
        one.wait_for("command", "daemon")
        one.kill("daemon", signal.SIGSTOP)
        one.kill("command")
        assert one.process.wait(timeout=30) == 128 + 9
        one.wait_gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_command_is_ended_by_a_signal_to_its_keeper(number: signal.Signals) -> None:
    with family(kept(f'say("command"){FOREVER}')) as one:
        one.wait_for("command")
        one.kill("command", signal.SIGSTOP)
        one.process.send_signal(number)
        assert one.process.wait(timeout=30) == 128 + number
        one.wait_gone()


@pytest.mark.parametrize("victim", ["keeper", "reaper"])
def test_no_orphan_whoever_is_killed(victim: str) -> None:
    body = f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
daemon("daemon")
daemon("deaf", deaf=True)
say("command"){FOREVER}"""
    with family(kept(body, "--grace", "0.3")) as one:
        one.wait_for("command", "daemon", "deaf")
        one.watch("keeper", one.process.pid)
        one.watch("reaper", reaper_of(one))
        one.kill(victim)
        one.wait_gone()
        expected = {"keeper": -signal.SIGKILL, "reaper": 128 + signal.SIGKILL}
        assert one.process.wait(timeout=30) == expected[victim]


def test_no_orphan_when_the_whole_group_is_killed() -> None:
    body = f"""
daemon("daemon")
say("command"){FOREVER}"""
    with family(kept(body)) as one:
        one.wait_for("command", "daemon")
        one.watch("reaper", reaper_of(one))
        os.killpg(one.process.pid, signal.SIGKILL)
        one.wait_gone()


def test_a_program_that_forks_all_the_time_is_ended() -> None:
    body = """
say("command")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        time.sleep(0.05)
        os._exit(0)
    time.sleep(0.002)"""
    with family(kept(body, "--grace", "0.2")) as one:
        one.wait_for("command")
        one.watch("reaper", reaper_of(one))
        one.process.kill()
        one.wait_gone()


def test_lost_lease_ends_the_command(tmp_path: Path) -> None:
    body = f"""
daemon("daemon")
say("command"){FOREVER}"""
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys, time; from hybridflow.lease import Lease\n"
            "Lease.hold(sys.argv[1]); print('held', flush=True); time.sleep(600)",
            str(tmp_path / "lease"),
        ],
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        command = kept(body, "--lease", str(tmp_path / "lease"))
        with family(command, stderr=subprocess.PIPE) as one:
            one.wait_for("command", "daemon")
            holder.kill()
            assert one.process.wait(timeout=30) == 128 + signal.SIGTERM
            one.wait_gone()
            assert one.process.stderr is not None
            assert f"process {holder.pid}" in one.process.stderr.read().decode()
            one.process.stderr.close()


def test_released_lease_ends_the_command(tmp_path: Path) -> None:
    with Lease.hold(tmp_path / "lease") as lease:
        command = kept(f'say("command"){FOREVER}', "--lease", str(lease.path))
        with family(command) as one:
            one.wait_for("command")
            lease.close()
            assert one.process.wait(timeout=30) == 128 + signal.SIGTERM
            one.wait_gone()


def test_without_its_lease_a_command_is_ended_at_once(tmp_path: Path) -> None:
    done = run("--lease", str(tmp_path / "none"), "--", "sleep", "600")
    assert done.returncode == 128 + signal.SIGTERM
    assert "released" in done.stderr


def test_an_engine_s_own_process_sees_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("aer_QRMI_TOKEN", "hidden")
    monkeypatch.setenv("KEPT", "as it was")
    seen = run("--", "env").stdout
    assert "KEPT=as it was" in seen
    assert "hidden" not in seen
    assert "HYBRIDFLOW_ROLE=" not in seen


@pytest.mark.parametrize("role", ["quantum", "classical"])
def test_role_gives_the_clean_environment(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"):
        monkeypatch.setenv(name, "4")
    monkeypatch.setenv("my_qpu_QRMI_IBM_QCS_IAM_APIKEY", "secret")
    monkeypatch.setenv("HYBRIDFLOW_BROKER", "/nowhere")
    seen = run("--role", role, "--", "env").stdout
    for word in ("SLURM_NTASKS", "PMI_", "OMPI_", "MPI_LOCAL", "QRMI", "secret"):
        assert word not in seen
    assert f"HYBRIDFLOW_ROLE={role}" in seen
    assert ("HYBRIDFLOW_BROKER" in seen) == (role == "quantum")


@pytest.mark.parametrize("arguments", [[], ["--"], ["--grace", "soon", "--", "true"]])
def test_wrong_usage(arguments: Sequence[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: python -m hybridflow.keeper" in done.stderr


def test_help_has_an_example() -> None:
    assert "example: python -m hybridflow.keeper" in run("--help").stdout


def test_the_command_stays_in_the_keeper_s_group() -> None:
    """So that a terminal's signals reach it, and it may read from the terminal."""
    with family(kept(f'say("command"){FOREVER}')) as one:
        one.wait_for("command")
        assert os.getpgid(one.members["command"]) == os.getpgid(one.process.pid)
        assert os.getpgid(reaper_of(one)) != os.getpgid(one.process.pid)
        one.process.terminate()
        assert one.process.wait(timeout=30) == 128 + signal.SIGTERM

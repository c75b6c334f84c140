"""The command line: fast, with an example in every help, one clear line for every error."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import hybridflow
from hybridflow import errors
from hybridflow.cli import main
from hybridflow.slot import Origin, Slot, write_slots


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="hybridflow")


def help_pages() -> list[list[str]]:
    def walk(command: click.Command, path: list[str]) -> Iterator[list[str]]:
        yield path
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                yield from walk(child, [*path, name])

    return list(walk(main, []))


@pytest.mark.parametrize("path", help_pages(), ids=" ".join)
def test_every_help_has_an_example(path: list[str]) -> None:
    shown = invoke(*path, "--help")
    assert shown.exit_code == 0
    assert re.search(rf"Examples?:\s+hybridflow {' '.join(path)}", shown.output)


def test_root_lists_its_commands() -> None:
    output = invoke("--help").output
    assert "slot" in output
    assert "run" in output


def test_version() -> None:
    assert invoke("--version").output == f"hybridflow, version {hybridflow.__version__}\n"


@pytest.mark.parametrize(
    "command", [["-m", "hybridflow"], [str(Path(sys.executable).parent / "hybridflow")]]
)
def test_both_ways_to_start_it(command: list[str]) -> None:
    start = [sys.executable, *command] if command[0] == "-m" else command
    done = subprocess.run(
        [*start, "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("hybridflow, version")


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom hybridflow.cli import main\n"
        "main(['slot', '--help'], standalone_mode=False)\n"
        "main(['--help'], standalone_mode=False)\n"
        "print(sorted({'qiskit', 'numpy', 'parsl', 'zmq', 'rich'} & set(sys.modules)))"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert time.perf_counter() - began < 3.0  # 0.1 s on an idle machine


@pytest.mark.parametrize(
    "arguments", [["nosuch"], ["slot", "nosuch"], ["slot", "run"], ["slot", "run", "--nosuch"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    shown = invoke(*arguments)
    assert shown.exit_code == 2
    assert "Usage: hybridflow" in shown.output


# --- errors --------------------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command `fail` that raises what is put into this list."""
    raised: list[BaseException] = []

    @click.command("fail")
    def fail() -> None:
        raise raised[0]

    monkeypatch.setitem(main.commands, "fail", fail)
    return raised


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.SiteError("no such key"), 2),
        (errors.NoSlotError("no slot"), 2),
        (errors.AcquireError("the QPU is down"), 3),
        (errors.AcquireError("the QPU is busy", transient=True), 75),
        (errors.BrokerLostError("the broker died"), 75),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_are_one_line_and_a_status(
    failing: list[BaseException], error: BaseException, status: int
) -> None:
    failing.append(error)
    shown = invoke("fail")
    assert shown.exit_code == status
    assert shown.stdout == ""
    assert shown.stderr == f"error: {str(error) or 'interrupted'}\n"


def test_debug_shows_the_traceback(
    failing: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing.append(errors.SiteError("no such key"))
    assert "Traceback" in invoke("--debug", "fail").stderr
    monkeypatch.setenv("HYBRIDFLOW_DEBUG", "1")
    assert "Traceback" in invoke("fail").stderr


def test_a_bug_of_ours_shows_its_traceback(failing: list[BaseException]) -> None:
    failing.append(errors.InternalError("impossible"))
    shown = invoke("fail")
    assert shown.exit_code == 1
    assert "Traceback" in shown.stderr


# --- slot show -----------------------------------------------------------------------------------


def test_show_outside() -> None:
    shown = invoke("slot", "show")
    assert shown.exit_code == 0
    assert "resource  aer (backend aer)" in shown.output
    assert "hybridflow slot run" in shown.output


def test_show_as_json() -> None:
    assert json.loads(invoke("slot", "show", "--json").output) == {
        "resource": "aer",
        "backend": "aer",
        "origin": "site",
        "inside": False,
        "folder": None,
        "type": "",
        "slots": 1,
        "token": False,
        "deadline": None,
        "route": None,
        "resources": ["aer"],
        "site": "laptop (built in)",
        "site_file": None,
    }


def test_show_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slots([Slot(resource="q", backend="fake", origin=Origin.SLURM)], tmp_path)
    monkeypatch.setenv("HYBRIDFLOW_BROKER", str(tmp_path))
    shown = json.loads(invoke("slot", "show", "--json").output)
    assert (shown["resource"], shown["inside"], shown["folder"]) == ("q", True, str(tmp_path))
    assert str(tmp_path) in invoke("slot", "show").output


def test_show_of_a_named_site(tmp_path: Path) -> None:
    site = tmp_path / "mine.toml"
    site.write_text('[qpu.q1]\nbackend = "fake"\n')
    assert "resource  q1 (backend fake)" in invoke("slot", "show", "--site", str(site)).output


def test_show_without_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    shown = invoke("slot", "show")
    assert shown.exit_code == 2
    assert "--gres=qpu:1" in shown.stderr

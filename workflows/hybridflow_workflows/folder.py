"""The folder of a run: made, told to every process, and what is written into it at the end."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hybridflow import environment
from hybridflow.errors import InputError, RequestCancelledError
from hybridflow.events import RunEnded, RunStarted, event_log
from hybridflow.progress import Display
from hybridflow.records import Record
from hybridflow.report import write_report
from hybridflow.site import Site

__all__ = [
    "check_wanted",
    "default_output",
    "give_up",
    "new_folder",
    "recorded",
    "report",
    "variables",
    "write_result",
]

_RESULT = "result.json"
_GIVEN_UP = "given-up"


def default_output(workflow: str) -> Path:
    """Return the folder of a run that names none: ``runs/<workflow>-<time>``."""
    return Path("runs", time.strftime(f"{workflow}-%Y%m%d-%H%M%S"))


def new_folder(folder: Path, advice: str = "") -> Path:
    """Make the folder of a run; return its absolute path.

    Raises
    ------
    InputError
        If it is there and not empty, or cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} is there and not empty, and runs do not overwrite one another: {advice}"
            "name another folder (--output), or remove it"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error.strerror}") from error
    return folder.absolute()


@contextmanager
def variables(folder: Path, site: Site) -> Iterator[None]:
    """Tell every process of the run where events and the ledger are, and which site tasks mean.

    And which of the run's executions this is.
    """
    values = {environment.RUN: str(folder), environment.SESSION: uuid.uuid4().hex}
    if site.path is not None:
        values[environment.SITE] = site.path
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def give_up(folder: Path) -> None:
    """Tell tasks that go on for long that nobody waits for them any more."""
    (folder / _GIVEN_UP).touch()


def check_wanted() -> None:
    """End a task of a run that was given up, before it asks the QPU for more.

    A task with a loop of its own calls it: after Ctrl-C no engine can end a thread.

    Raises
    ------
    RequestCancelledError
        If the run was given up.
    """
    folder = os.environ.get(environment.RUN)
    if folder and Path(folder, _GIVEN_UP).exists():
        raise RequestCancelledError("the run was given up: nobody waits for this task any more")


@contextmanager
def recorded(workflow: str, parameters: Record, engine: str, resource: str) -> Iterator[None]:
    """Write the run's start and end to its events."""
    log = event_log()
    arguments = msgspec.to_builtins(parameters)
    log.emit(RunStarted(workflow=workflow, engine=engine, resource=resource, arguments=arguments))
    error = ""
    try:
        yield
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}"
        raise
    finally:
        log.emit(RunEnded(error=error))
        log.close()


def report(folder: Path, display: Display) -> None:
    """Write ``report.html`` into a run's folder; say so where that fails."""
    try:
        write_report(folder)
    except Exception as error:
        # The run's own result, or its own error, must not be lost for the sake of a picture.
        display.note(f"no report was written: {type(error).__name__}: {error}")


def write_result(folder: Path, result: Record) -> Path:
    """Write ``result.json`` into a run's folder; a reader sees all of it or nothing."""
    file = folder / _RESULT
    unfinished = folder / f".{_RESULT}.{os.getpid()}"
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    unfinished.replace(file)
    return file

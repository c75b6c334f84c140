"""What an earlier run of SQD was asked for, from the events in its folder: to go on with it."""

import os
import re
from pathlib import Path

import msgspec

from hybridflow.errors import InputError
from hybridflow.events import RunEnded, RunStarted, read_events
from hybridflow.kernel import process_born
from hybridflow.records import Record
from hybridflow_workflows.sqd.parameters import SQDParameters

__all__ = ["EarlierRun", "earlier_run"]

_FILE = re.compile(r"events-(?P<host>.+)-(?P<pid>\d+)\.jsonl")


class EarlierRun(Record, frozen=True, kw_only=True):
    """A run that was begun: its folder, what it was asked for and the engine that it used."""

    folder: Path
    parameters: SQDParameters
    engine: str


def earlier_run(folder: str | os.PathLike[str]) -> EarlierRun:
    """Return what a run in a folder was asked for.

    Raises
    ------
    InputError
        If it is no run of SQD, or still goes on.
    """
    found = Path(folder).absolute()
    events = read_events(found, on_damage=lambda file, line: None)
    begun = [event for event in events if isinstance(event, RunStarted) and event.workflow == "sqd"]
    if not begun:
        raise InputError(
            f"there is no run of sqd in {folder}: name the folder that was its --output"
        )
    if len(begun) > sum(isinstance(event, RunEnded) for event in events):
        _refuse_living(found)
    try:
        parameters = msgspec.convert(begun[0].arguments, SQDParameters)
    except msgspec.ValidationError as error:
        raise InputError(f"the run in {folder} was begun by another version: {error}") from error
    return EarlierRun(folder=found, parameters=parameters, engine=begun[-1].engine)


def _refuse_living(folder: Path) -> None:
    # Of a driver that was killed there is a beginning without an end, and no process.
    for file in folder.glob("events-*.jsonl"):
        name = _FILE.fullmatch(file.name)
        here = name is not None and name["host"] == os.uname().nodename
        if name is None or not here or process_born(int(name["pid"])) is None:
            continue
        if name["pid"] != str(os.getpid()) and b'"run_started"' in file.read_bytes():
            raise InputError(
                f"the run in {folder} still goes on: process {name['pid']} leads it; end it first"
            )

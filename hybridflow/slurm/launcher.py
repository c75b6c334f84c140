"""Starts the workers of a block, in the batch script of its job.

``python -m hybridflow.slurm.launcher [--quantum WORDS] -- COMMAND…`` runs COMMAND once on each node
of the job; with ``--quantum``, on each node of its component 1, and these words on this node, which
is component 0's. It ends when both have ended; where one has failed, it ends the other.
"""

import argparse
import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from hybridflow import environment
from hybridflow.errors import HybridflowError, NoSlotError
from hybridflow.reaper import PASSED_ON, drained, noted_signals
from hybridflow.slurm.allocation import current_allocation, whole_job

__all__ = ["main"]

END_SECONDS = 30.0
"""Time that one command has to end when the other has failed, in seconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the commands; return the exit status of the first that failed, else 0."""
    quantum, classical = _parse(arguments)
    there = _everywhere(classical, beside=bool(quantum))
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(noted_signals())
        programs = [subprocess.Popen(quantum)] if quantum else []
        # Credentials that a plugin has put into this script's environment stay on this node.
        programs.append(subprocess.Popen(there, env=environment.clean(os.environ)))
        for program in programs:
            stack.callback(_kill, program)
        return _supervise(programs, signals)


def _parse(arguments: Sequence[str] | None) -> tuple[list[str], list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m hybridflow.slurm.launcher",
        description="Run COMMAND once on each node of this Slurm job.",
        epilog="example: python -m hybridflow.slurm.launcher -- worker --port 5000",
    )
    parser.add_argument(
        "--quantum",
        metavar="WORDS",
        default="",
        help="run this beside it, on this node, and COMMAND on the nodes of component 1",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    chosen = parser.parse_args(arguments)
    command = chosen.command[1:] if chosen.command[:1] == ["--"] else chosen.command
    if not command:
        parser.error("there is no COMMAND; put it after --")
    return shlex.split(chosen.quantum), command


def _everywhere(command: Sequence[str], *, beside: bool) -> list[str]:
    allocation = current_allocation() if beside else whole_job()
    if allocation is None:
        raise NoSlotError("this is no Slurm job with nodes to start workers on: sbatch starts it")
    return [*allocation.srun(), *command]


def _supervise(programs: Sequence["subprocess.Popen[bytes]"], signals: int) -> int:
    failure, deadline = 0, float("inf")
    while alive := [program for program in programs if program.poll() is None]:
        if not failure and (failure := _failure(programs)):
            deadline = time.monotonic() + END_SECONDS
            _tell(alive, signal.SIGTERM)
        if time.monotonic() > deadline:
            break
        _await_any(alive, signals, END_SECONDS)
        for number in drained(signals):
            if number in PASSED_ON:
                _tell(alive, number)
    return failure or _failure(programs)


def _failure(programs: Sequence["subprocess.Popen[bytes]"]) -> int:
    # As a shell has it; 0: none has failed.
    codes = [program.returncode for program in programs if program.returncode]
    return next((code if code > 0 else 128 - code for code in codes), 0)


def _await_any(alive: Sequence["subprocess.Popen[bytes]"], signals: int, seconds: float) -> None:
    # A program is not reaped but here, so that its number stays its own.
    poller = select.poll()
    with contextlib.ExitStack() as handles:
        for descriptor in (signals, *(os.pidfd_open(program.pid) for program in alive)):
            poller.register(descriptor, select.POLLIN)
            if descriptor != signals:
                handles.callback(os.close, descriptor)
        poller.poll(seconds * 1000)


def _tell(alive: Sequence["subprocess.Popen[bytes]"], number: int) -> None:
    for program in alive:
        program.send_signal(number)


def _kill(program: "subprocess.Popen[bytes]") -> None:
    program.kill()
    program.wait()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HybridflowError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

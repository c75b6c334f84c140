"""The door: runs a command inside a slot, with the slot's broker beside it.

By a route, it runs it inside the slots of all of the route's resources that can be had, with a
broker beside it for each.

::

    door ──► broker process          credentials go there, through a pipe, and nowhere else
      │          ▲ sockets in the slot's folder (HYBRIDFLOW_BROKER)
      └──► reaper ──► COMMAND        in a clean environment (keeper.py, reaper.py)

The folder is removed and every process ended, whichever of them is killed: the broker ends when
the door's end of its pipe closes; the reaper ends the command and removes the folder; the door
restarts a broker and ends a killed reaper's orphans.

Credentials come from the environment, or from the job's one-time file (credentials.py). With them
the broker is told when the job ends, and again when that has changed, so that it starts no vendor
job that would be cut.
"""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import msgspec

from hybridflow import environment
from hybridflow.broker.ledger.opening import slurm_jobs_left
from hybridflow.broker.ledger.owner import JobEnded, nobody_knows
from hybridflow.broker.place import MAX_PATH_BYTES, socket_path
from hybridflow.broker.process import BrokerProcess
from hybridflow.credentials import Credentials
from hybridflow.errors import (
    BrokerLostError,
    HybridflowError,
    InputError,
    InternalError,
    NoSlotError,
    ResourceError,
    SiteError,
    SlurmError,
)
from hybridflow.keeper import GRACE_SECONDS, Keeper
from hybridflow.kernel import forbid_dumps
from hybridflow.lease import Watch
from hybridflow.site import Site
from hybridflow.slot import Slot, find_slots, write_slots
from hybridflow.supervisor import Charge, Supervisors, report, show_end
from hybridflow.walltime import DeadlineWatch, job_deadline

__all__ = ["BROKER_LOST", "DRAIN_SECONDS", "base_folder", "run_in_slot"]

BROKER_LOST = 75
"""Exit status when the command was ended because its broker died and did not come back."""

DRAIN_SECONDS = 10.0
"""Time that the broker has to end its work when the command has ended, in seconds."""


def run_in_slot(
    command: Sequence[str],
    *,
    site: Site,
    resource: str | None = None,
    lease: str | os.PathLike[str] | None = None,
    grace_seconds: float = GRACE_SECONDS,
    job_ended: JobEnded = nobody_knows,
) -> int:
    """Run a command inside a slot and return its exit status.

    Inside a slot already, the command is run in that one. Meant for the main thread of a process of
    its own (``hybridflow slot run``): at the end it ends all processes below this one.

    Parameters
    ----------
    command
        Program and arguments.
    site
        Where the resources are defined.
    resource
        Name of the resource or the route; see :func:`hybridflow.slot.find_slots`.
    lease
        File of the driver's lease: when it is lost, the command is ended.
    grace_seconds
        Time between SIGTERM and SIGKILL for what the command leaves behind, in seconds.
    job_ended
        Asked whether a Slurm job has ended whose broker has left vendor jobs behind in this run.

    Returns
    -------
    int
        The command's exit status, 128 + n if signal n ended it. 127 if the command was not found
        and 126 if it could not be started; :data:`BROKER_LOST` if all brokers stayed dead;
        :data:`hybridflow.keeper.LOST` if the lease was lost.

    Raises
    ------
    NoSlotError, SiteError
        If there is no such slot here.
    AcquireError, ResourceError
        If the resource, or all of the route's, could not be had; the command was not started.
    """
    if not command:
        raise InputError("there is no command to run in the slot; put it after --")
    slots = find_slots(site, resource)
    missing = _not_startable(command[0])
    if missing:
        return missing
    watch = Watch(lease) if lease else None
    variables = environment.clean(os.environ, environment.Role.QUANTUM)
    if site.path is not None:
        variables[environment.SITE] = site.path
    variables[environment.SESSION] = environment.session(os.environ)
    with contextlib.ExitStack() as stack:
        if watch is not None:
            stack.callback(watch.close)
        if slots[0].folder is not None:
            keeper = Keeper(command, variables, lease=watch, grace_seconds=grace_seconds)
            return stack.enter_context(keeper).run()
        # Put back when all that ran in the slot has ended, which must not see them.
        held = [Credentials(os.environ, slot.resource, slot.type) for slot in slots]
        for each in held:
            stack.callback(_put_back, each)
        folder = _make_folder(max((slot.resource for slot in slots), key=len))
        variables[environment.BROKER] = str(folder)
        keeper = Keeper(
            command, variables, folder=str(folder), lease=watch, grace_seconds=grace_seconds
        )
        stack.enter_context(keeper)
        entrance = _Entrance(site, folder, _deadline(), job_ended)
        seats: list[_Seat] = []
        stack.callback(_end_brokers, seats)
        try:
            with _interruptible():
                _take_seats(entrance, slots, held, seats)
        except _Stopped as stopped:
            return 128 + stopped.number
        write_slots([seat.slot for seat in seats], folder)
        return _with_brokers(keeper, seats, entrance.deadline)


class _Seat(NamedTuple):
    # A slot that was entered: its broker runs.
    slot: Slot
    held: Credentials
    charge: Charge


class _Entrance(NamedTuple):
    # What all slots of a folder have in common.
    site: Site
    folder: Path
    deadline: float | None
    job_ended: JobEnded

    def enter(self, slot: Slot, held: Credentials) -> _Seat:
        """Start the broker of a slot, with the resource's credentials."""
        credentials = held.read()
        if credentials:
            forbid_dumps()
        broker = BrokerProcess(
            self.site.resource(slot.resource),
            credentials,
            self.folder,
            deadline=self.deadline,
            ended_jobs=_ended_jobs(slot.resource, self.job_ended),
        )
        _start(broker, credentials)
        token = environment.TOKEN in credentials
        entered = msgspec.structs.replace(slot, token=token, deadline=self.deadline)
        return _Seat(entered, held, Charge(broker, slot.resource, credentials))


def _take_seats(
    entrance: _Entrance, slots: Sequence[Slot], held: Sequence[Credentials], seats: list[_Seat]
) -> None:
    """Enter the slots; of a route's, those that can be had now."""
    errors: list[HybridflowError] = []
    for slot, credentials in zip(slots, held, strict=True):
        try:
            seats.append(entrance.enter(slot, credentials))
        except (ResourceError, NoSlotError) as error:
            if len(slots) == 1:
                raise
            report(f"the route does without {slot.resource!r} in this slot: {error}")
            errors.append(error)
    if not seats:
        raise errors[0]


def _end_brokers(seats: Sequence[_Seat]) -> None:
    for seat in seats:
        seat.charge.broker.kill()


def _start(broker: BrokerProcess, credentials: Mapping[str, str]) -> None:
    try:
        broker.start()
    except (BrokerLostError, InternalError):
        show_end(broker.log, credentials)
        raise


def _deadline() -> float | None:
    try:
        return job_deadline(os.environ)
    except SlurmError as error:
        report(f"when this job ends is not known, vendor jobs may be cut by its end: {error}")
        return None


def _ended_jobs(resource: str, job_ended: JobEnded) -> list[str]:
    # Of those that have left vendor jobs behind in this run: the broker does not know Slurm.
    run = os.environ.get(environment.RUN)
    jobs = slurm_jobs_left(Path(run), resource) if run else ()
    return [job for job in sorted(jobs) if job_ended(job)]


def _not_startable(program: str) -> int:
    # The exit status that a shell has for it; looked at before a QPU is asked for. 0: it is there.
    if shutil.which(program):
        return 0
    there = os.path.dirname(program) and os.path.exists(program)
    reason = "cannot be executed" if there else "command not found"
    report(f"{program}: {reason}")
    return 126 if there else 127


def _put_back(held: Credentials) -> None:
    try:
        held.put_back()
    except SiteError as error:
        # For this command all went well; the next one of this step may miss them.
        report(f"the credentials could not be put back: {error}")


def _with_brokers(keeper: Keeper, seats: Sequence[_Seat], deadline: float | None) -> int:
    def set_deadline(at: float | None) -> None:
        for seat in seats:
            seat.charge.broker.set_deadline(at)

    with DeadlineWatch(os.environ, deadline, set_deadline) as watch:
        supervisors = Supervisors([seat.charge for seat in seats], DRAIN_SECONDS)
        try:
            for seat in seats:
                seat.held.take()  # not before the resource was acquired
            status = keeper.run(stop=supervisors.lost)
        finally:
            watch.look_now()  # what still runs is left running, where it is Slurm who ends this
            supervisors.close()
    return BROKER_LOST if supervisors.failed else status


# --- the broker ----------------------------------------------------------------------------------


class _Stopped(KeyboardInterrupt):
    """The door was told to end while it waited for its broker."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    # Acquiring a QPU can take minutes: a signal must break into that.
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped(number)

    before = {
        number: signal.signal(number, stop)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- the folder ----------------------------------------------------------------------------------


def _make_folder(resource: str) -> Path:
    """Make the folder of a slot: with mode 0700."""
    return Path(tempfile.mkdtemp(prefix="hybridflow-", dir=base_folder(resource)))


def base_folder(resource: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return where slots' folders are made: short enough for a socket's path (107 bytes).

    Raises
    ------
    SiteError
        If there is no such place, because the resource's name is too long.
    """
    for base in _bases(environ):
        # mkdtemp adds eight characters.
        longest = socket_path(base / "hybridflow-12345678", resource)
        if len(os.fsencode(longest)) <= MAX_PATH_BYTES:
            return base
    raise SiteError(
        f"no folder's path is short enough for the socket of {resource!r} (at most "
        f"{MAX_PATH_BYTES} bytes): set TMPDIR to a shorter one, or shorten the resource's name",
        resource=resource,
    )


def _bases(environ: Mapping[str, str]) -> Iterator[Path]:
    runtime = environ.get("XDG_RUNTIME_DIR")
    # It is removed when the user logs out of the node, which a job outlives.
    if runtime and not environment.in_slurm_job(environ) and _is_private(Path(runtime)):
        yield Path(runtime)
    yield Path(tempfile.gettempdir())
    yield Path("/tmp")


def _is_private(folder: Path) -> bool:
    try:
        seen = folder.stat()
    except OSError:
        return False
    mine = seen.st_uid == os.getuid() and seen.st_mode & 0o077 == 0
    return (
        folder.is_absolute() and folder.is_dir() and mine and os.access(folder, os.W_OK | os.X_OK)
    )

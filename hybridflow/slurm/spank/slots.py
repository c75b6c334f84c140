"""What runs as root beside the plugin: reads the definitions, acquires, releases.

The plugin starts it as ``python -I -B slots.py start|end …`` with an empty environment; its
arguments are paths, never a secret. An administrator runs ``slots.py names`` once. It is one file
and imports nothing but the standard library (and ``qrmi``, where a vendor needs it), so that it can
be copied to where only root writes, and be read in five minutes.

::

    stdin: what the job's allocation holds       definitions (0600)
                │                                     │
                └──────────► start / end ◄────────────┘ ──► vendor: acquire, release
                                  │
        stdout: variables         ├──► GRANTS/NODE/jobs/JOB.json             what to release; root's
        for the tasks, or         └──► STATE/NODE/credentials/JOB/STEP.json  the job's user's, 0600
        a reason (status 1)

GRANTS is STATE, unless it is to outlive the node: then it is a folder that slurmctld sees too, and
``epilog_slurmctld.sh`` runs ``slots.py end`` there for jobs whose node has died.
"""

import argparse
import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeVar

_T = TypeVar("_T")

LOCAL_TYPES = frozenset({"aer", "emulator"})
"""Our own types: Slurm's word is enough for them, so their token is made here."""

VENDOR_TYPES = {
    "alice-bob-felis": "AliceBobFelis",
    "ibm-quantum-compute-service": "IBMQuantumComputeService",
    "ibm-quantum-system": "IBMQuantumSystem",
    "iqm-server": "IQMServer",
    "oqtopus": "OQTOPUS",
    "pasqal-cloud": "PasqalCloud",
    "pasqal-local": "PasqalLocal",
    "qiskit-runtime-service": "IBMQiskitRuntimeService",
}
"""Types of the reference plugin, and what the package ``qrmi`` calls them."""

SECRET_TOKEN_TYPES = frozenset({"pasqal-local"})
"""Types whose acquisition token alone opens the QPU: it is a credential."""

NAME = re.compile(r"[\w.-]+", re.ASCII)
_KEY = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# In Slurm's words: qpu:NAME(CNT:2), or qpu:NAME:2(IDX:0-1) where the GRES has device files.
_GRES = re.compile(
    r"(?:^|,)qpu(?::(?P<name>[\w.-]+?))?(?::(?P<some>\d+))?\((?:CNT:(?P<count>\d+)|IDX:[^)]*)\)"
)
_LICENSE = re.compile(r"(?P<name>[\w.-]+)(?::(?P<count>[1-9]\d{0,8}))?", re.ASCII)
_ROOM_BYTES = 1 << 15


class Refusal(Exception):
    """Why a job gets no slot, in words for its user; never with a credential in them."""


# --- definitions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Definition:
    """A resource, as the definition file says."""

    name: str
    type: str
    allocation: str
    environment: Mapping[str, str] = field(repr=False)


def read_definitions(path: Path) -> dict[str, Definition]:
    """Read the definition file: its owner's alone, and well-formed, or refused."""
    try:
        document = json.loads(_read_private(path))
    except ValueError as error:
        raise Refusal(f"the QPU definitions {path} are not valid JSON: {error}") from error
    entries = document.get("resources") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise Refusal(f'the QPU definitions {path} must read {{"resources": […]}}')
    made = [_definition(entry, f"{path}: resource {n}") for n, entry in enumerate(entries, 1)]
    return {one.name: one for one in made}


def _read_private(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refusal(
            f"the QPU definitions {path} cannot be read: {error.strerror}; tell your administrator"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o077:
            raise Refusal(
                f"the QPU definitions {path} are refused, since others may read or change them: "
                f"they must be a file of user {os.geteuid()} with mode 0600, but belong to "
                f"{seen.st_uid} with mode {stat.S_IMODE(seen.st_mode):04o}; tell your administrator"
            )
        return file.read()


def _definition(entry: object, where: str) -> Definition:
    if not isinstance(entry, dict):
        raise Refusal(f"{where} must be an object")
    name, kind = entry.get("name"), entry.get("type")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Refusal(f"{where}: `name` must have letters, digits and `_-.` only")
    types = sorted(LOCAL_TYPES | VENDOR_TYPES.keys())
    if kind not in types:
        raise Refusal(f"{where} ({name}): `type` must be one of {', '.join(types)}")
    allocation = entry.get("allocation", "gres")
    if allocation not in ("gres", "license"):
        raise Refusal(f'{where} ({name}): `allocation` must be "gres" or "license"')
    values = entry.get("environment", {} if kind in LOCAL_TYPES else None)
    if not isinstance(values, dict) or not all(_is_variable(*pair) for pair in values.items()):
        raise Refusal(
            f"{where} ({name}): `environment` must map names of variables to lines of text"
        )
    return Definition(name, kind, allocation, values)


def _is_variable(key: str, value: object) -> bool:
    return bool(_KEY.fullmatch(key)) and isinstance(value, str) and value.isprintable()


# --- what the job holds ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What the plugin says about a job's step on this node."""

    id: int
    step: int = 0
    uid: int = 0
    gid: int = 0
    began: int = 0
    minutes: int | None = None
    partial: bool = False
    asked: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    gres: Mapping[str, int] = field(default_factory=dict)
    licenses: Mapping[str, int] = field(default_factory=dict)


def read_job(text: str) -> Job:
    """Read the plugin's lines ``key value``; a key may come several times."""
    lines: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        lines.setdefault(key, []).append(value)
    number = {key: int(values[0]) for key, values in lines.items() if values[0].isdecimal()}
    return Job(
        id=number["job"],
        step=number.get("step", 0),
        uid=number.get("uid", 0),
        gid=number.get("gid", 0),
        began=number.get("began", 0),
        minutes=number.get("minutes"),
        partial=bool(number.get("partial")),
        asked=tuple(",".join(lines.get("asked", [])).split(",")) if "asked" in lines else (),
        held=frozenset(_gres(lines.get("gres", []))) | _licenses(lines.get("licenses", [])).keys(),
        gres=_gres(lines.get("gres-here", [])),
        licenses=_licenses(lines.get("licenses-here", [])),
    )


def _gres(texts: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for match in _GRES.finditer(",".join(texts)):
        name, count = match["name"] or "", int(match["count"] or match["some"] or 1)
        if count:
            found[name] = found.get(name, 0) + count
    return found


def _licenses(texts: list[str]) -> dict[str, int]:
    # The user's own words, not Slurm's: it takes ``NAME:``, ``NAME: 0`` and ``NAME:4294967296`` for
    # none of the licence, and starts the job. So what is not plainly a number is no slot.
    matches = map(_LICENSE.fullmatch, ",".join(texts).split(","))
    return {match["name"]: int(match["count"] or 1) for match in matches if match}


def slots_here(job: Job, definitions: Mapping[str, Definition]) -> dict[str, int]:
    """Return the slots that the job holds on this node, those that it asked for first."""
    if "" in job.gres:
        raise Refusal("the GRES qpu has no type, so it names no QPU: gres.conf needs Type=NAME")
    for name in job.gres:
        if name not in definitions:
            raise Refusal(f"the job holds a slot of {name}, which no QPU definition describes")
        # Granted by both, the slots of one QPU would be counted twice.
        if definitions[name].allocation != "gres":
            raise Refusal(f"the job holds {name} as a GRES, but it is granted by licence alone")
    kept = dict(job.gres)
    for name, count in job.licenses.items():
        if name in definitions and definitions[name].allocation == "license":
            kept[name] = count
    return dict(sorted(kept.items(), key=lambda pair: _place(pair[0], job.asked)))


def _place(name: str, order: tuple[str, ...]) -> int:
    return order.index(name) if name in order else len(order)


def check_asked(job: Job) -> None:
    """Refuse a job that asked for what its allocation, all components of it, does not hold."""
    for name in job.asked:
        if name not in job.held:
            raise Refusal(
                f"--qpu={','.join(job.asked)} was given, but the job's allocation holds no slot of "
                f"{name}: the site's cli_filter.lua was not in force where the job was submitted. "
                f"Submit with --gres=qpu:{name}:1 (or, for a QPU behind a licence, "
                f"--licenses={name}:1) as well"
            )


# --- vendors --------------------------------------------------------------------------------------


class Vendor:
    """Acquires and releases, all within one span of time."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def acquire(self, definition: Definition) -> str:
        """Return the token of a new acquisition."""
        if definition.type in LOCAL_TYPES:
            return uuid.uuid4().hex
        return self._ask(definition, lambda handle: str(handle.acquire()), "acquired")

    def release(self, definition: Definition, token: str) -> None:
        """Give an acquisition back."""
        if definition.type not in LOCAL_TYPES:
            self._ask(definition, lambda handle: handle.release(token), "released")

    def _ask(self, definition: Definition, call: Callable[[Any], _T], done: str) -> _T:
        try:
            return self._in_time(lambda: call(_handle(definition)))
        except Refusal as error:
            reason = str(error)
        except Exception as error:
            # Whatever the vendor's package raises, its text is the reason.
            reason = f"{type(error).__name__}: {error}"
        raise Refusal(f"{definition.name} cannot be {done}: {_redact(reason, definition)}")

    def _in_time(self, call: Callable[[], _T]) -> _T:
        # A thread, since a call into the vendor's package cannot be interrupted.
        results: list[_T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(call())
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(max(0.0, self._deadline - time.monotonic()))
        if errors:
            raise errors[0]
        if not results:
            raise Refusal("the vendor gave no answer in time")
        return results[0]


def _handle(definition: Definition) -> Any:
    try:
        import qrmi  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise Refusal(
            f"the type {definition.type} needs the Python package qrmi, which {sys.executable} "
            "cannot import; tell your administrator"
        ) from error
    kind = getattr(qrmi.ResourceType, VENDOR_TYPES[definition.type])
    return qrmi.QuantumResource.from_config(definition.name, kind, dict(definition.environment))


def _redact(text: str, definition: Definition) -> str:
    for value in sorted(definition.environment.values(), key=len, reverse=True):
        text = text.replace(value, "***") if len(value) > 3 else text
    return " ".join(text.split())


# --- what is kept on the node ---------------------------------------------------------------------


@dataclass
class Grant:
    """What a job has acquired on this node: a file, locked while it is used."""

    file: int
    began: int = 0
    complete: bool = False
    acquired: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, seconds: float) -> Iterator["Grant"]:
        """Open and lock; two steps of a job may start at once."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            _lock(descriptor, time.monotonic() + seconds)
            text = file.read()
            try:
                grant = cls(descriptor, **json.loads(text)) if text else cls(descriptor)
            except (ValueError, TypeError) as error:
                raise Refusal(f"{path} is damaged: {error}; tell your administrator") from error
            yield grant

    def save(self) -> None:
        """Write it down: what is acquired is released at the job's end, whatever happens next."""
        kept = {"began": self.began, "complete": self.complete, "acquired": self.acquired}
        # Blanks reserve room: on a full disk the first of these fails, before anything is
        # acquired, and never the one that writes down a token.
        text = json.dumps(kept).encode().ljust(_ROOM_BYTES)
        if os.pwrite(self.file, text, 0) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(self.file, len(text))


def _lock(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise Refusal("another step of this job is still acquiring its QPUs") from error
            time.sleep(0.05)


def _folder(path: Path, mode: int) -> Path:
    path.mkdir(mode=mode, exist_ok=True)
    path.chmod(mode)
    return path


@dataclass(frozen=True)
class Node:
    """Where a node's files lie: what its jobs have to release, and their credentials."""

    grants: Path
    state: Path

    @classmethod
    def of(cls, name: str, state: Path, grants: Path | None = None) -> "Node":
        """Return the folders of the node of this name."""
        return cls((grants or state) / name, state / name)

    def make(self) -> None:
        """Make the folders, where they are missing."""
        for folder in (self.grants, self.state):
            _folder(folder.parent, 0o711)
            _folder(folder, 0o711)
        _folder(self.grants / "jobs", 0o700)

    def grant(self, job: Job | str) -> Path:
        """Return the path of a job's grant; the plugin looks for it too."""
        return self.grants / "jobs" / f"{job.id if isinstance(job, Job) else job}.json"

    def sweep(self) -> None:
        """Remove the credentials of jobs that ended while the node was dead: they have no grant."""
        for folder in self.state.glob("credentials/*"):
            if not self.grant(folder.name).exists():
                _remove_folder(folder)


def write_credentials(node: Node, job: Job, values: Mapping[str, Mapping[str, str]]) -> Path:
    """Write the file that the door reads and removes: the job's user's, in a folder of his."""
    folder = _folder(node.state / "credentials", 0o711) / str(job.id)
    folder.mkdir(mode=0o700, exist_ok=True)  # another step may just be making it
    os.chown(folder, job.uid, job.gid)
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    name = f"{job.step}.json"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place)
    # The folder is its user's, who might put a link there: create, never follow.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(name, flags, 0o600, dir_fd=place)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchown(descriptor, job.uid, job.gid)
        json.dump(values, file)
    os.close(place)
    return folder / name


# --- the commands ---------------------------------------------------------------------------------


def start(job: Job, path: Path, node: Node, seconds: float) -> Iterator[str]:
    """Acquire what the job holds on this node, unless an earlier step has; yield the output."""
    check_asked(job)
    if not job.gres and not job.licenses:
        return
    definitions = read_definitions(path)
    slots = slots_here(job, definitions)
    if not slots:
        return
    node.make()
    node.sweep()
    vendor = Vendor(seconds)
    with Grant.open(node.grant(job), seconds) as grant:
        if not (grant.complete and grant.began == job.began):
            release(grant, vendor, path)  # of an earlier run of the job, or of a helper that died
            yield from acquire(job, slots, grant, vendor, path)
        acquired = dict(grant.acquired)
    yield from variables(job, acquired, definitions, node)


def acquire(
    job: Job,
    slots: Mapping[str, int],
    grant: Grant,
    vendor: Vendor,
    path: Path,
) -> Iterator[str]:
    """Acquire all, or with ``--qpu-partial`` what can be had; yield a remark for each other one."""
    reasons = []
    definitions = read_definitions(path)
    grant.began = job.began
    grant.save()
    for name, count in slots.items():
        try:
            token = vendor.acquire(definitions[name])
        except Refusal as error:
            reasons.append(str(error))
            continue
        grant.acquired[name] = {"type": definitions[name].type, "token": token, "slots": count}
        grant.save()
    if reasons and not (job.partial and grant.acquired):
        try:
            release(grant, vendor, path)
        except Refusal as error:
            reasons.append(str(error))
        raise Refusal("\n".join(reasons))
    grant.complete = True
    grant.save()
    yield from (f"# {reason}" for reason in reasons)


def variables(
    job: Job,
    acquired: Mapping[str, Mapping[str, Any]],
    definitions: Mapping[str, Definition],
    node: Node,
) -> Iterator[str]:
    """Yield what the tasks get, as lines ``NAME=value``; credentials go into a file instead."""
    for owner in ("QRMI", "SLURM"):
        yield f"{owner}_JOB_QPU_RESOURCES={','.join(acquired)}"
        yield f"{owner}_JOB_QPU_TYPES={','.join(one['type'] for one in acquired.values())}"
    yield "QRMI_LIST_DELIMITER=,"
    yield f"QRMI_JOB_ID={job.id}"
    yield f"QRMI_JOB_UID={job.uid}"
    secrets: dict[str, dict[str, str]] = {}
    for name, one in acquired.items():
        yield f"{name}_QRMI_JOB_QPU_SLOTS={one['slots']}"
        if job.minutes is not None:
            yield f"{name}_QRMI_JOB_TIMEOUT_SECONDS={60 * job.minutes}"
        secrets[name] = dict(definitions[name].environment) if name in definitions else {}
        if one["type"] in SECRET_TOKEN_TYPES:
            secrets[name]["QRMI_JOB_ACQUISITION_TOKEN"] = one["token"]
        else:
            yield f"{name}_QRMI_JOB_ACQUISITION_TOKEN={one['token']}"
    if any(secrets.values()):
        yield f"HYBRIDFLOW_CREDENTIALS={write_credentials(node, job, secrets)}"


def release(grant: Grant, vendor: Vendor, path: Path) -> None:
    """Release all that a job has on this node; what cannot be stays written down."""
    reasons = []
    grant.complete = False
    for name, one in list(grant.acquired.items()):
        try:
            local = Definition(name, one["type"], "gres", {})
            definition = local if one["type"] in LOCAL_TYPES else read_definitions(path).get(name)
            if definition is None:
                raise Refusal(f"{name} cannot be released: {path} defines it no more")
            vendor.release(definition, one["token"])
        except Refusal as error:
            reasons.append(str(error))
            continue
        del grant.acquired[name]
        grant.save()
    if reasons:
        raise Refusal("\n".join(reasons))


def end(job: Job, path: Path, node: Node, seconds: float) -> Iterator[str]:
    """Release what the job has on the node, and remove its files."""
    try:
        with Grant.open(node.grant(job), seconds) as grant:
            release(grant, Vendor(seconds), path)
            node.grant(job).unlink(missing_ok=True)  # epilog_slurmctld.sh may have been first
    finally:
        # Last, and by a program of its own: the folder was its user's, who may have put more into
        # it than can be removed in time, or folders deeper than Python can follow.
        _remove_folder(node.state / "credentials" / str(job.id))
    yield from ()


def _remove_folder(folder: Path) -> None:
    # Not our standard output, for whose end slurmd waits.
    subprocess.run(["/bin/rm", "-rf", "--", str(folder)], stdout=subprocess.DEVNULL, check=False)


def names(path: Path) -> Iterator[str]:
    """Yield the list of names, which everybody may read: ``NAME gres`` or ``NAME license``."""
    yield "# Made by `slots.py names` from the QPU definitions: make it anew when they change."
    for one in read_definitions(path).values():
        yield f"{one.name} {one.allocation}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["start", "end", "names"])
    parser.add_argument("--definitions", type=Path, default=Path("/etc/hybridflow/qpus.json"))
    parser.add_argument("--state", type=Path, default=Path("/run/hybridflow"))
    parser.add_argument("--grants", type=Path, help="[default: the folder of --state]")
    parser.add_argument("--node", default=os.uname().nodename)
    parser.add_argument("--seconds", type=float, default=60.0)
    return parser.parse_args()


def main(answer: TextIO) -> int:
    """Run a command; return its exit status. With 1, what was answered is the reason."""
    given = _arguments()
    try:
        if given.command == "names":
            lines = list(names(given.definitions))
        else:
            work = start if given.command == "start" else end
            job = read_job(sys.stdin.read())
            node = Node.of(given.node, given.state, given.grants)
            lines = list(work(job, given.definitions, node, given.seconds))
    except Refusal as error:
        print(error, file=answer)
        return 1
    except OSError as error:
        reason = f"{error.filename or 'the node'}: {error.strerror}; tell your administrator"
        print(reason, file=answer)
        return 1
    print(*lines, sep="\n", file=answer)
    return 0


if __name__ == "__main__":
    os.umask(0o077)
    # What a vendor's package prints is no answer, and what it starts keeps no plugin waiting.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)
        status = main(stdout)
    os._exit(status)  # a call that hangs in the vendor's package must not hold this process

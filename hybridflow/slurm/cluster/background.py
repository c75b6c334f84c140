"""A local cluster that outlives the command that started it: ``hybridflow cluster up``.

::

    start_background() ──► python -m hybridflow.slurm.cluster.background OPTIONS
        reads one line:  ◄── stdout: "{}" when it is up, or the error that it met
    FOLDER/cluster.json: which process that is, and what the cluster has     ──► find_background()

The process holds a :class:`~hybridflow.slurm.cluster.SlurmCluster` until it gets SIGTERM; if it is
killed, the cluster ends too.
"""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from hybridflow.errors import ClusterError, ErrorRecord, HybridflowError, InputError
from hybridflow.slurm.cluster.cluster import SlurmCluster
from hybridflow.slurm.cluster.site_file import site_file

__all__ = [
    "BackgroundCluster",
    "Options",
    "default_folder",
    "end_background",
    "find_background",
    "start_background",
]

_STATE = "cluster.json"
_END_SECONDS = 60.0
_SWEEP_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_ENDS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster is made of: arguments of :class:`SlurmCluster`."""

    nodes: int
    qpus: dict[str, int]
    licenses: dict[str, int]
    accounting: bool
    plugin: bool
    definitions: str | None
    folder: str


class BackgroundCluster(msgspec.Struct, frozen=True, kw_only=True):
    """A running cluster, as its folder describes it.

    Attributes
    ----------
    pid, created
        The process that holds it, and when that began, in Unix time.
    options
        What it is made of.
    nodes
        Names of its nodes.
    environ
        What its users add to their environment.
    site
        A site file with its QPUs; None if only their definitions say what they are.
    """

    pid: int
    created: float
    options: Options
    nodes: tuple[str, ...]
    environ: dict[str, str]
    site: str | None = None

    @property
    def folder(self) -> Path:
        """Where it lives."""
        return Path(self.options.folder)

    def process(self) -> psutil.Process | None:
        """Return the process that holds it; None if that has ended."""
        try:
            found = psutil.Process(self.pid)
            # Its id may have passed to another process; a zombie has ended.
            same = found.create_time() == self.created
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def default_folder() -> Path:
    """Return where this user's cluster lives if no other place is named."""
    return Path(tempfile.gettempdir()) / f"hybridflow-cluster-{os.geteuid()}"


def start_background(options: Options) -> BackgroundCluster:
    """Start a cluster that lives until :func:`end_background`.

    Parameters
    ----------
    options
        What it is made of; the folder as an absolute path.

    Raises
    ------
    InputError
        If there is one in that folder already, or if the options cannot be.
    MissingProgramError, ClusterError
        If it does not come up.
    """
    folder = Path(options.folder)
    if (folder / _STATE).exists():
        raise InputError(
            f"there is a local cluster in {folder} already: use it, end it with `hybridflow "
            "cluster down`, or give another --folder"
        )
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, msgspec.json.encode(options).decode()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Not the terminal's: its Ctrl-C and its end are for the command.
        start_new_session=True,
        cwd="/",
    )
    try:
        _read_answer(process)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return find_background(folder)


def _read_answer(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdout is not None
    said = b""
    for line in process.stdout:
        try:
            answer = msgspec.json.decode(line, type=ErrorRecord | None)
        except msgspec.DecodeError:
            said += line
        else:
            if answer is not None:
                raise answer.error()
            return
    raise ClusterError(
        f"the process of the local cluster ended with exit status {process.wait()} before it was "
        f"up; it said:\n{said.decode(errors='replace')}"
    )


def find_background(folder: Path) -> BackgroundCluster:
    """Return the cluster that lives in a folder.

    Raises
    ------
    InputError
        If there is none, or if the folder is not this user's alone to write to.
    """
    try:
        _check_owner(folder)
        return msgspec.json.decode((folder / _STATE).read_bytes(), type=BackgroundCluster)
    except FileNotFoundError as error:
        raise InputError(
            f"there is no local cluster in {folder}; start one with `hybridflow cluster up`, or "
            "name its --folder"
        ) from error
    except msgspec.DecodeError as error:
        raise InputError(f"{folder / _STATE} does not describe a local cluster: {error}") from error


def _check_owner(folder: Path) -> None:
    # What stands there becomes commands of the user's shell.
    seen = os.lstat(folder)
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
        raise InputError(
            f"{folder} is not a folder that this user alone can write to: it cannot be trusted; "
            "name another --folder"
        )


def end_background(cluster: BackgroundCluster) -> None:
    """End a cluster with all its jobs, and wait until nothing is left of it.

    Raises
    ------
    ClusterError
        If something is left.
    """
    process = cluster.process()
    if process is not None:
        process.terminate()
        if not _removed(cluster.folder, _END_SECONDS):
            raise ClusterError(
                f"the local cluster in {cluster.folder} has not ended after {_END_SECONDS:g} s: "
                f"end process {cluster.pid}, and try again"
            )
    elif not _removed(cluster.folder, _SWEEP_SECONDS):
        # It ended with the machine, say, and nobody was left to remove the folder.
        shutil.rmtree(cluster.folder)


def _removed(folder: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while folder.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _write_state(cluster: SlurmCluster, options: Options) -> None:
    own = psutil.Process()
    state = BackgroundCluster(
        pid=own.pid,
        created=own.create_time(),
        options=options,
        nodes=cluster.nodes,
        environ=cluster.environ,
        site=_write_site(cluster, options),
    )
    file = cluster.folder / _STATE
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(msgspec.json.encode(state))


def _write_site(cluster: SlurmCluster, options: Options) -> str | None:
    if options.definitions is not None or not (options.qpus or options.licenses):
        return None
    file = cluster.folder / "etc" / "site.toml"
    text = site_file(cluster.shape, plugin=options.plugin)
    file.write_text(text, encoding="utf-8")
    file.chmod(0o644)
    return str(file)


def _answer(error: HybridflowError | None) -> None:
    record = None if error is None else ErrorRecord.of(error)
    print(msgspec.json.encode(record).decode(), flush=True)


def _redirect_output(file: Path) -> None:
    # Who started this process reads no more.
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)


def main(arguments: list[str]) -> int:
    """Hold a cluster until SIGTERM; the one argument is :class:`Options` as JSON."""
    options = msgspec.json.decode(arguments[0], type=Options)
    try:
        # Until it is up, a signal kills this process, and with it all that it has started.
        with SlurmCluster(**msgspec.structs.asdict(options)) as cluster:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
            _write_state(cluster, options)
            _answer(None)
            _redirect_output(cluster.folder / "log" / "holder.out")
            signal.sigwait(_ENDS)
    except HybridflowError as error:
        _answer(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

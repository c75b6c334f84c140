"""A resource's credentials: from the one-time file of our plugin, or from the environment.

The file is the job's user's, with mode 0600, on the slot's node alone: JSON of
``{"RESOURCE": {"QRMI_…": "value"}}``. They are in one hand at a time. Whoever passes the door for a
resource reads its part, and takes it out of the file when the resource was acquired, so that one
who could not have it may try again; with the last part the file is removed. When all that ran in
the slot has ended, the door puts its part back for the next one, such as a restarted block of an
engine. What a killed door had is lost to this step: each step of Slurm's has a file of its own. The
reference plugin has no such file: it puts the same keys into the job's environment.
"""

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from hybridflow import environment
from hybridflow.errors import NoSlotError, SiteError
from hybridflow.grants import loses_variables

__all__ = ["MAX_BYTES", "Credentials"]

MAX_BYTES = 1 << 20
"""Size of a credentials file at most."""

_Content = dict[str, dict[str, str]]


class Credentials:
    """The credentials of one resource, as this process finds, takes and puts them back.

    Parameters
    ----------
    environ
        The job's variables; they are not changed.
    resource
        Name of the resource.
    kind
        Its type, as the plugin says it: a vendor's type needs credentials.
    """

    def __init__(self, environ: Mapping[str, str], resource: str, kind: str = "") -> None:
        self._environ = environ
        self._resource = resource
        self._kind = kind
        self._file = environ.get(environment.CREDENTIALS)
        self._read: dict[str, str] = {}
        self._taken: dict[str, str] = {}

    def read(self) -> dict[str, str]:
        """Return them.

        Raises
        ------
        SiteError
            If the file is not private, or not what the plugin writes.
        NoSlotError
            If the type needs credentials and there are none here, or not now.
        """
        if self._file:
            self._read = _read_part(Path(self._file), self._resource)
        found = environment.credentials(self._environ, self._resource) | self._read
        if self._kind in environment.VENDOR_TYPES and not found.keys() - {environment.TOKEN}:
            raise NoSlotError(_why_none(self._resource, self._file), resource=self._resource)
        return found

    def take(self) -> None:
        """Take what was read out of the one-time file, if there is one, and with the last the file.

        Raises
        ------
        SiteError
            If the file is not private, not what the plugin writes, or cannot be removed.
        NoSlotError
            If another process has taken them meanwhile.
        """
        if not self._file or not self._read:
            return
        self._taken = _remove_part(Path(self._file), self._resource)
        if not self._taken:
            raise NoSlotError(_why_none(self._resource, self._file), resource=self._resource)

    def put_back(self) -> None:
        """Put back what was taken; nothing if the step has ended, and its folder with it.

        Raises
        ------
        SiteError
            If the file cannot be written, or has become what the plugin does not write.
        """
        if self._file and self._taken:
            part, self._taken = self._taken, {}
            _add_part(Path(self._file), self._resource, part)


def _why_none(resource: str, file: str | None) -> str:
    lost = f"the credentials of {resource!r} are not here: "
    if file:
        return (
            f"{lost}{environment.CREDENTIALS} names {file}, which is on the slot's node alone, and "
            "another `hybridflow slot run` of this step has them until it ends (or was killed); "
            "start both commands inside one slot (hybridflow slot run -- SCRIPT), or this one as a "
            "step of its own (srun --overlap --ntasks=1 hybridflow slot run -- COMMAND)"
        )
    if loses_variables(resource):
        return (
            f"{lost}/bin/sh has dropped the variables {resource}_QRMI_…, whose names it does not "
            "allow; begin the job's script with #!/bin/bash, or have the resource renamed with "
            "letters, digits and _ only"
        )
    return (
        f"{lost}no variable {resource}_QRMI_… is set, and {environment.CREDENTIALS} is not; start "
        "the door in the job's own script, with its environment as Slurm made it"
    )


def _read_part(file: Path, resource: str) -> dict[str, str]:
    with _opened(file) as descriptor:
        return {} if descriptor is None else _content(descriptor, file).get(resource, {})


def _remove_part(file: Path, resource: str) -> dict[str, str]:
    with _opened(file) as descriptor:
        if descriptor is None:
            return {}
        content = _content(descriptor, file)
        part = content.pop(resource, {})
        if any(content.values()):
            _write(descriptor, content, file)
        else:
            _remove(file)
        return part


def _add_part(file: Path, resource: str, part: dict[str, str]) -> None:
    with _opened(file) as descriptor:
        if descriptor is not None:
            _write(descriptor, _content(descriptor, file) | {resource: part}, file)
            return
    try:
        _create(file, {resource: part})
    except FileNotFoundError:
        return  # the folder: the job has ended
    except FileExistsError:
        _add_part(file, resource, part)  # another door has just put its own part back
    except OSError as error:
        raise SiteError(f"{_where(file)} cannot be written: {error.strerror}; {_AGAIN}") from error


def _create(file: Path, content: _Content) -> None:
    # Nobody sees it before it is whole. Its mode is 0600.
    with tempfile.NamedTemporaryFile(dir=file.parent) as draft:
        draft.write(msgspec.json.encode(content))
        draft.flush()
        os.link(draft.name, file)


def _write(descriptor: int, content: _Content, file: Path) -> None:
    # Over what was there, padded with blanks: a full disk or a kill loses no other's part.
    text = msgspec.json.encode(content).ljust(os.fstat(descriptor).st_size)
    try:
        os.posix_fallocate(descriptor, 0, len(text))
        os.pwrite(descriptor, text, 0)
    except OSError as error:
        raise SiteError(f"{_where(file)} cannot be written: {error.strerror}; {_AGAIN}") from error


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise SiteError(f"{_where(file)} cannot be removed: {error.strerror}; {_AGAIN}") from error


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[int | None]:
    # None: it was taken. O_NONBLOCK: what is no file, but a pipe, must not hold us up.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(file, flags)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        what = "a link" if error.errno == errno.ELOOP else error.strerror
        raise SiteError(f"{_where(file)} cannot be opened: {what}; {_AGAIN}") from error
    try:
        _check(descriptor, file)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Another door may have taken the last part while this one waited.
        yield descriptor if os.fstat(descriptor).st_nlink else None
    finally:
        os.close(descriptor)


def _check(descriptor: int, file: Path) -> None:
    seen = os.fstat(descriptor)
    if not stat.S_ISREG(seen.st_mode):
        raise SiteError(f"{_where(file)} is no regular file; {_AGAIN}")
    if seen.st_uid != os.geteuid():
        raise SiteError(
            f"{_where(file)} belongs to user {seen.st_uid}, not to {os.geteuid()}; {_AGAIN}"
        )
    if seen.st_mode & 0o077:
        raise SiteError(
            f"{_where(file)} has mode {stat.S_IMODE(seen.st_mode):04o}: others can read what is in "
            f"it, which has to be replaced now; {_AGAIN}"
        )
    if seen.st_size > MAX_BYTES:
        raise SiteError(f"{_where(file)} has {seen.st_size:,} bytes of {MAX_BYTES:,}; {_AGAIN}")


def _content(descriptor: int, file: Path) -> _Content:
    data = os.pread(descriptor, MAX_BYTES + 1, 0)
    if len(data) > MAX_BYTES:
        raise SiteError(f"{_where(file)} has more than {MAX_BYTES:,} bytes; {_AGAIN}")
    try:
        return msgspec.json.decode(data, type=_Content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    # Outside the handler: msgspec's message, and its traceback, may quote what is in the file. It
    # stays where it is: it may be anything that the variable was pointed at.
    raise SiteError(f"{_where(file)} holds no credentials as the plugin writes them; {_AGAIN}")


def _where(file: Path) -> str:
    return f"{environment.CREDENTIALS}: {file}"


_AGAIN = "only the Slurm plugin makes this file: submit the job again, or tell the administrator"

"""A private folder of a cluster that goes when the cluster goes, even if that is killed.

::

    driver ──────────────► pipe ──► guard: removes the folder when nobody holds the pipe any more
      └─► doors, workers ──► (inherited)

It holds the keys of the cluster's encryption, the driver's lease, and what workers write to disk.
The guard is this file, run by path: the standard library alone, some 20 ms.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["PrivateFolder"]

_GUARD_SECONDS = 10.0


class PrivateFolder:
    """A folder (mode 0700) that is removed when this process and all that share it have ended.

    Parameters
    ----------
    base
        Where to make it.

    Attributes
    ----------
    path
        The folder.
    handle
        A descriptor; a process that inherits it keeps the folder until it has ended, too.
    """

    def __init__(self, base: str | os.PathLike[str]) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="hybridflow-dask-", dir=base))
        reader, self.handle = os.pipe()
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(reader), str(self.path)],
                cwd="/",
                stdin=subprocess.DEVNULL,
                pass_fds=[reader],
                # Neither the terminal's Ctrl-C nor its end is meant for it.
                start_new_session=True,
            )
        except BaseException:  # also Ctrl-C: without a guard nobody would remove the folder
            os.close(self.handle)
            self.path.rmdir()
            raise
        finally:
            os.close(reader)

    def write(self, name: str, text: str) -> str:
        """Write a file (mode 0600) and return its path."""
        file = self.path / name
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        return str(file)

    def close(self) -> None:
        """Remove the folder; may be called twice."""
        if self._guard.returncode is not None:
            return
        os.close(self.handle)
        # Somebody else may hold on to the pipe (a process that the user's program has forked).
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(_GUARD_SECONDS)
        self._guard.kill()
        self._guard.wait()
        shutil.rmtree(self.path, ignore_errors=True)


def _guard(reader: int, folder: str) -> None:
    # A Slurm job that is cancelled ends with SIGTERM for all its processes, and SIGKILL later.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.read(reader, 1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(int(sys.argv[1]), sys.argv[2])

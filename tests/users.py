"""Programs for tests, run as other users of this machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import hybridflow


def python_of(user: str) -> list[str]:
    """Return a Python with hybridflow that another user may run: ours may lie in root's home."""
    packages = [str(Path(hybridflow.__file__).parents[1]), str(Path(psutil.__file__).parents[1])]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for program in (sys.executable, shutil.which(version, path="/usr/bin:/bin")):
        if program is not None:
            path = f"PYTHONPATH={os.pathsep.join(packages)}"
            clean = [shutil.which("runuser") or "runuser", "-u", user, "--", "env", "-i", path]
            command = [*clean, "PATH=/usr/bin:/bin", program, "-B"]
            test = [*command, "-c", "import hybridflow.slurm.cluster"]
            if subprocess.run(test, check=False, cwd="/", capture_output=True).returncode == 0:
                return command
    pytest.skip(f"no {version} that an ordinary user may run can import hybridflow here")

"""Parsl's own tests, which are in its wheel, on a QPU executor: what Parsl promises still holds."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import parsl
import pytest

SECONDS = 240

# Left out are tests that need the network, or a user who is not root; and the one that asserts that
# the executor is one of Parsl's own classes (as Parsl does for third-party executors).
LEFT_OUT = "not cleannet and not unix_filesystem_permissions_required and not issue_3620"

CONFIG = """
from parsl.config import Config
from hybridflow_parsl import QPUExecutor

def fresh_config():
    executor = QPUExecutor(site="site.toml", tasks_per_slot=2, require_mark=False)
    return Config(executors=[executor], strategy_period=0.5)
"""

SITE = """
[qpu.fake]
backend = "fake"
"""

# Files that cannot even be imported without a package that Parsl calls optional.
OPTIONAL = {
    "sqlalchemy": ("test_monitoring", "test_kill_monitoring.py"),
    "pandas": ("test_226.py",),
}

PLUGIN = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_ignore_collect(collection_path):
    return True if collection_path.name in {names!r} else None
"""


@pytest.mark.timeout(SECONDS + 10)
def test_parsls_own_suite_passes(tmp_path: Path) -> None:
    missing = [name for package in OPTIONAL if not find_spec(package) for name in OPTIONAL[package]]
    for name, text in {
        "config.py": CONFIG,
        "site.toml": SITE,
        "left_out.py": PLUGIN.format(names=missing),
        # Else pytest would find this project's, and be strict about Parsl's tests.
        "pytest.ini": "[pytest]\n",
    }.items():
        (tmp_path / name).write_text(text)
    suite = Path(parsl.__file__).parent / "tests"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(suite), "--config", "config.py"),
            *("-c", "pytest.ini", "--rootdir", ".", "-p", "left_out", "-p", "no:cacheprovider"),
            *("-k", LEFT_OUT, "-q", "--timeout", "60"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) >= 130

"""The rules of the house: what is public, what imports what, what a bare import costs."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hybridflow

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "hybridflow",
    "hybridflow.backends",
    "hybridflow.broker",
    "hybridflow.dashboard",
    "hybridflow.doctor",
    "hybridflow.emulator",
    "hybridflow.primitives",
    "hybridflow.report",
    "hybridflow.slurm.spank",
    "hybridflow.slurm",
    "hybridflow.testing",
    "hybridflow_dask",
    "hybridflow_parsl",
    "hybridflow_workflows.sqd",
)


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_exist_and_are_sorted(name: str) -> None:
    """What ``__all__`` promises can be imported, and is listed in order."""
    package = importlib.import_module(name)
    assert list(package.__all__) == sorted(package.__all__, key=str)
    missing = [public for public in package.__all__ if not hasattr(package, public)]
    assert not missing


def test_every_lazy_name_is_promised() -> None:
    """The names that are imported on first use are exactly the public ones."""
    assert set(hybridflow._HOME) | {"__version__"} == set(hybridflow.__all__)


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sampler'"):
        _ = hybridflow.sampler  # type: ignore[attr-defined]


def test_a_bare_import_loads_nothing_heavy() -> None:
    """``import hybridflow`` loads neither Qiskit nor an engine, nor what they are made of."""
    code = "import hybridflow, sys; print(*sorted(m.split('.')[0] for m in sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(run.stdout.split())
    assert not loaded & {"qiskit", "qiskit_aer", "numpy", "parsl", "pyscf", "jax", "zmq", "bokeh"}


def test_imports_go_down_only() -> None:
    """The contracts in ``pyproject.toml`` hold."""
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_version_stands_in_one_spelling() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == hybridflow.__version__


def test_every_extra_but_the_tools_is_in_all() -> None:
    """``hybridflow[all]`` brings every extra that a user needs."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (everything,) = extras["all"]
    named = set(everything.removeprefix("hybridflow[").removesuffix("]").split(","))
    assert named == set(extras) - {"all", "test", "docs"}

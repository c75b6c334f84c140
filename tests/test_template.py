"""The template of a vendor's package: built as a wheel, installed apart, tested and used there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).parent.parent / "templates" / "backend"

CALL = """
import hybridflow as hf
from qiskit import QuantumCircuit

circuit = QuantumCircuit(2)
circuit.x([0, 1])
circuit.measure_all()
result = hf.Sampler(transpile=True, seed=1).run([circuit], shots=50).result()
print(result[0].data.meas.get_counts(), result.metadata["hybridflow"]["backend"])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the template's package in it, by way of a wheel; no package index is asked."""
    folder = tmp_path_factory.mktemp("vendor")
    shutil.copytree(TEMPLATE, folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    wheels = ["--no-build-isolation", "--wheel-dir", str(folder / "wheels"), str(folder / "source")]
    subprocess.run([*pip, "wheel", *alone, *wheels], check=True, timeout=100)
    (wheel,) = (folder / "wheels").glob("acme_qpu-*.whl")
    target = ["--target", str(folder / "site"), str(wheel)]
    subprocess.run([*pip, "install", *alone, *target], check=True, timeout=100)
    return folder


def run(folder: Path, *arguments: str, **variables: str) -> str:
    environ = os.environ | {"PYTHONPATH": str(folder / "site")} | variables
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_passes_its_own_test(installed: Path) -> None:
    where = "import acme_qpu; print(acme_qpu.__file__)"
    assert str(installed / "site") in run(installed, "-c", where)
    file = str(installed / "source" / "tests" / "test_conformance.py")
    assert "1 passed" in run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", file)


def test_a_site_file_names_it(installed: Path) -> None:
    site = installed / "site.toml"
    site.write_text("[qpu.lab]\nbackend = 'acme'\nnum_qubits = 3\n")
    assert run(installed, "-c", CALL, HYBRIDFLOW_SITE=str(site)) == "{'11': 50} acme\n"

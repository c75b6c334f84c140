"""The short workflows from end to end, at their smallest: against the exact results, repeatable."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from qiskit import QuantumCircuit
from qiskit.quantum_info import Operator

from hybridflow.cli import main
from hybridflow.errors import InputError
from hybridflow.events import Iteration, RunEnded, RunStarted, read_events
from hybridflow_workflows.cutting import CuttingParameters, run_cutting
from hybridflow_workflows.ising import evolved_magnetization, ground_energy, hamiltonian, quench
from hybridflow_workflows.running import Place
from hybridflow_workflows.sweep import SweepParameters, run_sweep
from hybridflow_workflows.vqe import VQEParameters, hydrogen, run_vqe
from hybridflow_workflows.zne import ZNEParameters, extrapolated, folded, run_zne

SITE = str(Path(__file__).parent.parent / "configs" / "laptop.toml")


def place(folder: Path, resource: str = "ideal", engine: str = "local") -> Place:
    return Place(
        site=SITE, engine=engine, workers=1, resource=resource, output=str(folder / engine)
    )


# --- what is compared with -----------------------------------------------------------------------


def test_ground_energies() -> None:
    """Four spins at the critical field, from the free-fermion solution; two by hand."""
    modes = [2 * np.sin(np.pi * (2 * k + 1) / (2 * (2 * 4 + 1))) for k in range(4)]
    assert ground_energy(hamiltonian(4, 1.0)) == pytest.approx(-sum(modes))
    assert ground_energy(hamiltonian(2, 1.0)) == pytest.approx(-np.sqrt(5))


def test_the_hydrogen_molecule_is_pyscfs() -> None:
    from pyscf import fci, gto, scf

    molecule = gto.M(atom="H 0 0 0; H 0 0 0.735", basis="sto-3g", verbose=0)
    exact = fci.FCI(scf.RHF(molecule).run()).kernel()[0]
    assert ground_energy(hydrogen()) == pytest.approx(exact, abs=1e-6)


def test_a_quench_comes_near_the_exact_evolution() -> None:
    state = Operator(quench(3, 400, 0.5, 0.7)).data[:, 0]
    z = [3 - 2 * bin(index).count("1") for index in range(8)]
    measured = float(np.abs(state) ** 2 @ np.array(z)) / 3
    assert measured == pytest.approx(evolved_magnetization(3, 0.5, 0.7), abs=1e-3)


def test_a_folded_circuit_does_the_same_with_more_gates() -> None:
    circuit: QuantumCircuit = quench(2, 1, 0.3, 0.5)
    longer = folded(circuit, 5)
    assert Operator(longer).equiv(Operator(circuit))
    gates, before = longer.count_ops(), circuit.count_ops()
    assert all(gates[name] == 5 * count for name, count in before.items())


@pytest.mark.parametrize(
    ("fit", "values"),
    [
        ("linear", [0.8, 0.6, 0.4]),
        ("richardson", [0.9 - 0.1 + 0.01, 0.9 - 0.3 + 0.09, 0.9 - 0.5 + 0.25]),
        ("exponential", [0.9 * 0.8**scale for scale in (1, 3, 5)]),
        ("exponential", [0.8, 0.3, -0.2]),
    ],
)
def test_extrapolation(fit: str, values: list[float]) -> None:
    expected = 1.05 if values[-1] < 0 else 0.9
    assert extrapolated((1, 3, 5), values, fit) == pytest.approx(expected)


# --- whole runs ----------------------------------------------------------------------------------


def test_vqe_finds_hydrogens_energy(tmp_path: Path) -> None:
    outcome = run_vqe(VQEParameters(), place(tmp_path))
    assert abs(outcome.error) < 1e-5
    written = json.loads((tmp_path / "local" / "result.json").read_text())
    assert written["finding"]["value"] == outcome.finding.value
    assert written["vendor_jobs"] == len(written["vendor_job_ids"]) > 5
    events = read_events(tmp_path / "local")
    assert [event.workflow for event in events if isinstance(event, RunStarted)] == ["vqe"]
    assert [event.error for event in events if isinstance(event, RunEnded)] == [""]
    rounds = [event for event in events if isinstance(event, Iteration)]
    assert len(rounds) == len(outcome.finding.details["history"])
    assert rounds[-1].values["error_millihartree"] < 0.1
    page = (tmp_path / "local" / "report.html").read_text()
    assert f"exact: {outcome.finding.exact:.6f} Ha" in page


def test_vqe_is_the_same_on_parsl(tmp_path: Path) -> None:
    asked = VQEParameters(evaluations=3, precision=0.05)
    there, here = (run_vqe(asked, place(tmp_path, "ideal", name)) for name in ("parsl", "local"))
    assert there.finding == here.finding


def test_vqe_stops_after_its_evaluations(tmp_path: Path) -> None:
    asked = VQEParameters(
        model="ising", qubits=2, optimizer="cobyla", evaluations=5, precision=0.05
    )
    outcome = run_vqe(asked, place(tmp_path))
    assert len(outcome.finding.details["history"]) == outcome.requests == 5


def test_ctrl_c_ends_the_optimizer_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in a thread, which no engine can end: to its end it would take many minutes."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hybridflow.progress.Phase.watch", interrupt)
    asked = VQEParameters(
        model="ising", layers=3, optimizer="cobyla", evaluations=10**6, precision=1e-3
    )
    with pytest.raises(KeyboardInterrupt):
        run_vqe(asked, place(tmp_path))
    ended = [each for each in read_events(tmp_path / "local") if isinstance(each, RunEnded)]
    assert [each.error for each in ended] == ["KeyboardInterrupt: "]


def test_a_sweep_becomes_few_pubs(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text('[qpu.slow]\nbackend = "aer"\nseconds_per_job = 0.5\n')
    asked = SweepParameters(points=8, tasks=2)
    outcome = run_sweep(asked, Place(site=str(site), workers=1, output=str(tmp_path / "run")))
    measured = np.array(outcome.finding.details["magnetizations"])
    exact = np.array(outcome.finding.details["exact_magnetizations"])
    assert measured[0] == exact[0] == 1.0
    assert np.abs(measured - exact).max() < 0.08
    # What came first may have gone out alone; the rest came while that ran.
    assert outcome.requests == 8
    assert outcome.pubs == outcome.vendor_jobs < 8


def test_zne_takes_most_of_the_gates_noise_away(tmp_path: Path) -> None:
    outcome = run_zne(ZNEParameters(), place(tmp_path, "device"))
    first, *_, last = outcome.finding.details["values"]
    assert last < first < outcome.finding.value < outcome.finding.exact
    assert abs(outcome.error) < 0.7 * abs(first - outcome.finding.exact)


def test_cutting_is_the_same_on_dask(tmp_path: Path) -> None:
    asked = CuttingParameters(qubits=4, steps=1)
    there, here = (run_cutting(asked, place(tmp_path, "ideal", name)) for name in ("dask", "local"))
    assert there.finding.value == here.finding.value
    assert abs(here.error) < 0.05
    assert here.finding.details == {"cuts": 1, "subexperiments": 12}


def test_the_command_prints_the_result_beside_the_exact_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = f"run sweep --site {SITE} --resource ideal --qubits 2 --points 2 --tasks 1"
    outcome = CliRunner().invoke(
        main, [*arguments.split(), "--workers=1", f"--output={folder}"], catch_exceptions=False
    )
    assert outcome.exit_code == 0
    shown = dict(line.split("  ", maxsplit=1) for line in outcome.stdout.splitlines())
    assert float(shown["exact"]) == pytest.approx(evolved_magnetization(2, 0.6, 2.0), abs=1e-6)
    assert "(2 requests as" in shown["vendor jobs"]
    assert str(folder / "result.json") in outcome.stdout
    again = CliRunner().invoke(main, [*arguments.split(), f"--output={folder}"])
    assert again.exit_code == 2
    assert "is there and not empty" in again.stderr


@pytest.mark.parametrize(
    ("run", "asked", "message"),
    [
        (run_vqe, VQEParameters(model="he"), "--model must be one of h2, ising"),
        (run_vqe, VQEParameters(qubits=99), "--qubits must be between 2 and 16"),
        (
            run_vqe,
            VQEParameters(precision=float("nan")),
            "--precision must be at least 0 and finite, not nan",
        ),
        (run_vqe, VQEParameters(seed=-1), "--seed must be at least 0, not -1"),
        (
            run_zne,
            ZNEParameters(time=float("inf")),
            "--time must be at least 0 and finite, not inf",
        ),
        (run_sweep, SweepParameters(points=1), "--points must be at least 2"),
        (run_zne, ZNEParameters(scales=(1, 2)), "different odd numbers, like 1,3,5; not 1,2"),
        (run_zne, ZNEParameters(shots=0), "--shots must be at least 1"),
        (run_cutting, CuttingParameters(steps=4), "--steps must be at most 3"),
    ],
)
def test_what_is_not_possible_is_refused(
    run: Any, asked: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run(asked, place(tmp_path))
    assert not (tmp_path / "local").exists()

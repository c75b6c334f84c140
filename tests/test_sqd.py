"""SQD from end to end, on real backends and engines; its solver against the addon's own."""

import functools
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyscf
import pytest
from click.testing import CliRunner

from hybridflow import environment
from hybridflow.classical import ClassicalPool
from hybridflow.cli import main
from hybridflow.errors import InputError
from hybridflow.events import Iteration, PhaseEnded, RunEnded, RunStarted, read_events
from hybridflow.progress import Display
from hybridflow_workflows.sqd import SQDParameters, SQDResult, make_sci_solver, run_sqd
from hybridflow_workflows.sqd.addon import addon
from hybridflow_workflows.sqd.molecule import Integrals, check, compute_integrals
from hybridflow_workflows.sqd.policy import FillingPolicy, single_excitations
from hybridflow_workflows.sqd.reference import exact_energy
from hybridflow_workflows.sqd.sampling import count_valid
from hybridflow_workflows.sqd.solver import load_integrals, store_integrals

SITE = Path(__file__).parent.parent / "configs" / "laptop.toml"
SMALL = SQDParameters(molecule="h2o", bond=0.9572, basis="sto-3g", shots=2000)
EXACT_H2O, EXACT_N2 = -75.01232550, -107.54896650


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads of a busy machine wait for one another; and one thread adds up in one order."""
    before = pyscf.lib.num_threads()
    pyscf.lib.num_threads(1)
    yield
    pyscf.lib.num_threads(before)


@pytest.fixture(scope="module")
def nitrogen() -> Integrals:
    return compute_integrals(check(SQDParameters(molecule="n2", basis="sto-3g", bond=2.0)))


@pytest.fixture(scope="module")
def processes() -> Iterator[ClassicalPool]:
    with ClassicalPool(2) as pool:
        yield pool


def _diagonalize(integrals: Integrals, **options: Any) -> list[Any]:
    samples = np.random.default_rng(5).integers(2, size=(3000, 16), dtype=bool)
    rounds: list[Any] = []
    addon("fermion").diagonalize_fermionic_hamiltonian(
        integrals.one_body,
        integrals.two_body,
        samples,
        samples_per_batch=20,
        norb=8,
        nelec=integrals.electrons,
        num_batches=2,
        max_iterations=4,
        callback=rounds.append,
        seed=11,
        **options,
    )
    return rounds


@pytest.mark.parametrize(
    ("symmetrize_spin", "spin_sq", "max_dim"),
    [(True, 0.0, 25), (True, 0.0, None), (False, None, 25), (False, 0.0, None)],
)
def test_lean_solver_gives_the_energies_of_the_serial_one(
    nitrogen: Integrals,
    processes: ClassicalPool,
    symmetrize_spin: bool,
    spin_sq: float | None,
    max_dim: int | None,
) -> None:
    loop = functools.partial(
        _diagonalize, nitrogen, symmetrize_spin=symmetrize_spin, max_dim=max_dim
    )
    serial = loop(
        sci_solver=functools.partial(addon("fermion").solve_sci_batch, spin_sq=spin_sq),
    )
    solver = make_sci_solver(processes, symmetrize_spin=symmetrize_spin, spin_sq=spin_sq)
    lean = loop(sci_solver=solver)
    assert len(lean) == len(serial) > 1
    for ours, theirs in zip(itertools.chain(*lean), itertools.chain(*serial), strict=True):
        assert ours.energy == pytest.approx(theirs.energy, abs=1e-10)
        np.testing.assert_allclose(ours.orbital_occupancies, theirs.orbital_occupancies, atol=1e-6)
        np.testing.assert_allclose(ours.rdm1, theirs.rdm1, atol=1e-6)


def test_lean_results_are_small(nitrogen: Integrals) -> None:
    with ThreadPoolExecutor(1) as pool:
        (result, *_), *_ = _diagonalize(nitrogen, sci_solver=make_sci_solver(pool))
    assert result.sci_state is None
    assert result.rdm2 is None
    assert all(len(strings) for strings in result.carryover)
    assert len(pickle.dumps(result)) < 10_000


def test_integrals_are_written_once_and_removed_with_the_solver(nitrogen: Integrals) -> None:
    with ThreadPoolExecutor(2) as pool:
        solver = make_sci_solver(pool)
        folder = solver.folder
        _diagonalize(nitrogen, sci_solver=solver)
        assert len(list(folder.iterdir())) == 1
        del solver
        assert not folder.exists()


def test_integrals_are_read_once_by_a_process(nitrogen: Integrals, tmp_path: Path) -> None:
    file = store_integrals(tmp_path, nitrogen.one_body, nitrogen.two_body)
    written = file.stat().st_mtime_ns
    assert store_integrals(tmp_path, nitrogen.one_body, nitrogen.two_body) == file
    assert file.stat().st_mtime_ns == written
    first = load_integrals(str(file))
    assert load_integrals(str(file)) is first
    np.testing.assert_array_equal(first[1], nitrogen.two_body)


class _Failing(ThreadPoolExecutor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(_fail)


def _fail() -> None:
    raise ArithmeticError("no ground state today")


def test_failure_of_a_subspace_is_raised(nitrogen: Integrals) -> None:
    with _Failing(1) as pool, pytest.raises(ArithmeticError, match="no ground state today"):
        _diagonalize(nitrogen, sci_solver=make_sci_solver(pool))


def test_addon_does_not_become_an_mpi_rank() -> None:
    # What a Slurm job sets made the package initialize MPI when it was imported.
    program = """if True:
        import os, sys, types
        class Trap(types.ModuleType):
            def __getattr__(self, name):
                raise AssertionError("MPI was initialized")
        sys.modules["mpi4py"] = Trap("mpi4py")
        from hybridflow_workflows.sqd.addon import addon
        assert not addon("processes").is_mpi_execution()
        assert os.environ["SLURM_NTASKS"] == "4"
    """
    subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"SLURM_NTASKS": "4"},
        check=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("asked", "exact"),
    [
        (SQDParameters(molecule="h2o", bond=0.9572, basis="sto-3g"), EXACT_H2O),
        (SQDParameters(molecule="n2", bond=1.0, basis="sto-3g"), EXACT_N2),
        (SQDParameters(molecule="n2", bond=1.0, active_space="6e,6o"), -108.89523607),
        (SQDParameters(), -75.86885075),
    ],
)
def test_exact_energies(asked: SQDParameters, exact: float) -> None:
    assert exact_energy(compute_integrals(check(asked))) == pytest.approx(exact, abs=2e-8)


def test_no_exact_energy_where_the_space_is_too_large(
    nitrogen: Integrals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridflow_workflows.sqd.reference.LARGEST_DIMENSION", 3135)
    assert exact_energy(nitrogen) is None


def test_single_excitations_move_one_electron() -> None:
    moved = single_excitations(np.array([0b0011, 0b0101]), 4).tolist()
    assert sorted(moved[:4]) == [0b0101, 0b0110, 0b1001, 0b1010]
    assert sorted(moved[4:]) == [0b0011, 0b0110, 0b1001, 0b1100]


def test_filling_stops_at_the_size_of_a_batch() -> None:
    fermion = addon("fermion")
    carried = np.array([0b0011], dtype=np.int64)
    request = fermion.SubspaceRequest(
        bitstrings=np.array([[0, 0, 1, 1, 0, 0, 1, 1]], dtype=bool),
        probabilities=np.ones(1),
        carryover_strings_a=carried,
        carryover_strings_b=carried,
        norb=4,
        nelec=(2, 2),
        samples_per_batch=3,
        num_batches=1,
        rng=np.random.default_rng(1),
        iteration=1,
        symmetrize_spin=True,
    )
    policy = FillingPolicy(1e-4)
    ((alpha, beta),) = policy.prepare_subspaces(request)
    assert set(alpha.tolist()) == set(beta.tolist())
    assert len(set(alpha.tolist())) == 3


def test_samples_without_the_right_electrons() -> None:
    with pytest.raises(InputError, match="none of the 5 samples has 2 electrons"):
        count_valid(np.ones((5, 8), dtype=bool), (2, 2))
    assert count_valid(np.array([[0, 1, 1, 0, 1, 0, 0, 1]], dtype=bool), (2, 2)) == 1


# --- whole runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def water(tmp_path_factory: pytest.TempPathFactory) -> tuple[SQDResult, Path, list[Any]]:
    """A run of the small case with its control, its folder, and what its callback was told."""
    folder = tmp_path_factory.mktemp("water") / "run"
    told: list[Any] = []
    asked = SQDParameters(**_fields(SMALL) | {"control": True})
    result = run_sqd(
        asked, site=SITE, engine="local", workers=2, output=folder, callback=told.append
    )
    return result, folder, told


def _fields(parameters: SQDParameters) -> dict[str, Any]:
    return {name: getattr(parameters, name) for name in parameters.__struct_fields__}


def test_water_is_exact(water: tuple[SQDResult, Path, list[Any]]) -> None:
    result, _, _ = water
    assert result.reference_hartree == pytest.approx(EXACT_H2O, abs=2e-8)
    assert abs(result.energy_hartree - EXACT_H2O) < 1e-6
    assert abs(result.error_millihartree or 0.0) < 1e-3
    assert result.hartree_fock_hartree == pytest.approx(-74.96292825, abs=2e-8)
    assert result.ccsd_hartree == pytest.approx(-75.01220892, abs=1e-6)


def test_result_says_where_it_came_from(water: tuple[SQDResult, Path, list[Any]]) -> None:
    result, folder, told = water
    written = json.loads((folder / "result.json").read_text())
    assert written["energy_hartree"] == result.energy_hartree
    assert (written["resource"], written["engine"], written["seed"]) == ("aer", "local", 7)
    assert (written["shots"], written["vendor_jobs"]) == (2000, 1)
    assert written["qpu_seconds"] > 0
    assert written["provenance"]["samples"]["simulator"] is True
    assert [entry["number"] for entry in written["iterations"]] == [r.number for r in told]
    assert written["iterations"][-1]["dimensions"] == [225, 225]
    assert written["control"]["max_dim"] == 100
    for name in ("seeds", "ansatz_error_millihartree", "uniform_error_millihartree"):
        assert len(written["control"][name]) == 3


def test_run_is_recorded(water: tuple[SQDResult, Path, list[Any]]) -> None:
    _, folder, told = water
    events = read_events(folder)
    assert [event.workflow for event in events if isinstance(event, RunStarted)] == ["sqd"]
    assert [event.error for event in events if isinstance(event, RunEnded)] == [""]
    phases = [event.phase for event in events if isinstance(event, PhaseEnded)]
    assert phases == [
        "integrals", "ansatz", "transpile", "sample", "reference", "diagonalize", "control",
    ]  # fmt: skip
    assert len([event for event in events if isinstance(event, Iteration)]) == len(told)
    assert (folder / "report.html").stat().st_size > 10_000
    assert np.load(folder / "samples.npy").shape == (2000, 2)


def test_a_run_leaves_the_environment_as_it_was(
    water: tuple[SQDResult, Path, list[Any]],
) -> None:
    assert environment.RUN not in os.environ
    assert environment.SITE not in os.environ


def test_nitrogen_is_exact(tmp_path: Path) -> None:
    asked = SQDParameters(molecule="n2", bond=1.0, basis="sto-3g", shots=5000)
    result = run_sqd(asked, site=SITE, engine="local", workers=2, output=tmp_path / "run")
    assert abs(result.energy_hartree - EXACT_N2) < 1e-6


def test_few_samples_are_filled_up_if_asked_for(tmp_path: Path) -> None:
    """Without noise the ansatz gives a few configurations over and over."""
    asked = SQDParameters(**_fields(SMALL) | {"fill": True, "resource": "ideal"})
    result = run_sqd(asked, site=SITE, engine="local", workers=1, output=tmp_path / "run")
    assert result.resource == "ideal"
    assert result.distinct_samples < 225
    assert abs(result.energy_hartree - EXACT_H2O) < 1e-6


def test_parsl_gives_the_same_energies(
    water: tuple[SQDResult, Path, list[Any]], tmp_path: Path
) -> None:
    local, _, _ = water
    result = run_sqd(SMALL, site=SITE, engine="parsl", workers=2, output=tmp_path / "run")
    assert result.engine == "parsl"
    assert len(result.iterations) == len(local.iterations)
    for ours, theirs in zip(result.iterations, local.iterations, strict=True):
        assert ours.energy_hartree == pytest.approx(theirs.energy_hartree, abs=1e-10)
        assert ours.dimensions == theirs.dimensions


def test_noisy_resource_of_a_site_file_through_the_command(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        '[qpu.ideal]\nbackend = "aer"\n[qpu.noisy]\nbackend = "aer"\ndepolarizing = 0.2\n'
    )
    arguments = "run sqd --molecule h4 --basis sto-3g --engine local --workers 1 --shots 1000"
    folder = tmp_path / "run"
    outcome = CliRunner().invoke(
        main,
        [*arguments.split(), "--resource=noisy", f"--site={site}", f"--output={folder}"],
        catch_exceptions=False,
    )
    assert outcome.exit_code == 0
    shown = dict(line.split(maxsplit=1) for line in outcome.stdout.replace("QPU ", "").splitlines())
    assert shown["energy"].endswith(" Ha")
    assert shown["error"] == "0.000 mHa"
    assert shown["vendor"].endswith("1 on noisy")
    assert float(shown["seconds"]) > 0
    assert str(folder / "report.html") in outcome.stdout
    written = json.loads((folder / "result.json").read_text())
    assert written["resource"] == "noisy"
    assert 0 < written["valid_shots"] < 1000
    assert abs(written["error_millihartree"]) < 1e-3


def test_ctrl_c_ends_the_run_and_is_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def interrupt(_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_sqd(
            SMALL,
            site=SITE,
            engine="local",
            workers=1,
            output=folder,
            callback=interrupt,
        )
    ended = [event for event in read_events(folder) if isinstance(event, RunEnded)]
    assert [event.error.partition(":")[0] for event in ended] == ["KeyboardInterrupt"]
    assert (folder / "samples.npy").exists()
    assert (folder / "report.html").exists()
    assert not (folder / "result.json").exists()


def test_a_late_failure_keeps_the_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("the control broke down")

    monkeypatch.setattr("hybridflow_workflows.sqd.control.ControlRuns.result", fail)
    asked = SQDParameters(**_fields(SMALL) | {"control": True})
    with pytest.raises(ArithmeticError, match="the control broke down"):
        run_sqd(asked, site=SITE, engine="local", workers=1, output=tmp_path / "run")
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["control"] is None
    assert abs(written["energy_hartree"] - EXACT_H2O) < 1e-6


def test_a_report_that_fails_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise ArithmeticError("the page broke down")

    monkeypatch.setattr("hybridflow_workflows.folder.write_report", fail)
    asked = SQDParameters(molecule="h2", basis="sto-3g", shots=200)
    with Display() as display:
        result = run_sqd(
            asked, site=SITE, engine="local", workers=1, output=tmp_path / "run", display=display
        )
    assert abs(result.error_millihartree or 0.0) < 1e-3
    assert (tmp_path / "run" / "result.json").exists()
    assert "no report was written: ArithmeticError: the page broke down" in capfd.readouterr().err

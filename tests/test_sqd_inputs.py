"""What SQD refuses, and that it says why, before anything is started."""

import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybridflow.cli import main
from hybridflow.errors import InputError, MissingExtraError, SiteError, UserError
from hybridflow_workflows.sqd import SQDParameters, run_sqd
from hybridflow_workflows.sqd.command import command
from hybridflow_workflows.sqd.geometry import named_geometry, read_xyz
from hybridflow_workflows.sqd.molecule import check

WATER = """3
water
O 0.0 0.0 0.0
H 0.9572 0.0 0.0
h -0.24 0.93 0.0
"""


@pytest.fixture
def xyz(tmp_path: Path) -> Path:
    file = tmp_path / "water.xyz"
    file.write_text(WATER)
    return file


def test_named_water_has_the_bonds_and_the_angle_asked_for() -> None:
    (_, oxygen), (_, first), (_, second) = named_geometry("H2O", bond=1.5, angle=100.0)
    assert math.dist(oxygen, first) == pytest.approx(1.5)
    assert math.dist(oxygen, second) == pytest.approx(1.5)
    cosine = sum(a * b for a, b in zip(first, second, strict=True)) / 1.5**2
    assert math.degrees(math.acos(cosine)) == pytest.approx(100.0)


def test_xyz_file_is_read(xyz: Path) -> None:
    assert read_xyz(xyz) == (
        ("O", (0.0, 0.0, 0.0)),
        ("H", (0.9572, 0.0, 0.0)),
        ("H", (-0.24, 0.93, 0.0)),
    )


def test_default_is_stretched_water_with_a_frozen_core() -> None:
    molecule = check(SQDParameters())
    assert (molecule.core, molecule.electrons, molecule.orbitals) == (1, 8, 12)
    assert molecule.qubits == 24
    assert molecule.dimension == 245025


def test_active_space_of_a_file(xyz: Path) -> None:
    asked = SQDParameters(geometry=str(xyz), basis="6-31g", active_space="6E, 5o")
    molecule = check(asked)
    assert (molecule.core, molecule.electrons, molecule.orbitals) == (2, 6, 5)


@pytest.mark.parametrize("name", ["beh2", "h2", "h2o", "h4", "lih", "n2"])
def test_every_named_molecule_has_an_active_space_in_a_minimal_basis(name: str) -> None:
    molecule = check(SQDParameters(molecule=name, basis="sto-3g"))
    assert 2 <= molecule.electrons < 2 * molecule.orbitals


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("shots", 0, "--shots must be at least 1, not 0"),
        ("shots", -5, "--shots must be at least 1, not -5"),
        ("batches", 0, "--batches"),
        ("samples_per_batch", 0, "--samples-per-batch"),
        ("iterations", 0, "--iterations"),
        ("repetitions", 0, "--repetitions"),
        ("max_dim", 0, "--max-dim"),
        ("seed", -1, "--seed"),
        ("control_seeds", 2, "--control-seeds must be at least 3"),
        ("control_max_dim", 0, "--control-max-dim"),
        ("bond", 0.0, "--bond must be between"),
        ("bond", -1.0, "--bond must be between"),
        ("bond", math.nan, "--bond must be between"),
        ("angle", 181.0, "--angle must be between"),
    ],
)
def test_numbers_out_of_range(field: str, value: float, says: str) -> None:
    with pytest.raises(InputError, match=says):
        SQDParameters(**{field: value})


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"molecule": "unobtainium"}, "unknown molecule 'unobtainium'; known are: beh2, h2"),
        ({"molecule": "n2", "angle": 90.0}, "linear"),
        ({"basis": "no-such-basis"}, "no basis set 'no-such-basis'"),
        ({"basis": " "}, "no basis set"),
        ({"basis": "6-31g@3s2p"}, "no basis set '6-31g@3s2p' for H"),
        ({"charge": 1}, "9 electrons.*--charge"),
        ({"charge": 10}, "0 electrons"),
        ({"active_space": "7e,6o"}, "number of electrons must be even.*try 8e"),
        ({"active_space": "0e,6o"}, "number of electrons must be even and at least 2"),
        ({"active_space": "12e,12o"}, "has only 10 electrons"),
        ({"active_space": "8e,13o"}, "larger than the basis.*at most 12"),
        ({"active_space": "8e,4o"}, "nothing to correlate"),
        ({"active_space": "8e,0o"}, "nothing to correlate"),
        ({"active_space": "8,6"}, "is not understood; write .* like 10e,8o"),
        ({"active_space": ""}, "is not understood"),
    ],
)
def test_impossible_molecules(parameters: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        check(SQDParameters(**parameters))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: an xyz file starts with its number of atoms"),
        ("three\n\n", "line 1: an xyz file starts"),
        ("2\n\nO 0 0 0\n", "announces 2 atoms, but there are 1"),
        ("0\n\n", "announces 0 atoms"),
        ("1\n\nO 0 0\n", "line 3: 'O 0 0' is no atom"),
        ("1\n\nO 0 0 zero\n", "line 3: .* is no atom"),
        ("1\n\nO 0 0 inf\n", "line 3: .* is no atom"),
        ("1\n\n8 0 0 0\n", "line 3: .* is no atom"),
        ("1\n\nQq 0 0 0\n", "no element 'Qq'"),
        ("2\n\nO 0 0 0\nO 0 0 0.01\n", "atoms 1 and 2 stand in the same place"),
        ("\udcff".encode("utf-8", "surrogateescape"), "it is no text file"),
    ],
)
def test_unreadable_xyz(tmp_path: Path, text: str | bytes, says: str) -> None:
    file = tmp_path / "bad.xyz"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=says):
        check(SQDParameters(geometry=str(file)))


def test_missing_xyz_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.xyz cannot be read: No such file"):
        check(SQDParameters(geometry=str(tmp_path / "no.xyz")))


def test_a_file_and_a_name_exclude_each_other(xyz: Path) -> None:
    with pytest.raises(InputError, match="leave out --molecule, --bond"):
        SQDParameters(geometry=str(xyz), molecule="h2o", bond=1.0)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"engine": "steam"}, InputError, "engine 'steam'.*local"),
        ({"site": "no-site.toml"}, SiteError, "no-site.toml cannot be read"),
    ],
)
def test_wrong_surroundings_start_nothing(
    tmp_path: Path, options: dict[str, str], error: type[UserError], says: str
) -> None:
    output = tmp_path / "run"
    with pytest.raises(error, match=says):
        run_sqd(SQDParameters(), output=output, **options)
    assert not output.exists()


def test_unknown_resource_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="no resource 'ibm'"):
        run_sqd(SQDParameters(resource="ibm"), engine="local", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridflow_workflows.sqd.addon._EXTRA", ("pyscf", "no_such_package"))
    with pytest.raises(MissingExtraError, match=r"\(no_such_package\): pip install"):
        run_sqd(SQDParameters(), engine="local", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_overwrite_another(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(InputError, match=r"not empty.*--output"):
        run_sqd(SQDParameters(), engine="local", output=tmp_path)
    assert (tmp_path / "result.json").read_text() == "{}"


def test_output_may_not_be_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        run_sqd(SQDParameters(), engine="local", output=tmp_path / "file" / "run")


def test_command_has_the_defaults_of_the_parameters() -> None:
    context = command.make_context("sqd", [])
    asked = {name: context.params[name] for name in SQDParameters.__struct_fields__}
    assert SQDParameters(**asked) == SQDParameters()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--molecule", "unobtainium"], "error: unknown molecule"),
        (["--shots", "0"], "error: --shots must be at least 1"),
        (["--active-space", "7e,6o"], "must be even"),
        (["--engine", "steam"], "engine 'steam'"),
        (["--workers", "two"], "Invalid value for '--workers'"),
    ],
)
def test_command_exits_with_2_and_one_clear_line(arguments: list[str], says: str) -> None:
    outcome = CliRunner().invoke(main, ["run", "sqd", *arguments])
    assert outcome.exit_code == 2
    assert says in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_run_lists_workflows_without_importing_what_they_need() -> None:
    program = inspect.cleandoc("""
        import json, sys
        from click.testing import CliRunner
        from hybridflow.cli import main
        outcome = CliRunner().invoke(main, ["run", "--help"])
        heavy = {"qiskit", "pyscf", "ffsim", "jax", "numpy", "parsl"} & set(sys.modules)
        print(json.dumps([outcome.output, sorted(heavy)]))
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    shown, heavy = json.loads(done.stdout)
    assert "sqd" in shown
    assert heavy == []


def test_unknown_workflow() -> None:
    outcome = CliRunner().invoke(main, ["run", "no-such"])
    assert outcome.exit_code == 2
    assert "No such command 'no-such'" in outcome.stderr

"""``hybridflow init``: a site file that loads, with a real Slurm and without one."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hybridflow.cli import main
from hybridflow.cli.init_text import Found, site_text
from hybridflow.site import load_site
from hybridflow.slurm import qpu_states
from hybridflow.slurm.cluster import SlurmCluster
from hybridflow.slurm.survey import Partition, SlurmQpu, Survey


def init(*arguments: object, status: int = 0) -> Result:
    done = CliRunner().invoke(main, ["init", *map(str, arguments)])
    assert done.exit_code == status, done.output
    return done


def found(
    *qpus: SlurmQpu, types: dict[str, str] | None = None, plugin: bool = False, filter: bool = False
) -> Found:
    slurm = Survey(
        version="23.11",
        partitions=(
            Partition(name="all", nodes="n[1-9]", size=9, limit="UNLIMITED", default=True),
            Partition(name="quantum", nodes="n9", size=1, limit="1:00:00", default=False),
        ),
        qpus=qpus,
        plugin=plugin,
        cli_filter=filter,
    )
    return Found(cores=4, slurm=slurm, types=types or {}, backend=None)


def loaded(tmp_path: Path, what: Found) -> str:
    file = tmp_path / "made.toml"
    file.write_text(site_text(what))
    load_site(file)
    return file.read_text()


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert "Slurm: none here" in init().output
    site = load_site("site.toml")
    assert (site.default, site.slurm) == ("simulator", None)
    assert [path.name for path in tmp_path.iterdir()] == ["site.toml"]


def test_nothing_is_overwritten_without_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "mine.toml"
    file.write_text("precious")
    assert "--force" in init(file, status=2).output
    assert file.read_text() == "precious"
    init(file, "--force")
    assert load_site(file).default == "simulator"


def test_wrong_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no backend 'qqq'" in init(tmp_path / "a.toml", "--backend=qqq", status=2).output
    assert "cannot be written" in init(tmp_path / "no" / "a.toml", status=2).output
    config = tmp_path / "qrmi_config.json"
    wanted = (tmp_path / "a.toml", f"--qrmi-config={config}")
    assert "cannot be read" in init(*wanted, status=2).output
    config.write_text('{"resources": [{"environment": {"KEY": "s3cret"}}]}')
    assert "s3cret" not in init(*wanted, status=2).output
    config.write_text('{"KEY": s3cret}')
    assert "s3cret" not in init(*wanted, status=2).output
    assert not (tmp_path / "a.toml").exists()


def test_qpus_of_an_unknown_type_are_not_simulated(tmp_path: Path) -> None:
    heron = SlurmQpu(name="heron", source="gres", slots=1, partitions=("quantum",))
    text = loaded(tmp_path, found(heron, types={"heron": "pasqal\nevil = 1"}))
    assert '# [qpu.heron]\n# backend = "…"' in text
    assert "evil" not in text
    site = load_site(tmp_path / "made.toml")
    assert list(site.resources) == ["simulator"]
    assert site.slurm is not None
    assert site.slurm.quantum.partition == "quantum"
    assert site.slurm.classical.partition == "all"


def test_what_the_qrmi_wheel_knows_is_driven_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heron = SlurmQpu(name="heron", source="gres", slots=1, partitions=("quantum",))
    twin = SlurmQpu(name="heron", source="license", slots=5)
    assert 'type = "ibm-quantum-system"' in loaded(
        tmp_path, found(heron, twin, types={"heron": "ibm-quantum-system"})
    )
    site = load_site(tmp_path / "made.toml")
    assert (site.default, site.resource("heron").backend) == ("heron", "qrmi")
    monkeypatch.setenv("PATH", str(tmp_path))  # without Slurm, the file's definitions are used
    config = tmp_path / "qrmi_config.json"
    entry = {"name": "eagle", "type": "ibm-quantum-compute-service", "environment": {"K": "s3cret"}}
    config.write_text(json.dumps({"resources": [entry]}))
    shown = init(tmp_path / "own.toml", f"--qrmi-config={config}").output
    assert f"QPU: eagle, defined in {config}, qrmi" in shown
    eagle = load_site(tmp_path / "own.toml").resource()
    assert (eagle.name, eagle.options["config"]) == ("eagle", str(config))
    assert "s3cret" not in (tmp_path / "own.toml").read_text()


@pytest.mark.parametrize(
    ("plugin", "filter", "qpu", "gres"),
    [
        (False, False, False, "qpu:a.b:1"),
        (True, False, True, "qpu:a.b:1"),
        (True, True, True, None),
    ],
)
def test_how_slots_are_asked_for(
    plugin: bool, filter: bool, qpu: bool, gres: str | None, tmp_path: Path
) -> None:
    one = SlurmQpu(name="a.b", source="gres", slots=2, partitions=("quantum",))
    loaded(tmp_path, found(one, types={"a.b": "aer"}, plugin=plugin, filter=filter))
    site = load_site(tmp_path / "made.toml")
    assert site.default == "a.b"
    assert site.slurm is not None
    wanted = site.slurm.for_quantum("a.b")
    assert wanted.qpu == (("a.b",) if qpu else ())
    assert wanted.gres == ((gres,) if gres else ())


def test_licences_may_be_qpus(tmp_path: Path) -> None:
    licences = [SlurmQpu(name=name, source="license", slots=2) for name in ("cloud", "matlab")]
    text = loaded(tmp_path, found(*licences, types={"cloud": "fake"}))
    site = load_site(tmp_path / "made.toml")
    assert site.default == "cloud"
    assert site.slurm is not None
    assert site.slurm.for_quantum("cloud").licenses == ("cloud:1",)
    assert "# [qpu.matlab]" in text


def test_on_a_cluster(on_cluster: SlurmCluster, tmp_path: Path) -> None:
    """What is written for the local cluster knows its QPUs, as `hybridflow qpus` does."""
    config = tmp_path / "qrmi_config.json"
    resources = [{"name": "cloud", "type": "aer", "environment": {"KEY": "s3cret"}}]
    config.write_text(json.dumps({"resources": resources}))
    file = tmp_path / "site.toml"
    shown = init(file, "--backend=aer", f"--qrmi-config={config}").output
    assert "QPU: aer_b, 2 slots (gres), aer" in shown
    assert "s3cret" not in file.read_text()
    site = load_site(file)
    states = {state.name: (state.source, state.slots) for state in qpu_states(site)}
    assert states["aer_a"] == ("gres", 1)
    assert states["aer_b"] == ("gres", 2)
    assert states["cloud"] == ("license", 2)
    assert site.slurm is not None
    assert site.slurm.quantum.partition == "qpu"
    assert site.slurm.classical.partition == "classical"

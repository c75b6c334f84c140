"""SQD on Dask: the energies of every other engine."""

from pathlib import Path

import pytest

from hybridflow_workflows.sqd import SQDParameters, run_sqd

SITE = Path(__file__).parent.parent / "configs" / "laptop.toml"
SMALL = SQDParameters(molecule="h2o", bond=0.9572, basis="sto-3g", shots=2000)


def test_sqd_gives_the_energies_of_the_local_engine(tmp_path: Path) -> None:
    ours, local = (
        run_sqd(SMALL, site=SITE, engine=engine, workers=2, output=tmp_path / engine)
        for engine in ("dask", "local")
    )
    assert ours.engine == "dask"
    assert ours.energy_hartree == pytest.approx(local.energy_hartree, abs=1e-10)
    for one, other in zip(ours.iterations, local.iterations, strict=True):
        assert one.energy_hartree == pytest.approx(other.energy_hartree, abs=1e-10)
    assert (tmp_path / "dask" / "report.html").exists()

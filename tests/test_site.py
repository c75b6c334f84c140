"""The site file: read, checked, explained when wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hybridflow.errors import SiteError
from hybridflow.site import Blocks, load_site

ROOT = Path(__file__).parent.parent
GOOD = """
name = "here"
default = "b"

[qpu.a]
backend = "aer"

[qpu.b]
backend = "fake"
tasks_per_slot = 3
max_in_flight = 2

[classical]
workers = 4
threads = 2
"""
SLURM = "[qpu.x]\nbackend = 'aer'\n[slurm]\n"
BLOCKS = f"{SLURM}[slurm.blocks]\nkind = "


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def writer(text: str) -> Path:
        file = tmp_path / "site.toml"
        file.write_text(text)
        return file

    return writer


def test_reads_what_it_says(write: Callable[[str], Path]) -> None:
    site = load_site(write(GOOD))
    assert (site.name, site.default, list(site.resources)) == ("here", "b", ["a", "b"])
    assert (site.resource().tasks_per_slot, site.resource().max_in_flight) == (3, 2)
    assert (site.classical.worker_count, site.classical.threads) == (4, 2)


def test_without_a_file_there_is_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYBRIDFLOW_SITE", raising=False)
    site = load_site()
    assert site.path is None
    assert site.resource().backend == "aer"
    assert site.classical.worker_count >= 1


def test_the_environment_names_the_default(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRIDFLOW_SITE", str(write(GOOD)))
    assert load_site().name == "here"


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.toml")), ids=lambda f: f.name)
def test_the_site_files_that_we_ship_are_good(file: Path) -> None:
    assert load_site(file).resources


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("qpu = [", "not valid TOML"),
        ("name = 'x'", "qpu"),
        ("[qpu]", r"no resource; add a table like \[qpu.aer\]"),
        ("[qpu.x]", "`qpu.x`.*backend"),
        ("[qpu.x]\nbackend = 'nope'", "`qpu.x.backend`.*no backend 'nope'; installed are:.*aer"),
        (
            "[qpu.x]\nbackend = 'aer'\ntask = 3",
            "unknown key `qpu.x.task`; allowed here:.*per_slot",
        ),
        ("[qpu.x]\nbackend = 'aer'\ntasks_per_slot = 'many'", "`qpu.x.tasks_per_slot`.*`int`"),
        ("[qpu.x]\nbackend = 'aer'\ntasks_per_slot = 0", "at least 1"),
        (
            "[qpu.x]\nbackend = 'aer'\nmethod = 'exact'",
            "`qpu.x.method`.*'exact'.*allowed are: 'automatic', 'statevector', 'density_matrix'",
        ),
        ("qpu = 3", "`qpu`: Expected `table`"),
        ("[qpu.x]\nbackend = 'aer'\n[classical]\nworker = 1", "`classical`.*allowed here.*workers"),
        ("[qpu.x]\nbackend = 'aer'\n[classical]\nworkers = -1", "at least 0"),
        ("[qpu.x]\nbackend = 'aer'\n[clasical]", "unknown key `clasical`.*here:.*classical"),
        ("default = 'y'\n[qpu.x]\nbackend = 'aer'", "`default` names 'y'; allowed are: x"),
        ("[qpu.'a b']\nbackend = 'aer'", "letters, digits"),
        (f"{SLURM}nodes = 2", "`slurm`.*allowed here: account, blocks, classical, modules, qos"),
        (f"{SLURM}walltime = '1h'", "`slurm`: `walltime` must be a time.*not '1h'"),
        (f'{SLURM}setup = ["a\\nb"]', "`slurm`: `setup` must be lines"),
        (f"{SLURM}[slurm.quantum]\nparts = 'x'", "`slurm.quantum`.*here: account, cpus, extra"),
        (f"{SLURM}[slurm.quantum]\npartition = 'a b'", "`slurm.quantum`.*one word.*'a b'"),
        (f"{SLURM}[slurm.quantum]\nnodes = 2", "`slurm`: `quantum.nodes` must be 1"),
        (f"{SLURM}[slurm.classical]\nextra = ['x']", "`slurm.classical`.*options of sbatch"),
        (f"{SLURM}[slurm.slots.y]", "no resource 'y'; allowed are: x"),
        (f"{SLURM}[slurm.slots.x]\nqpus = true", "unknown key.*here: gres, licenses, qpu"),
        (f"{SLURM}[slurm.slots.x]\nqpu = false", "`gres` and `licenses` must be given"),
        (f"{BLOCKS}'rigid'", "`slurm.blocks.kind`.*'rigid'.*allowed are: 'elastic', 'cosch"),
        (f"{BLOCKS}'elastic'\nidle = -1", "`slurm.blocks`: `idle` must be a number of seconds"),
        (f"{BLOCKS}'elastic'\nidle = nan", "`slurm.blocks`: `idle` must be a number of seconds"),
        (f"{BLOCKS}'elastic'\nquantum = [0, 0]", "`slurm.blocks`: `quantum` must be the least"),
        (f"{BLOCKS}'elastic'\nclassical = [2, 1]", "`classical` must be the least and the most"),
        (f"{BLOCKS}'elastic'\nquantum = 1", "`slurm.blocks.quantum`: Expected `array`"),
        (f"{BLOCKS}'coscheduled'\nquantum = [0, 2]", "`quantum`: co-scheduled blocks are one of"),
        (f"{BLOCKS}'elastic'\naddress = 'a b'", "`slurm.blocks`: `address` must be one word"),
        (f"{BLOCKS}'elastic'\nidel = 3", "`slurm.blocks`: unknown key.*here: address, classical"),
    ],
)
def test_what_is_wrong_is_explained(write: Callable[[str], Path], text: str, says: str) -> None:
    file = write(text)
    with pytest.raises(SiteError, match=says) as caught:
        load_site(file)
    assert str(file) in str(caught.value)


def test_what_jobs_ask_slurm_for(write: Callable[[str], Path]) -> None:
    """Both components have the common settings, and a slot is asked for as its table says."""
    text = """
        account = "chem"
        walltime = "10:00"
        [slurm.quantum]
        partition = "qpu"
        walltime = "5:00"
        gres = ["ssd:1"]
        [slurm.classical]
        nodes = 3
        [slurm.slots.x]
        qpu = false
        gres = "qpu:x:1"
    """
    slurm = load_site(write(SLURM + text)).slurm
    assert slurm is not None
    slot, nodes = slurm.for_quantum("x"), slurm.for_classical()
    assert (slot.partition, slot.account, slot.walltime) == ("qpu", "chem", "5:00")
    assert (slot.gres, slot.qpu, slot.nodes) == (("ssd:1", "qpu:x:1"), (), 1)
    assert (nodes.partition, nodes.account, nodes.walltime) == (None, "chem", "10:00")
    assert (nodes.nodes, slurm.for_classical(5).nodes) == (3, 5)
    assert slurm.for_quantum("other").qpu == ("other",)


def test_where_workers_come_from_outside_a_job(write: Callable[[str], Path]) -> None:
    slurm = load_site(write(f"{BLOCKS}'elastic'\nidle = 5\nclassical = [1, 4]")).slurm
    assert slurm is not None
    blocks = Blocks(kind="elastic", idle=5.0, quantum=(0, 1), classical=(1, 4))
    assert slurm.blocks == blocks
    without = load_site(write(SLURM)).slurm
    assert without is not None
    assert without.blocks is None


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="cannot be read: No such file"):
        load_site(tmp_path / "none.toml")


def test_an_unknown_resource_is_explained(write: Callable[[str], Path]) -> None:
    with pytest.raises(SiteError, match="no resource 'c'; it has: a, b"):
        load_site(write(GOOD)).resource("c")
